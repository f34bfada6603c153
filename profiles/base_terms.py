"""The terms of the blend that an item has for everybody, of all items at one moment.

What `terms.write_item_terms` gives for one item, by whole columns: numpy takes several logarithms
at a time, the compiled loop one.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.item_columns import CLOCK_MS, N_LEARNED, ItemColumns
from profiles.model import Model
from profiles.scratch import speeds_of
from profiles.shape import FoldConfig
from profiles.terms import (
    AGE,
    COUNT_FLOOR,
    LAST,
    NEVER,
    POPF,
    POPM,
    POPS,
    RL,
    RS,
    START,
    Speeds,
)

N_CONTEXTS = 16
"""What four active parts can be: 4 lengths of a history, a session begun or not, a query or not."""

ROWS_AT_ONCE = 4_096
"""Items whose terms are made at a time: their columns stay in the cache."""


class BaseTerms:
    """Of the first n items of a model, or of some (not `whole`).

    n_learned, clock_ms: of that moment. rows: int32 (I,), the items. terms: float32 (T, I), by
    their places; DOT's stays 0.
    """

    def __init__(self, model: Model, rows: int | NDArray[np.int32], config: FoldConfig) -> None:
        """rows: how many items, from the first on, or which."""
        items = model.items
        n = rows if isinstance(rows, int) else len(rows)
        self.n_learned = int(items.state[N_LEARNED])
        self.clock_ms = int(items.state[CLOCK_MS])
        self.whole = isinstance(rows, int)
        self.rows = np.arange(n, dtype=np.int32) if isinstance(rows, int) else rows
        self._theta = model.blend.theta.copy()
        self._weighted: NDArray[np.float32] = np.empty((N_CONTEXTS, n), np.float32)
        self._number: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()  # of `_number`, whose rows of `_weighted` are filled
        self.terms: NDArray[np.float32] = np.zeros((LAST + 1, n), np.float32)
        for first in range(0, n, ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            which = slice(first, min(first + ROWS_AT_ONCE, n)) if self.whole else self.rows[part]
            _write(items, which, speeds_of(config), self.terms[:, part])

    def __len__(self) -> int:
        n: int = self.terms.shape[1]
        return n

    def of(self, contexts: Sequence[tuple[int, ...]]) -> tuple[NDArray[np.float32], list[int]]:
        """What these terms add to every score in some contexts, each by its parts of the blend.

        float32 (N_CONTEXTS, I), and for each context the row of it.
        """
        for parts in contexts:
            if parts not in self._number:
                self._add(parts)
        return self._weighted, [self._number[parts] for parts in contexts]

    def _add(self, parts: tuple[int, ...]) -> None:
        with self._lock:
            number = len(self._number)
            if parts not in self._number:  # another thread may have been faster
                self._weigh(list(parts), self._weighted[number])
                self._number[parts] = number

    def _weigh(self, parts: list[int], out: NDArray[np.float32]) -> None:
        weights = self._theta[parts, : LAST + 1].sum(axis=0)
        out[:] = 0
        for term in range(POPF, LAST + 1):  # each by itself: a sum of BLAS would hang on the length
            if weights[term]:
                out += weights[term] * self.terms[term]


def _write(
    items: ItemColumns,
    rows: slice | NDArray[np.int32],
    speeds: Speeds,
    terms: NDArray[np.float32],
) -> None:
    """The terms of some items. terms: (T, N)."""
    age_ms = np.maximum(items.state[CLOCK_MS] - items.count_ms[rows], 0)
    in_a_day = _kept(age_ms, speeds.day_ms)
    terms[POPF] = items.fast[rows] * _kept(age_ms, speeds.fast_ms)
    terms[POPM] = items.counts[rows].astype(np.float32) * in_a_day
    terms[POPS] = items.slow[rows] * _kept(age_ms, speeds.slow_ms)
    terms[START] = items.starts[rows] * in_a_day
    terms[RS] = items.short_count[rows]
    terms[RL] = items.ring_count[rows]
    counts = terms[POPF : RL + 1]
    counts += np.float32(COUNT_FLOOR)
    np.log(counts, out=counts)
    number = items.state[N_LEARNED] + 1
    first = items.first_number[rows]
    terms[NEVER] = first == 0
    terms[AGE] = np.maximum(number - first, 1)
    terms[LAST] = np.maximum(number - items.last_number[rows], 1)
    since = terms[AGE : LAST + 1]
    np.log(since, out=since)
    since *= np.float32(0.3)
    since[:, first == 0] = 0


def _kept(age_ms: NDArray[np.int64], half_life_ms: float) -> NDArray[np.float32]:
    """What is left of a count after that time."""
    kept: NDArray[np.float32] = np.exp(
        np.float32(-0.6931472) * (age_ms / half_life_ms).astype(np.float32)
    )
    return kept
