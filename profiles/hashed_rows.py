"""Rows found by hash, as tokens and groups have them: made, given up, grown and restored.

Whoever inherits it owns the columns and says what a new row holds. (Words of queries come and go
inside the fold and have compiled code of their own, see `queries`.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.gate import SHARE, FrequencyGate
from profiles.hashing import HashIndex

N_ROWS = 0
"""Place in the columns' `state`: rows made so far, those given up since among them."""


class HashedRows(ABC):
    """A table of rows by hash; its columns are handed to kernels.

    columns: a NamedTuple with `index_keys`, `index_values`, `hash`, `changed` and `state`.
    """

    columns: Any
    once: tuple[str, ...] = ("state",)
    """Columns that have no row for each hash."""

    def __init__(self, capacity: int, most: int) -> None:
        self._most = most
        self._index = HashIndex(capacity)
        self._free: list[int] = []  # rows given up, the next one to be taken last
        self._gate: FrequencyGate | None = None
        self.columns = self._columns(capacity)

    def __len__(self) -> int:
        return int(self.columns.state[N_ROWS])

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """By row; 0 of one that was given up."""
        hashes: NDArray[np.uint64] = self.columns.hash
        return hashes

    @property
    def is_full(self) -> bool:
        """Whether all rows that there may be were made."""
        return len(self) >= self._most

    @property
    def n_free(self) -> int:
        """Rows given up that nobody has taken yet."""
        return len(self._free)

    @property
    def most_at_once(self) -> int:
        """Rows to give up at once."""
        return max(1, self._most // SHARE)

    @property
    def gate(self) -> FrequencyGate:
        """Of newcomers, made when it is first asked for."""
        if self._gate is None:
            self._gate = FrequencyGate(self._most)
        return self._gate

    def rows_of(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each; -1 for one that isn't there, and for 0."""
        return self._index.rows(hashes)

    def give_up(self, rows: NDArray[np.int64]) -> None:
        """Nobody names these rows any more: newcomers take them."""
        self.columns.hash[rows] = 0
        self._empty(rows)
        self._free += sorted(rows.tolist(), reverse=True)
        self.index()

    def restore(self, n: int) -> None:
        """n empty rows, of a table that has none, to be filled from a snapshot; then `index`."""
        self._grow(max(n, len(self.columns.hash)))
        self.columns.state[N_ROWS] = n

    def index(self) -> None:
        """Make the index anew from the hashes; rows without one are free."""
        hashes = self.columns.hash[: len(self)]
        self._free = np.flatnonzero(hashes == 0)[::-1].tolist()
        self._index = HashIndex(len(self.columns.hash))
        self._index.append(hashes)
        self._share_index()

    def _intern(self, hashes: NDArray[np.uint64], freed: bool, **of_row: Any) -> NDArray[np.int32]:
        """Rows, new ones while there are any, then, with `freed`, those given up; else -1."""
        rows = self._index.rows(hashes)
        new = list(dict.fromkeys(hashes[(rows < 0) & (hashes != 0)].tolist()))
        if not new:
            return rows
        first = len(self)
        appended = np.array(new[: max(0, self._most - first)], np.uint64)
        taking = new[len(appended) :][: len(self._free)] if freed else []
        if len(appended):
            end = first + len(appended)
            if end > len(self.columns.hash):
                self._grow(min(max(end, 2 * first), self._most))
            self._index.append(appended)
            self._share_index()
            self._begin(np.arange(first, end), appended, **of_row)
            self.columns.state[N_ROWS] = end
        if taking:
            places = np.array([self._free.pop() for _ in taking], np.int64)
            self._begin(places, np.array(taking, np.uint64), **of_row)
            self.index()
        return self._index.rows(hashes)

    def _share_index(self) -> None:
        self.columns = self.columns._replace(
            index_keys=self._index.keys, index_values=self._index.values
        )

    def _grow(self, capacity: int) -> None:
        present, bigger = self.columns, self._columns(capacity)
        n = len(self)
        for name, column in present._asdict().items():
            if name not in (*self.once, "index_keys", "index_values"):
                getattr(bigger, name)[:n] = column[:n]
        self.columns = bigger._replace(**{name: getattr(present, name) for name in self.once})

    @abstractmethod
    def _begin(self, rows: NDArray[np.int64], hashes: NDArray[np.uint64], **of_row: Any) -> None:
        """Write what empty rows hold from now on, their hashes first."""

    @abstractmethod
    def _empty(self, rows: NDArray[np.int64]) -> None:
        """Forget what rows held."""

    @abstractmethod
    def _columns(self, capacity: int) -> Any:
        """Empty columns."""
