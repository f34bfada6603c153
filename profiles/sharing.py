"""What other processes know of a table, what they don't know yet, and how it gets to them.

A table that is shared has a second set of its additive columns: the *public* rows, the sum of all
that was sent, ours and others'. What is ours alone is the difference between the two, so nothing
has to be written down while the kernel learns, and what rounding or the limit of a message left
behind is still there the next time. Everyone who has added the same messages to the same snapshot
has the same public rows.

Knows nothing of messages or positions; rows travel under their 64-bit hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from profiles.decay import decayed_all
from profiles.ratings import keep_bounds
from profiles.shape import FoldConfig

LARGEST_HALF = 60_000.0
"""Below float16's end (65,504); what is cut off stays pending."""

LOOKED_AT = 50_000
"""Rows of which the change is computed in one round, the longest pending: some 10 ms."""


class Additive(NamedTuple):
    """A column of which others are sent differences.

    wire: numpy's name of the type in which they travel. half_life_s: of a decayed count, whose time
    stands in the column ``count_ms`` and whose differences are as of the table's clock; 0: a sum.
    fades: its differences may be negative, and those of several together more than there is: what
    would be below 0 is 0. seldom: not sent where no row differs. within: the column of counts that
    bounds it, see `keep_bounds`.
    """

    name: str
    wire: str
    half_life_s: float = 0.0
    fades: bool = False
    seldom: bool = False
    within: str = ""


VECTORS, SUMS = Additive("vectors", "<f2"), Additive("sums", "<f4", fades=True)

TOKEN_COLUMNS = (VECTORS, SUMS)


def item_additive(config: FoldConfig) -> tuple[Additive, ...]:
    """Those of the item table."""
    return (
        VECTORS,
        SUMS,
        Additive("counts", "<f8", config.popularity_half_life_s),
        Additive("fast", "<f4", config.fast_half_life_s),
        Additive("slow", "<f4", config.slow_half_life_s),
        Additive("starts", "<f4", config.popularity_half_life_s),
        Additive("n_positive", "<i4"),
        Additive("rating_sum", "<f4", seldom=True, within="rating_n"),
        Additive("rating_n", "<f4", fades=True, seldom=True),
    )


@dataclass(frozen=True, slots=True)
class RowChanges:
    """Sums to add to rows of one table, copied.

    hashes: uint64 (N,), each once. new_ids: place in `hashes` -> id, of rows that a receiver may
    not have; none of tokens, which have no id. columns: by name, (N,) or (N, K). clock_ms: what
    decayed counts refer to.
    """

    hashes: NDArray[np.uint64]
    new_ids: dict[int, str]
    columns: dict[str, NDArray[Any]]
    clock_ms: int

    def __len__(self) -> int:
        return len(self.hashes)


class SharedTable(Protocol):
    """What a table must have to be shared."""

    columns: Any

    @property
    def ids(self) -> Sequence[str]:
        """By row, where rows have one."""

    def __len__(self) -> int:
        """Rows in use."""

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """What rows are known by elsewhere, by row."""

    @property
    def clock_ms(self) -> int:
        """Event time that decayed counts are brought to."""


