"""What a reader has of the item table: the model that scores are made of, and id or hash -> row.

The thread that folds takes an `ItemDelta`, a copy; the reader's thread applies it. So neither
waits for the other, and a reader can't stall or corrupt the fold. A view's rows are the rows of the
table it follows. While somebody reads in a thread of their own, deltas wait (`ItemView.reading`):
arrays that grow in the middle would leave rows that point beyond their ends. So do changes of what
follows the view (`candidates`).
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
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
from profiles.sharing import with_room

REFRESH_EVENTS = 10
"""Positives after which what is said of items alone (popularity, age) is made anew, of all rows at
once: 50 events old it cost a fashion shop 6 % of its MRR (docs/ablations.md)."""

ROWS_AN_EVENT = 10_000
"""For each so many items one positive more: making it takes about 20 ns an item."""

MOST_WAITING = 16
"""Changes that wait for readers; with more, new readers wait until those changes are made: readers
who overlap for ever would keep the view as it is for ever."""

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
        self._moved: NDArray[np.bool_] | None = None
        # Its lock is held for what it guards, never while somebody scores.
        self._quiet = threading.Condition()
        self._n_reading = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._failed: Exception | None = None

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
        """Nothing changes while this is held; changes that come are made at its end. Not to be held
        twice by one thread."""
        with self._quiet:
            while self._n_reading and len(self._waiting) > MOST_WAITING:
                self._quiet.wait()
            self._n_reading += 1
        try:
            yield
        finally:
            with self._quiet:
                self._n_reading -= 1
                try:
                    self._catch_up()
                except Exception as error:  # noqa: BLE001  # told to who changes, not who read
                    self._failed = error

    def apply(self, delta: ItemDelta) -> None:
        """Bring the view up to a delta; the first one of another table starts it over.

        Raises ValueError when a delta with new items was left out.
        """
        self.change(lambda: self._apply(delta))

    def change(self, change: Callable[[], None]) -> None:
        """Do it when nobody reads, after all that waits already; it should take milliseconds.

        Raises what an earlier change raised that had to wait.
        """
        with self._quiet:
            if self._failed is not None:
                failed, self._failed = self._failed, None
                raise failed
            self._waiting.append(change)
            self._catch_up()

    def take_moved(self) -> NDArray[np.int32]:
        """int32 (N,): rows that have changed since the last call, of which only the first returns
        none. For one caller alone, who is reading."""
        if self._moved is None:
            self._moved = np.zeros(max(1024, len(self)), np.bool_)
        rows = np.flatnonzero(self._moved[: len(self)]).astype(np.int32)
        self._moved[rows] = False
        return rows

    def _catch_up(self) -> None:
        if not self._n_reading:
            try:
                while self._waiting:
                    self._waiting.popleft()()
            finally:
                self._quiet.notify_all()

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
        if self._moved is not None:
            if len(self) > len(self._moved):
                self._moved = with_room(self._moved, 2 * len(self))
            self._moved[delta.model.items.rows] = True

    def _reset(self) -> None:
        """Forget everything: the next delta is the first of another table."""
        self.ids = []
        self._row_of = {}
        self._copy.reset()
        self._base = None
        self.n_restarts += 1
