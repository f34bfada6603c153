"""What a reader has of the item table: vectors, popularity, and id or hash -> row.

The thread that folds takes an `ItemDelta`, a copy; the reader's thread applies it. So neither
waits for the other, and a reader can't stall or corrupt the fold. A view's rows are the rows of the
table it follows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.decay import decayed_all
from profiles.hashing import HashIndex, item_hash
from profiles.shape import FoldConfig, ModelShape

COUNT_FLOOR = 0.1
"""Added to a decayed count before its logarithm."""

REFRESH_SHARE = 1 / 500
"""Share of a half-life after which all counts are decayed anew; until then only changed rows. What
stays behind is below .0014 in the logarithm."""


@dataclass(frozen=True, slots=True)
class ItemDelta:
    """Rows that changed, copied: safe to hand to another thread.

    rows: int32 (N,), rising. first_new, new_ids: items interned since the last delta.
    """

    first_new: int
    new_ids: list[str]
    rows: NDArray[np.int32]
    vectors: NDArray[np.float32]
    counts: NDArray[np.float64]
    count_ms: NDArray[np.int64]
    n_positive: NDArray[np.int64]
    clock_ms: int
    n_learned: int

    def __len__(self) -> int:
        return len(self.rows)


class ItemView:
    """A read-only copy of the item table, as of the last delta applied.

    ids: the item ids by row. clock_ms, n_learned: of the table at that delta. n_restarts: how often
    the table behind was replaced; rows kept elsewhere (masks) must then be made anew.
    """

    def __init__(self, shape: ModelShape, config: FoldConfig, capacity: int = 1024) -> None:
        self.shape = shape
        self.config = config
        self.ids: list[str] = []
        self.clock_ms = 0
        self.n_learned = 0
        self.n_restarts = 0
        self._row_of: dict[str, int] = {}
        self._index = HashIndex(capacity)
        self._vectors: NDArray[np.float32] = np.zeros((capacity, shape.n_factors), np.float32)
        self._counts: NDArray[np.float64] = np.zeros(capacity, np.float64)
        self._count_ms: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self._n_positive: NDArray[np.int64] = np.zeros(capacity, np.int64)
        self._log_popularity: NDArray[np.float32] = np.zeros(capacity, np.float32)
        self._refreshed_ms = -1

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (I, K)."""
        return self._vectors[: len(self.ids)]

    @property
    def log_popularity(self) -> NDArray[np.float32]:
        """float32 (I,): log(decayed count + .1)."""
        return self._log_popularity[: len(self.ids)]

    @property
    def n_positive(self) -> NDArray[np.int64]:
        """int64 (I,): positives learned; 0 for an item that only the catalogue knows."""
        return self._n_positive[: len(self.ids)]

    @property
    def index(self) -> tuple[NDArray[np.uint64], NDArray[np.int32]]:
        """keys and values of the index from item hash to row, for compiled functions."""
        return self._index.keys, self._index.values

    def row(self, item_id: str) -> int | None:
        """The row of an item, or None."""
        return self._row_of.get(item_id)

    def rows(self, item_ids: list[str]) -> NDArray[np.int32]:
        """int32 (B,): the row of each item, -1 for one the table does not have."""
        found = self._row_of
        return np.array([found.get(item_id, -1) for item_id in item_ids], np.int32)

    def rows_of_hashes(self, hashes: list[int]) -> NDArray[np.int32]:
        """int32 (B,): rows by 64-bit item hash, as in a profile's history; -1 when not here."""
        return np.array([self._index.get(key) for key in hashes], np.int32)

    def reset(self) -> None:
        """Forget everything: the next delta is the first of another table."""
        self.ids = []
        self._row_of = {}
        self._index = HashIndex(len(self._counts))
        self._refreshed_ms = -1
        self.n_restarts += 1

    def apply(self, delta: ItemDelta) -> None:
        """Bring the view up to a delta; the first one of another table starts it over.

        Raises ValueError when a delta with new items was left out.
        """
        if delta.first_new == 0 and self.ids:
            self.reset()
        if delta.first_new != len(self.ids):
            raise ValueError(
                f"a delta from row {delta.first_new} for a view of {len(self.ids)} rows"
            )
        if delta.new_ids:
            self._add(delta.new_ids)
        rows = delta.rows
        self._vectors[rows] = delta.vectors
        self._counts[rows] = delta.counts
        self._count_ms[rows] = delta.count_ms
        self._n_positive[rows] = delta.n_positive
        self.clock_ms, self.n_learned = delta.clock_ms, delta.n_learned
        stale_ms = self.config.popularity_half_life_s * 1000 * REFRESH_SHARE
        if self._refreshed_ms < 0 or self.clock_ms - self._refreshed_ms > stale_ms:
            self._refresh(np.arange(len(self.ids), dtype=np.int32))
            self._refreshed_ms = self.clock_ms
        else:
            self._refresh(rows)

    def _refresh(self, rows: NDArray[np.int32]) -> None:
        counts = decayed_all(
            self._counts[rows],
            self._count_ms[rows],
            self.clock_ms,
            self.config.popularity_half_life_s,
        )
        self._log_popularity[rows] = np.log(counts + COUNT_FLOOR)

    def _add(self, new_ids: list[str]) -> None:
        first, least = len(self.ids), len(self.ids) + len(new_ids)
        capacity = len(self._counts)
        if least > capacity:
            more = max(2 * capacity, least) - capacity
            self._vectors = np.pad(self._vectors, ((0, more), (0, 0)))
            self._counts = np.pad(self._counts, (0, more))
            self._count_ms = np.pad(self._count_ms, (0, more))
            self._n_positive = np.pad(self._n_positive, (0, more))
            self._log_popularity = np.pad(self._log_popularity, (0, more))
        self._index.append(np.fromiter(map(item_hash, new_ids), np.uint64, len(new_ids)))
        self.ids.extend(new_ids)
        self._row_of.update(zip(new_ids, range(first, least), strict=True))
