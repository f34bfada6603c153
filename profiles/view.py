"""What a reader has of the item table: the model that scores are made of, and id or hash -> row.

The thread that folds takes an `ItemDelta`, a copy; the reader's thread applies it. So neither
waits for the other, and a reader can't stall or corrupt the fold. A view's rows are the rows of the
table it follows. While somebody reads in a thread of their own, deltas wait (`ItemView.reading`):
arrays that grow in the middle would leave rows that point beyond their ends.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.base_terms import BaseTerms
from profiles.hashing import item_hash
from profiles.item_columns import CLOCK_MS, N_LEARNED
from profiles.model import Model
from profiles.model_delta import ModelCopy, ModelDelta
from profiles.shape import FoldConfig, ModelShape

REFRESH_EVENTS = 10
"""Positives after which what is said of items alone (popularity, age) is made anew, of all rows at
once: 50 events old it cost a fashion shop 6 % of its MRR (docs/ablations.md)."""

ROWS_AN_EVENT = 10_000
"""For each so many items one positive more: making it takes about 20 ns an item."""

REFRESH_SHARE = 1 / 500
"""Share of the fastest half-life after which it is made anew without any positive."""


@dataclass(frozen=True, slots=True)
class ItemDelta:
    """Rows that changed, copied: safe to hand to another thread.

    first_new, new_ids: items interned since the last delta.
    """

    first_new: int
    new_ids: list[str]
    model: ModelDelta

    def __len__(self) -> int:
        return len(self.model.items.rows)


class ItemView:
    """A read-only copy of the item table, as of the last delta applied.

    ids: the item ids by row. n_restarts: how often the table behind was replaced; rows kept
    elsewhere (masks) must then be made anew.
    """

    def __init__(self, shape: ModelShape, config: FoldConfig, capacity: int = 1024) -> None:
        self.shape = shape
        self.config = config
        self.ids: list[str] = []
        self.n_restarts = 0
        self._row_of: dict[str, int] = {}
        self._copy = ModelCopy(shape, config, capacity)
        self._base: BaseTerms | None = None
        self._lock = threading.Lock()  # held for what it guards, never while somebody scores
        self._n_reading = 0
        self._waiting: list[ItemDelta] = []

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def model(self) -> Model:
        """What compiled functions take; arrays are longer than the view."""
        return self._copy.model

    @property
    def clock_ms(self) -> int:
        """The largest event time that the table had folded."""
        return int(self.model.items.state[CLOCK_MS])

    @property
    def n_learned(self) -> int:
        """Positives that it had learned."""
        return int(self.model.items.state[N_LEARNED])

    @property
    def vectors(self) -> NDArray[np.float32]:
        """float32 (I, K): the items' own rows, without what their texts add."""
        return self.model.items.vectors[: len(self)]

    @property
    def n_positive(self) -> NDArray[np.int64]:
        """int64 (I,): positives learned; 0 for an item that only the catalogue knows."""
        return self.model.items.n_positive[: len(self)]

    @property
    def rankable(self) -> NDArray[np.bool_]:
        """bool (I,), made anew: items that somebody has had or the catalogue has, and hasn't
        lost."""
        rankable: NDArray[np.bool_] = self.model.items.rankable_at[: len(self)] >= 0
        return rankable

    def row(self, item_id: str) -> int | None:
        """The row of an item, or None."""
        return self._row_of.get(item_id)

    def rows(self, item_ids: list[str]) -> NDArray[np.int32]:
        """int32 (B,): the row of each item, -1 for one the table does not have."""
        found = self._row_of
        return np.array([found.get(item_id, -1) for item_id in item_ids], np.int32)

    def rows_of_hashes(self, hashes: list[int]) -> NDArray[np.int32]:
        """int32 (B,): rows by 64-bit item hash, as in a profile's history; -1 when not here."""
        return np.array([self._copy.row_of_hash(key) for key in hashes], np.int32)

    @property
    def base(self) -> BaseTerms:
        """What is said of the items alone, of all rows at one moment, a few positives ago."""
        base, n = self._base, len(self)
        if (
            base is None
            or len(base) != n
            or not 0 <= self.n_learned - base.n_learned < self._refresh_after
            or self.clock_ms - base.clock_ms > self._stale_ms
        ):
            self._copy.count_ring(n)
            base = self._base = BaseTerms(self.model, n, self.config)
        return base

    @property
    def _refresh_after(self) -> int:
        return REFRESH_EVENTS + len(self) // ROWS_AN_EVENT

    @property
    def _stale_ms(self) -> float:
        return self.config.fast_half_life_s * 1000 * REFRESH_SHARE

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Nothing changes while this is held; deltas that come are applied at its end."""
        with self._lock:
            self._n_reading += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_reading -= 1
                self._catch_up()

    def apply(self, delta: ItemDelta) -> None:
        """Bring the view up to a delta; the first one of another table starts it over.

        Raises ValueError when a delta with new items was left out.
        """
        with self._lock:
            self._waiting.append(delta)
            self._catch_up()

    def _catch_up(self) -> None:
        while self._waiting and not self._n_reading:
            self._apply(self._waiting.pop(0))

    def _apply(self, delta: ItemDelta) -> None:
        if delta.first_new == 0 and self.ids:
            self._reset()
        first = len(self.ids)
        if delta.first_new != first:
            raise ValueError(f"a delta from row {delta.first_new} for a view of {first} rows")
        new = delta.new_ids
        self._copy.apply(delta.model, np.fromiter(map(item_hash, new), np.uint64, len(new)))
        self.ids.extend(new)
        self._row_of.update(zip(new, range(first, first + len(new)), strict=True))

    def _reset(self) -> None:
        """Forget everything: the next delta is the first of another table."""
        self.ids = []
        self._row_of = {}
        self._copy.reset()
        self._base = None
        self.n_restarts += 1
