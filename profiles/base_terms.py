"""The terms of the blend that an item has for everybody, of all items at one moment.

The same numbers as `terms.write_item_terms` gives for one item (a test holds one to the other), by
whole columns. Making them takes some 20 ns an item, weighting them for a context a tenth of it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.item_columns import CLOCK_MS, N_LEARNED
from profiles.model import Model
from profiles.shape import FoldConfig
from profiles.terms import AGE, COUNT_FLOOR, LAST, NEVER, POPF, POPM, POPS, RL, RS, START

N_CONTEXTS = 16
"""What four active parts can be: 4 lengths of a history, a session begun or not, a query or not."""

FLOOR = np.float32(COUNT_FLOOR)


class BaseTerms:
    """Of the first n items of a model. n_learned, clock_ms: of that moment. terms: float32 (T, I),
    by their places; DOT's stays 0. rows: int32 (I,), 0 to n - 1."""

    def __init__(self, model: Model, n: int, config: FoldConfig) -> None:
        items = model.items
        self.n_learned = int(items.state[N_LEARNED])
        self.clock_ms = int(items.state[CLOCK_MS])
        self.rows: NDArray[np.int32] = np.arange(n, dtype=np.int32)
        self._theta = model.blend.theta.copy()
        self._weighted: NDArray[np.float32] = np.empty((N_CONTEXTS, n), np.float32)
        self._number: dict[tuple[int, ...], int] = {}
        self._lock = threading.Lock()  # of `_number`, whose rows of `_weighted` are filled
        terms: NDArray[np.float32] = np.zeros((LAST + 1, n), np.float32)
        age_ms = np.maximum(self.clock_ms - items.count_ms[:n], 0)
        for term, counts, half_life_s in (
            (POPF, items.fast, config.fast_half_life_s),
            (POPM, items.counts, config.popularity_half_life_s),
            (POPS, items.slow, config.slow_half_life_s),
            (START, items.starts, config.popularity_half_life_s),
        ):
            kept = np.exp2((age_ms * (-0.001 / half_life_s)).astype(np.float32))
            terms[term] = np.log(kept * counts[:n].astype(np.float32) + FLOOR)
        for term, places in ((RS, items.short_count), (RL, items.ring_count)):
            terms[term] = np.log(places[:n].astype(np.float32) + FLOOR)
        never = items.first_number[:n] == 0
        terms[NEVER] = never
        for term, numbers in ((AGE, items.first_number), (LAST, items.last_number)):
            since = np.maximum(self.n_learned + 1 - numbers[:n], 1).astype(np.float32)
            terms[term] = np.where(never, np.float32(0), np.float32(0.3) * np.log(since))
        self.terms = terms

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
