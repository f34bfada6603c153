"""Every rival, in the order of the table."""

from __future__ import annotations

from dataclasses import dataclass

from agents.evaluate.rivals.backoff import BackOff
from agents.evaluate.rivals.base import Rival
from agents.evaluate.rivals.neighbours import ItemKnn, Markov
from agents.evaluate.rivals.own import OwnFrequency, OwnRecency
from agents.evaluate.rivals.popularity import Popularity, RecentPopularity
from agents.evaluate.rivals.queries import QueryCounts, QueryWords
from agents.evaluate.rivals.sessions import VSknn
from agents.evaluate.stream import Stream


@dataclass(frozen=True, slots=True)
class Entry:
    """key: in `--models`. simple: counts what it sees; the model has to beat the best of these.

    needs: what a stream must have for it.
    """

    key: str
    rival: type[Rival]
    simple: bool = True
    needs: str = ""


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
)


def fits(entry: Entry, stream: Stream) -> str:
    """Why an entry has nothing to work with on this stream; empty when it has."""
    if entry.needs == "groups" and not any(
        item.category or item.brand for item in stream.items.values()
    ):
        return "the stream has no categories or brands"
    if entry.needs == "queries" and not any(stream.queries):
        return "the stream has no queries"
    return ""
