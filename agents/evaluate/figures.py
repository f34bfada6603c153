"""From ranks to figures: hit rates, MRR, NDCG and coverage, with standard errors and by slice."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.evaluate.protocol import Trials
from agents.evaluate.stream import Stream

READINGS = ("all", "new", "catalogue", "query")


NAMES = {"hr10": "hr@10", "hr20": "hr@20", "mrr20": "mrr@20", "ndcg10": "ndcg@10", "map5": "map@5"}
"""Fields as they are called in JSON."""


class Figures(msgspec.Struct, frozen=True, rename=NAMES):
    """Of n ranked events; se: standard error of each figure."""

    n: int
    hr10: float
    hr20: float
    mrr20: float
    ndcg10: float
    map5: float
    se: dict[str, float]


class Verdict(msgspec.Struct, frozen=True, rename=NAMES):
    """One model on one stream. The figures at the top are of the reading `all`.

    coverage: share of the items seen that were in some top 20. slices: of `all`, by name;
    catalogue_slices: the same of `catalogue`, where an item that nobody had yet can be hit; empty
    without one. readings: the figures by reading.
    """

    name: str
    about: str
    hr10: float
    hr20: float
    mrr20: float
    ndcg10: float
    se: dict[str, float]
    coverage: float
    seconds: float
    slices: dict[str, Figures]
    readings: dict[str, Figures]
    catalogue_slices: dict[str, Figures] = {}


def figures(ranks: NDArray[np.float64]) -> Figures:
    """Figures of N ranks, 1 the best and infinite a miss.

    >>> figures(np.array([1.0, 15.0, np.inf])).hr20
    0.6667
    """
    gains = {
        "hr@10": (ranks <= 10).astype(float),
        "hr@20": (ranks <= 20).astype(float),
        "mrr@20": np.where(ranks <= 20, 1 / ranks, 0.0),
        "ndcg@10": np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0.0),
        "map@5": np.where(ranks <= 5, 1 / ranks, 0.0),
    }
    n = len(ranks)
    mean = {name: round(float(gain.mean()), 4) if n else 0.0 for name, gain in gains.items()}
    se = {
        name: round(float(g.std(ddof=1) / n**0.5), 4) if n > 1 else 0.0 for name, g in gains.items()
    }
    return Figures(
        n=n, hr10=mean["hr@10"], hr20=mean["hr@20"], mrr20=mean["mrr@20"], ndcg10=mean["ndcg@10"],
        map5=mean["map@5"], se=se,
    )  # fmt: skip


def slices_of(stream: Stream, events: NDArray[np.int64]) -> dict[str, NDArray[np.bool_]]:
    """Name -> bool (N,): by what user and item had before. Slices that are empty are left out."""
    history, seen = stream.n_earlier[events], stream.item_n[events]
    slices = {
        "users with 0 events": history == 0,
        "users with 1-4": (history >= 1) & (history <= 4),
        "users with 5+": history >= 5,
        "items seen 0 times": seen == 0,
        "items seen 1-5": (seen >= 1) & (seen <= 5),
        "items seen more": seen > 5,
    }
    return {name: chosen for name, chosen in slices.items() if chosen.any()}


def verdict(
    name: str, about: str, stream: Stream, trials: Trials, seconds: float, *, catalogue: bool
) -> Verdict:
    """All figures of one run."""
    ranks = trials.ranks
    slices = slices_of(stream, trials.event)
    of_all = figures(ranks[:, 0])
    readings: dict[str, Any] = {
        "all": of_all,
        "new": figures(ranks[stream.new[trials.event], 1]),
    }
    if catalogue:
        readings["catalogue"] = figures(ranks[:, 2])
    with_query = np.array([bool(stream.queries[b]) for b in trials.event.tolist()], np.bool_)
    if with_query.any():
        readings["query"] = figures(ranks[with_query, 0])
    last = int(trials.event[-1]) if len(trials.event) else 0
    return Verdict(
        name=name,
        about=about,
        hr10=of_all.hr10,
        hr20=of_all.hr20,
        mrr20=of_all.mrr20,
        ndcg10=of_all.ndcg10,
        se=of_all.se,
        coverage=round(float(trials.covered.sum()) / max(1, int(stream.n_seen[last])), 4),
        seconds=round(seconds, 2),
        slices={name: figures(ranks[chosen, 0]) for name, chosen in slices.items()},
        readings=readings,
        catalogue_slices={name: figures(ranks[chosen, 2]) for name, chosen in slices.items()}
        if catalogue
        else {},
    )
