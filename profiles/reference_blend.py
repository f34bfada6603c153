"""Neighbour lists, terms and the learner of the blend once more, slow and obvious, for tests.

Shares no arithmetic with `lists.py`, `terms.py` and `blend.py`; names of terms and parts are
theirs. Counts are rounded to float32 as they are stored, so that a full list drops the same entry.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiles.blend import START_WEIGHTS
from profiles.terms import LF, LFN, MK, N_TERMS, OWN1, OWNA, OWNC, OWNS, OWNT, POPS, QT, QW, TERMS

LB = TERMS.index("LB")

Single = np.float32


@dataclass(slots=True)
class ReferenceList:
    """Of one item. pairs: neighbour -> [forward, backward], in the order of their places."""

    pairs: dict[int, list[np.float32]] = field(default_factory=dict)
    forward: np.float32 = field(default_factory=lambda: Single(0))
    backward: np.float32 = field(default_factory=lambda: Single(0))

    def count(self, other: int, forward: np.float32, backward: np.float32, most: int) -> None:
        """A full list gives the place of the smallest, the first of equals, to the newcomer."""
        if other not in self.pairs:
            if len(self.pairs) == most:
                smallest = min(self.pairs, key=lambda key: _common(*self.pairs[key]))
                self.pairs = {
                    (other if key == smallest else key): (
                        [Single(0), Single(0)] if key == smallest else pair
                    )
                    for key, pair in self.pairs.items()
                }
            else:
                self.pairs[other] = [Single(0), Single(0)]
        self.pairs[other][0] += forward
        self.pairs[other][1] += backward
        self.forward += forward
        self.backward += backward
        if self.forward + self.backward > 2_000:
            self.forward, self.backward = self.forward / Single(2), self.backward / Single(2)
            for pair in self.pairs.values():
                pair[:] = [count / Single(2) for count in pair]


def _common(forward: np.float32, backward: np.float32) -> float:
    return float(forward + backward / Single(2))


@dataclass(slots=True)
class ReferenceLists:
    """All lists. most: places of each."""

    most: int
    of: dict[int, ReferenceList] = field(default_factory=dict)

    def count(self, history: Sequence[int | None], item: int, weight: np.float32) -> None:
        """A positive of `item` after a history, newest first; None: an item not known here."""
        for a, past in enumerate(history[:5]):
            if past is not None:
                amount = Single(float(weight) * 0.5**a)
                self._of(past).count(item, amount, Single(0), self.most)
                self._of(item).count(past, Single(0), amount, self.most)

    def _of(self, item: int) -> ReferenceList:
        return self.of.setdefault(item, ReferenceList())


@dataclass(slots=True)
class ReferenceTouched:
    """What is said of one touched item. own: (times, events since, minutes since, in session)."""

    pairs: float = 0.0
    forward: float = 0.0
    next: float = 0.0
    own: tuple[int, int, int, bool] | None = None
    words: float = 0.0
    query: float = 0.0

    def write(self, phi: NDArray[np.float64]) -> None:
        """LFN to QT; POPS must be there."""
        if self.pairs > 0:
            slow = math.exp(phi[POPS]) - 0.1
            phi[LFN] = math.log(1 + 1000 * self.pairs / math.sqrt(max(slow, 0) + 1))
            phi[LF] = math.log(1 + 1000 * self.pairs)
            phi[LB] = math.log(1 + 1000 * self.forward)
            phi[MK] = math.log(1 + 1000 * self.next)
        if self.own is not None:
            times, events, minutes, in_session = self.own
            phi[OWN1] = 1
            phi[OWNC] = math.log(1 + times)
            phi[OWNS] = in_session
            phi[OWNA] = 0.3 * math.log(1 + events)
            phi[OWNT] = 0.1 * math.log(1 + max(minutes, 0))
        phi[QW] = self.words
        phi[QT] = math.log(1 + 1000 * self.query)


def touch_neighbours(
    lists: ReferenceLists,
    history: Sequence[int | None],
    current: int | None,
    touched: dict[int, ReferenceTouched],
) -> None:
    """What the lists of the newest items say."""
    total = sum(0.5**a for a, past in enumerate(history[:5]) if past is not None)
    for a, past in enumerate(history[:5]):
        found = lists.of.get(past) if past is not None else None
        if found is None:
            continue
        share = 0.5**a / total / (float(found.forward) + float(found.backward) / 2 + 5)
        for other, (forward, backward) in found.pairs.items():
            if other != current:
                entry = touched.setdefault(other, ReferenceTouched())
                entry.pairs += share * (float(forward) + float(backward) / 2)
                entry.forward += share * float(forward)
                if a == 0:
                    entry.next = float(forward) / (float(found.forward) + 1)


@dataclass(slots=True)
class ReferenceBlend:
    """Weights and their learner."""

    theta: NDArray[np.float32] = field(default_factory=lambda: np.zeros((9, N_TERMS), np.float32))
    curvature: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((9, N_TERMS, N_TERMS), np.float32)
    )
    n: list[int] = field(default_factory=lambda: [0] * 9)

    def __post_init__(self) -> None:
        for term, weight in START_WEIGHTS.items():
            self.theta[0, term] = weight

    def learn(
        self,
        phi: NDArray[np.float64],
        chance: NDArray[np.float64],
        parts: Sequence[int],
        with_spread: bool,
    ) -> None:
        """One step. phi: (N, F) terms, the positive first; chance: (N,) of one draw to be it."""
        weight = self.theta[list(parts)].astype(float).sum(0)
        z = phi @ weight - np.log(np.maximum(chance, 1e-12))
        q = np.exp(z - z.max())
        q /= q.sum()
        mean = q @ phi
        gradient = mean - phi[0]
        near = q > 0.001
        away = phi[near] - mean
        spread = (away * q[near, None]).T @ away
        for part in parts:
            if with_spread:
                C = 0.996 * self.curvature[part].astype(float) + 0.004 * spread
                self.curvature[part] = C
            self.n[part] += 1
            A = self.curvature[part].astype(float) + 0.05 * np.eye(len(weight))
            y = np.zeros(len(weight))
            for _ in range(3):
                for term in range(len(weight)):
                    rest = gradient[term] - A[term] @ y + A[term, term] * y[term]
                    y[term] = rest / A[term, term]
            rate = max(1 / (self.n[part] + 200), 0.0005) * (1 if part == 0 else 0.3)
            moved = self.theta[part].astype(float) - rate * np.clip(y, -5, 5)
            self.theta[part] = np.clip(moved, -6, 6)


def parts_of(n_history: int, begins: bool, n_query: int) -> list[int]:
    """The four active parts."""
    by_history = 1 if n_history == 0 else 2 if n_history == 1 else 3 if n_history < 5 else 4
    return [0, by_history, 5 if begins else 6, 7 if n_query else 8]
