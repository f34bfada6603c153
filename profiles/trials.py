"""Test, then learn: what the model would have ranked, asked before it is told.

Owns the reading of the item table by which a trial is scored. The score itself is `scoring.scores`,
the one that serves shoppers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.decay import decayed_all
from profiles.items import ItemTable
from profiles.scoring import scores
from profiles.view import COUNT_FLOOR, ItemView

TILE = 64
"""BLAS adds up the last rows of a product, beyond a multiple of its tile, in another order: an
item's score would hang on how many items there are, and a trial on how its batch was cut."""


class TableView(ItemView):
    """The item table itself as a view: what readers will see after the next delta, without a copy.

    For the thread that folds only; everyone else has an `ItemView`. Its rows are filled up to a
    multiple of `TILE`, with items that score as nobody's.
    """

    def __init__(self, table: ItemTable) -> None:
        super().__init__(table.shape, table.config, capacity=1)
        self._table = table
        self._n = -(-len(table) // TILE) * TILE

    def __len__(self) -> int:
        return self._n

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (I, K)."""
        vectors = self._table.columns.vectors[: self._n]
        missing = self._n - len(vectors)
        return np.pad(vectors, ((0, missing), (0, 0))) if missing else vectors

    @property
    def log_popularity(self) -> NDArray[np.float32]:
        """float32 (I,): log(decayed count + .1), as of the table's clock."""
        table, n = self._table, min(self._n, len(self._table.columns.counts))
        counts = decayed_all(
            table.columns.counts[:n],
            table.columns.count_ms[:n],
            table.clock_ms,
            table.config.popularity_half_life_s,
        )
        if n < self._n:
            counts = np.pad(counts, (0, self._n - n))
        return np.log(counts + COUNT_FLOOR).astype(np.float32)

    @property
    def n_positive(self) -> NDArray[np.int64]:
        """int64 (I,): positives learned."""
        return self._table.columns.n_positive[: self._n]


def score_all(table: ItemTable, vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (I,): the score of every item of the table for one user vector, (K,)."""
    result: NDArray[np.float32] = scores(TableView(table), vector[None])[0, : len(table)]
    return result
