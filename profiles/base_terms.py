"""The terms of the blend that an item has for everybody, of all items at one moment.

What `terms.write_item_terms` gives for one item, by whole columns.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.item_columns import CLOCK_MS, N_LEARNED, ItemColumns
from profiles.jit import compiled
from profiles.model import Model
from profiles.scratch import speeds_of
from profiles.shape import FoldConfig
from profiles.terms import LAST, N_TERMS, POPF, Speeds, write_item_terms

N_CONTEXTS = 16
"""What four active parts can be: 4 lengths of a history, a session begun or not, a query or not."""


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
        terms: NDArray[np.float32] = np.zeros((LAST + 1, n), np.float32)
        _write_all(items, self.rows, speeds_of(config), np.zeros((1, N_TERMS), np.float32), terms)
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


@compiled
def _write_all(
    items: ItemColumns, rows: NDArray[np.int32], speeds: Speeds, phi: NDArray[np.float32],
    terms: NDArray[np.float32],
) -> None:  # fmt: skip
    """The terms of some items. phi: (1, F), scratch. terms: (T, I)."""
    for j in range(len(rows)):
        write_item_terms(items, np.int64(rows[j]), speeds, phi, 0)
        for term in range(POPF, LAST + 1):
            terms[term, j] = phi[0, term]
