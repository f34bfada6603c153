"""Every rival, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

from agents.evaluate.rivals.backoff import BackOff
from agents.evaluate.rivals.base import Rival
from agents.evaluate.rivals.flurs_mf import FlursBPR, FlursMF
from agents.evaluate.rivals.neighbours import ItemKnn, Markov
from agents.evaluate.rivals.own import OwnFrequency, OwnRecency
from agents.evaluate.rivals.popularity import Popularity, RecentPopularity
from agents.evaluate.rivals.queries import QueryCounts, QueryWords
from agents.evaluate.rivals.refitted import RefittedALS, RefittedBPR, RefittedCosine
from agents.evaluate.rivals.river_mf import BiasedMF, FunkMF
from agents.evaluate.rivals.sessions import VSknn
from agents.evaluate.stream import Stream

INSTALL = ".venv/bin/pip install -e '.[evaluate]'"


@dataclass(frozen=True, slots=True)
class Entry:
    """key: in `--models`. simple: counts what it sees; our model has to beat the best of these.

    needs: what a stream must have for it. packages: that it is made of, if they are no
    dependencies.
    """

    key: str
    rival: type[Rival]
    simple: bool = True
    needs: str = ""
    packages: tuple[str, ...] = ()


FLURS = ("flurs", "sklearn")

ENTRIES: tuple[Entry, ...] = (
    Entry("popularity", Popularity),
    Entry("recent", RecentPopularity),
    Entry("markov", Markov),
    Entry("iknn", ItemKnn),
    Entry("vsknn", VSknn),
    Entry("backoff", BackOff, needs="groups"),
    Entry("own-frequency", OwnFrequency),
    Entry("own-recency", OwnRecency),
    Entry("query-counts", QueryCounts, needs="queries"),
    Entry("query-words", QueryWords, needs="queries"),
    Entry("funk", FunkMF, simple=False),
    Entry("biased", BiasedMF, simple=False),
    Entry("flurs-mf", FlursMF, simple=False, packages=FLURS),
    Entry("flurs-bpr", FlursBPR, simple=False, packages=FLURS),
    Entry("als", RefittedALS, simple=False, packages=("implicit",)),
    Entry("bpr", RefittedBPR, simple=False, packages=("implicit",)),
    Entry("cosine", RefittedCosine, simple=False, packages=("implicit",)),
)


def left_out_because(entry: Entry, stream: Stream) -> str:
    """Why an entry can't be run on this stream, and the way out; empty when it can."""
    missing = [name for name in entry.packages if find_spec(name) is None]
    if missing:
        return f"the package {missing[0]} is not installed: {INSTALL}"
    if entry.needs == "groups" and not any(
        item.category or item.brand for item in stream.items.values()
    ):
        return "the stream has no categories or brands"
    if entry.needs == "queries" and not any(stream.queries):
        return "the stream has no queries"
    return ""
