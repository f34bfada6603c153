"""Test, then learn: each positive event is ranked before it is learned (docs/model.md).

`Ranker` is all that a model has to be; `prequential` runs one over a stream. Ranked are the events
of the second half whose item is not the user's current one; a repeat is learned only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.judge import TOP, judge
from agents.evaluate.stream import Stream


class Ranker(Protocol):
    """A model that is asked before it is told.

    name: in tables. about: whose code it is, and the parameters it was given or chose.
    """

    name: str
    about: str

    def begin(self, stream: Stream) -> None:
        """Forget everything; rows of users and items are those of this stream."""

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        """Score rows 0 to len(out) - 1 for the user of event b, whose item must not be looked at.

        Largest is best; out: float32, filled.
        """

    def learn(self, b: int) -> None:
        """Learn event b: each of the stream, in order."""


@dataclass(slots=True)
class Trials:
    """What came of a run, an entry for each ranked event.

    event: int64 (N,), its number in the stream. ranks: float64 (N, 3), of `all`, `new` (infinite
    for an item that isn't) and `catalogue`. covered: rows in the top 20 lists of the second half.
    """

    event: NDArray[np.int64]
    ranks: NDArray[np.float64]
    covered: NDArray[np.bool_]


def asked(stream: Stream, first: int | None = None) -> NDArray[np.int64]:
    """int64 (N,): the events to rank, from the `first`-th positive on (default: second half)."""
    positive = np.flatnonzero(stream.positive)
    if first is None:
        first = len(positive) // 2
    later = positive[first:]
    ranked: NDArray[np.int64] = later[stream.item[later] != stream.current[later]].astype(np.int64)
    return ranked


def prequential(
    ranker: Ranker,
    stream: Stream,
    events: NDArray[np.int64],
    *,
    catalogue: bool = False,
    on_event: Callable[[int], None] = lambda b: None,
) -> Trials:
    """Ask and tell `ranker` the whole stream up to the last of `events`, which are ranked.

    catalogue: score all items, also those never seen (slower); else that reading is infinite.
    """
    ranker.begin(stream)
    wanted = np.zeros(len(stream) + 1, np.bool_)
    wanted[events] = True
    end = int(events[-1]) + 1 if len(events) else 0
    ranks = np.full((len(events), 3), np.inf)
    covered = np.zeros(stream.n_items, np.bool_)
    out = np.zeros(stream.n_items, np.float32)
    top = np.zeros(TOP, np.int32)
    n_seen, item, current = stream.n_seen, stream.item, stream.current
    number = 0
    for b in range(end):
        if wanted[b]:
            n = stream.n_items if catalogue else int(n_seen[b])
            ranker.scores(b, out[:n])
            judge(out[:n], n_seen[b], item[b], current[b], stream.had(b), ranks[number], top)
            covered[top[top >= 0]] = True
            number += 1
        ranker.learn(b)
        if b % 500 == 0:
            on_event(b)
    if not catalogue:
        ranks[:, 2] = np.inf
    ranks[~stream.new[events], 1] = np.inf
    return Trials(events, ranks, covered)
