"""The columns of the item table, as kernels and readers take them; `items.ItemTable` owns them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.facets import MOST_TOKENS, N_FACETS

CHANGED_FOR_DELTA, CHANGED_FOR_SNAPSHOT, CHANGED_BY_OTHERS = 1, 2, 4
"""Bits of `changed`. The kernel writes 3: whatever others changed before, now it is ours too."""

N_LEARNED, N_SEEN, CLOCK_MS, RING_NEXT, RING_N, N_RANKABLE = range(6)
"""Places in `ItemColumns.state`."""

UNKNOWN = -1
"""A group or token that is not known; a place that an item does not have."""

NO_ENTRY, HAS_ENTRY, LOST_ENTRY = range(3)
"""What the catalogue has of an item. One that lost its entry is in no list until it has another."""


class ItemColumns(NamedTuple):
    """What the kernel works on (I rows, K factors). Replaced when the table grows."""

    index_keys: NDArray[np.uint64]  # hash -> row, see `HashIndex`
    index_values: NDArray[np.int32]
    vectors: NDArray[np.float32]  # (I, K)
    sums: NDArray[np.float32]  # (I,) squared gradients so far, without the start value
    counts: NDArray[np.float64]  # (I,) decayed count as it stood at count_ms
    count_ms: NDArray[np.int64]  # (I,) of this and the next three
    fast: NDArray[np.float32]  # (I,) the count that decays within an hour
    slow: NDArray[np.float32]  # (I,) within two weeks
    starts: NDArray[np.float32]  # (I,) the count of first items of a session, within a day
    n_positive: NDArray[np.int64]  # (I,) positives learned
    first_number: NDArray[np.int64]  # (I,) number of the first positive of it: 1, 2, ...; 0: none
    last_number: NDArray[np.int64]  # (I,) of the last one
    seen_at: NDArray[np.int32]  # (I,) place in `seen`, -1: never a positive
    seen: NDArray[np.int32]  # (I,) rows in the order of their first positive, state[N_SEEN] of them
    entry: NDArray[np.uint8]  # (I,) NO_ENTRY, HAS_ENTRY or LOST_ENTRY
    rankable_at: NDArray[np.int32]  # (I,) place in `rankable`, -1: not to be recommended
    rankable: NDArray[np.int32]  # (I,) rows, state[N_RANKABLE] of them
    ring: NDArray[np.int32]  # (R,) rows of recent positives
    ring_count: NDArray[np.int32]  # (I,) how often a row is in the ring
    short_count: NDArray[np.int32]  # (I,) how often in its newest `n_ring_short` places
    facets: NDArray[np.int32]  # (I, N_FACETS) rows of groups, -1: unknown
    text: NDArray[np.int32]  # (I, MOST_TOKENS) rows of text tokens, -1 after the last
    rating_sum: NDArray[np.float32]  # (I,) what ratings left to explain, see `ratings`
    rating_n: NDArray[np.float32]  # (I,) how many there are, faded
    changed: NDArray[np.uint8]  # (I,) CHANGED_FOR_* bits
    state: NDArray[np.int64]  # (6,)


ONCE = ("index_keys", "index_values", "ring", "state")
"""Columns that have no row for each item."""


def item_columns(
    capacity: int,
    n_factors: int,
    n_ring: int,
    index_keys: NDArray[np.uint64],
    index_values: NDArray[np.int32],
) -> ItemColumns:
    """Empty columns of that many rows; memory is only taken as rows are touched."""
    return ItemColumns(
        index_keys=index_keys,
        index_values=index_values,
        vectors=np.zeros((capacity, n_factors), np.float32),
        sums=np.zeros(capacity, np.float32),
        counts=np.zeros(capacity, np.float64),
        count_ms=np.zeros(capacity, np.int64),
        fast=np.zeros(capacity, np.float32),
        slow=np.zeros(capacity, np.float32),
        starts=np.zeros(capacity, np.float32),
        n_positive=np.zeros(capacity, np.int64),
        first_number=np.zeros(capacity, np.int64),
        last_number=np.zeros(capacity, np.int64),
        seen_at=np.full(capacity, UNKNOWN, np.int32),
        seen=np.zeros(capacity, np.int32),
        entry=np.zeros(capacity, np.uint8),
        rankable_at=np.full(capacity, UNKNOWN, np.int32),
        rankable=np.zeros(capacity, np.int32),
        ring=np.zeros(n_ring, np.int32),
        ring_count=np.zeros(capacity, np.int32),
        short_count=np.zeros(capacity, np.int32),
        facets=np.full((capacity, N_FACETS), UNKNOWN, np.int32),
        text=np.full((capacity, MOST_TOKENS), UNKNOWN, np.int32),
        rating_sum=np.zeros(capacity, np.float32),
        rating_n=np.zeros(capacity, np.float32),
        changed=np.zeros(capacity, np.uint8),
        state=np.zeros(6, np.int64),
    )


def grown(present: ItemColumns, capacity: int) -> ItemColumns:
    """The same columns with room for that many rows."""
    bigger = item_columns(
        capacity,
        present.vectors.shape[1],
        len(present.ring),
        present.index_keys,
        present.index_values,
    )
    for name, column in present._asdict().items():
        if name not in ONCE:
            getattr(bigger, name)[: len(column)] = column
    return bigger._replace(ring=present.ring, state=present.state)


def mark_others(changed: NDArray[np.uint8], rows: NDArray[np.int32]) -> None:
    """Rows changed, but not by us: unless we have, too, since readers last looked."""
    quiet = rows[changed[rows] & CHANGED_FOR_DELTA == 0]
    changed[quiet] |= CHANGED_BY_OTHERS
    changed[rows] |= CHANGED_FOR_DELTA | CHANGED_FOR_SNAPSHOT


def count_ring(columns: ItemColumns, n_items: int, n_short: int) -> None:
    """Count anew how often each item is in the ring, and in its newest n_short places."""
    in_ring, newest = _ring_rows(columns, n_short)
    columns.ring_count[:n_items] = np.bincount(in_ring, minlength=n_items)
    columns.short_count[:n_items] = np.bincount(newest, minlength=n_items)


def recount_ring(columns: ItemColumns, before: ItemColumns, n_short: int) -> None:
    """The same where the counts are of the ring as it was before: no work grows with the items."""
    counts = (columns.ring_count, columns.short_count)
    rows_before, rows_now = _ring_rows(before, n_short), _ring_rows(columns, n_short)
    for count, was, now in zip(counts, rows_before, rows_now, strict=True):
        np.subtract.at(count, was, 1)
        np.add.at(count, now, 1)


def _ring_rows(columns: ItemColumns, n_short: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    n_ring, upcoming = int(columns.state[RING_N]), int(columns.state[RING_NEXT])
    newest = (upcoming - 1 - np.arange(min(n_short, n_ring))) % len(columns.ring)
    return columns.ring[:n_ring], columns.ring[newest]