class Sharing:
    """The public rows of one table, and what of ours is pending.

    n_pending: rows with changes that nobody else has. round: rises with every `take`.
    """

    def __init__(
        self, table: SharedTable, additive: tuple[Additive, ...], *, named: bool = True
    ) -> None:
        """From here on everything in the table counts as known to all.

        additive: its columns, the vectors first. named: rows have ids, which others must be told.
        """
        self._additive = additive
        self._named = named
        columns = table.columns
        self.public: dict[str, NDArray[Any]] = {
            name: getattr(columns, name).copy() for name in self._names(additive)
        }
        self._since: NDArray[np.int32] = np.zeros(len(table.hashes), np.int32)
        self._told: NDArray[np.bool_] = np.zeros(len(table.hashes), np.bool_)
        self._told[: len(table) if named else None] = True
        self.round = 1

    @staticmethod
    def _names(additive: tuple[Additive, ...]) -> list[str]:
        decays = any(column.half_life_s for column in additive)
        return [column.name for column in additive] + (["count_ms"] if decays else [])

    @property
    def n_pending(self) -> int:
        """Rows with changes that nobody else has (rounding left aside)."""
        return int(np.count_nonzero(self._since))

    @property
    def oldest(self) -> int | None:
        """The round in which the oldest pending change was noted; None: nothing is pending."""
        since = self._since[self._since > 0]
        return int(since.min()) if len(since) else None

    def grow(self, capacity: int) -> None:
        """The table has room for more rows now."""
        before = len(self._since)
        if capacity <= before:
            return
        for name, column in self.public.items():
            self.public[name] = with_room(column, capacity)
        self._since = with_room(self._since, capacity)
        self._told = with_room(self._told, capacity)
        if not self._named:
            self._told[before:] = True

    def begin(self, first: int, vectors: NDArray[np.float32]) -> None:
        """New rows from `first` on, with their start vectors, which come from their hashes."""
        self.public["vectors"][first : first + len(vectors)] = vectors

    def replace(self, rows: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """These rows stand for something else now, with start vectors that all know."""
        for name, column in self.public.items():
            column[rows] = vectors if name == "vectors" else 0
        self._since[rows] = 0

    def move(self, came_from: NDArray[np.int64]) -> None:
        """The table gave rows up: row n is what row came_from[n] was; -1: it is new, of zeros."""
        kept = np.flatnonzero(came_from >= 0)
        for name, column in self.public.items():
            self.public[name] = _moved(column, came_from, kept)
        self._since = _moved(self._since, came_from, kept)
        self._told = _moved(self._told, came_from, kept) | (not self._named)

    def note(self, rows: NDArray[np.int32]) -> None:
        """Committed changes of ours in these rows."""
        fresh = rows[self._since[rows] == 0]
        self._since[fresh] = self.round

    def take(self, table: SharedTable, most_rows: int, overdue: int) -> RowChanges | None:
        """The next changes to send; from here on they count as public.

        most_rows: of which new rows come first, then in halves the longest pending and the most
        changed. overdue: rows pending since this round or longer go whatever the limit. Call it
        when all that the table holds is committed. None: nothing is pending.
        """
        rows = np.flatnonzero(self._since).astype(np.int32)
        since = self._since[rows]
        if len(rows) > max(most_rows, LOOKED_AT):
            n_looked_at = max(LOOKED_AT, int(np.count_nonzero(since <= overdue)))
            oldest = np.argpartition(since, min(n_looked_at, len(rows)) - 1)[:n_looked_at]
            rows, since = rows[oldest], since[oldest]
        first = self._additive[0].name  # the rows' vectors
        change = getattr(table.columns, first)[rows] - self.public[first][rows]
        if len(rows) > most_rows:
            chosen = self._choose(rows, since, change, most_rows, overdue)
            rows = rows[chosen]
        if len(rows) == 0:
            return None
        clock_ms = table.clock_ms
        columns: dict[str, NDArray[Any]] = {}
        for column in self._additive:
            change = self._publish(table, rows, column, clock_ms)
            if change.any() or not column.seldom:
                columns[column.name] = change
        _bounded(self.public, self._additive, rows)
        if "count_ms" in self.public:
            self.public["count_ms"][rows] = clock_ms
        new = np.flatnonzero(~self._told[rows])
        self._told[rows] = True
        self._since[rows] = 0
        return RowChanges(
            hashes=table.hashes[rows],
            new_ids={place: table.ids[rows[place]] for place in new.tolist()},
            columns=columns,
            clock_ms=clock_ms,
        )

    def end_round(self) -> None:
        """What is noted from here on is younger."""
        self.round += 1

    def add(
        self,
        table: SharedTable,
        rows: NDArray[np.int32],
        changes: RowChanges,
        places: NDArray[np.intp],
    ) -> None:
        """Others' changes: public as soon as they are here."""
        add_changes(self.public, self._additive, rows, changes, places, table.clock_ms)
        self._told[rows] = True

    def rebase(
        self,
        rows: NDArray[np.int32],
        other: Any,
        table: SharedTable,
        start: NDArray[np.float32],
    ) -> None:
        """Another snapshot is what is public now; what was pending stays on top of it.

        rows: of this table, for the rows 0, 1, ... of `other`, the snapshot's columns; -1: it has
        no room for one. start: the start vectors of all other rows, in their order: to the snapshot
        they are as good as new, whatever was public of them comes in messages that are read again.
        """
        known = np.flatnonzero(rows >= 0)
        rows = rows[known]
        columns, public = table.columns._asdict(), self.public
        clock_ms = table.clock_ms
        lacking = np.setdiff1d(np.arange(len(table), dtype=np.int32), rows)
        every = np.concatenate((rows, lacking))
        pending = {
            column.name: self._as_of(columns, column, every, clock_ms)
            - self._as_of(public, column, every, clock_ms)
            for column in self._additive
        }
        for name in self.public:  # count_ms, too
            public[name][rows] = getattr(other, name)[known]
            public[name][lacking] = start if name == "vectors" else 0
        for column in self._additive:
            now = self._as_of(public, column, every, clock_ms)
            columns[column.name][every] = _whole(column, now + pending[column.name])
        _bounded(columns, self._additive, every)
        if "count_ms" in public:
            columns["count_ms"][every] = clock_ms
        if self._named:
            self._told[rows] = True
            self._told[lacking] = False  # who starts from that snapshot has no id for them

    def _choose(
        self,
        rows: NDArray[np.int32],
        since: NDArray[np.int32],
        change: NDArray[np.float32],
        most: int,
        overdue: int,
    ) -> NDArray[np.intp]:
        """Places in `rows` of those that go now."""
        size = np.einsum("ij,ij->i", change, change)
        size[~self._told[rows]] = np.inf  # lists can't name an item that nobody has
        by_age = np.argsort(since, kind="stable")
        n_overdue = int(np.count_nonzero(since <= overdue))
        first = by_age[: max(n_overdue, most // 2)]
        left = most - len(first)
        if left <= 0:
            return first
        rest = by_age[len(first) :]
        largest = rest[np.argpartition(-size[rest], left - 1)[:left]]
        return np.concatenate((first, largest))

    def _publish(
        self, table: SharedTable, rows: NDArray[np.int32], column: Additive, clock_ms: int
    ) -> NDArray[Any]:
        """The difference as it travels, added to the public rows as others will add it."""
        before = self._as_of(self.public, column, rows, clock_ms)
        difference = self._as_of(table.columns._asdict(), column, rows, clock_ms) - before
        if column.wire == "<f2":
            np.clip(difference, -LARGEST_HALF, LARGEST_HALF, out=difference)
        rounded: NDArray[Any] = difference.astype(column.wire)
        self.public[column.name][rows] = _whole(column, before + rounded)
        return rounded

    @staticmethod
    def _as_of(
        columns: Mapping[str, NDArray[Any]],
        column: Additive,
        rows: NDArray[np.int32],
        clock_ms: int,
    ) -> NDArray[Any]:
        """A column's values in some rows, counts decayed to the clock."""
        values = columns[column.name][rows]
        if not column.half_life_s:
            return values
        return decayed_all(values, columns["count_ms"][rows], clock_ms, column.half_life_s)


def with_room(column: NDArray[Any], capacity: int) -> NDArray[Any]:
    """The column with room for that many rows; new ones take no memory until they are touched."""
    wider: NDArray[Any] = np.zeros((capacity, *column.shape[1:]), column.dtype)
    wider[: len(column)] = column
    return wider


def _moved(
    column: NDArray[Any], came_from: NDArray[np.int64], kept: NDArray[np.intp]
) -> NDArray[Any]:
    moved = np.zeros_like(column)
    moved[kept] = column[came_from[kept]]
    return moved


def _whole(column: Additive, values: NDArray[Any]) -> NDArray[Any]:
    """Sums as they may be."""
    return np.maximum(values, 0) if column.fades else values


def _bounded(
    columns: Mapping[str, NDArray[Any]], additive: tuple[Additive, ...], rows: NDArray[np.int32]
) -> None:
    """Sums whose counts faded in several places at once: as far from 0 as the counts allow."""
    for column in additive:
        if column.within:
            keep_bounds(columns[column.name], columns[column.within], rows)


def rows_of_hashes(
    keys: NDArray[np.uint64], values: NDArray[np.int32], hashes: NDArray[np.uint64]
) -> NDArray[np.int32]:
    """int32 (N,): the value of each hash in a `HashIndex`'s arrays, or -1; 0 is never there."""
    mask = np.uint64(len(keys) - 1)
    found = np.full(len(hashes), -1, np.int32)
    looking = np.flatnonzero(hashes)
    place = hashes & mask
    while len(looking):  # the index is half empty: a few turns
        there = keys[place[looking]]
        hit = there == hashes[looking]
        found[looking[hit]] = values[place[looking[hit]]]
        looking = looking[~hit & (there != 0)]
        place[looking] = (place[looking] + np.uint64(1)) & mask
    return found


def add_changes(
    columns: Mapping[str, NDArray[Any]],
    additive: tuple[Additive, ...],
    rows: NDArray[np.int32],
    changes: RowChanges,
    places: NDArray[np.intp],
    clock_ms: int,
) -> None:
    """Add changes[places] to rows of additive columns; a column that was not sent stays.

    clock_ms: of the table, at least `changes.clock_ms`: decayed counts are brought to it.
    """
    for kind in additive:
        half_life_s, column = kind.half_life_s, columns[kind.name]
        none = np.zeros((len(changes), *column.shape[1:]), kind.wire)
        more = changes.columns.get(kind.name, none)[places]
        if half_life_s:
            times = columns["count_ms"][rows]
            sent = np.full(len(rows), changes.clock_ms)
            column[rows] = decayed_all(column[rows], times, clock_ms, half_life_s) + decayed_all(
                more.astype(np.float64), sent, clock_ms, half_life_s
            )
        else:
            column[rows] = _whole(kind, column[rows] + more.astype(column.dtype))
    _bounded(columns, additive, rows)
    if "count_ms" in columns:
        columns["count_ms"][rows] = clock_ms
