"""What is no sum, taken over from another table: lists, groups, queries, ring and numbers.

For a table that goes back to a snapshot while its own learning goes on (`ItemTable.rebase`). Rows
are local to a table, so all that names one is written anew. `rows`: of the taking table, for the
rows 0, 1, ... of the other one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.facets import N_FACETS
from profiles.groups import N_GROUPS, Groups, GroupTable
from profiles.item_columns import N_LEARNED, RING_N, RING_NEXT, ItemColumns, count_ring
from profiles.lists import Lists
from profiles.queries import N_SWEEPS, QueryTable


def take_lists(mine: Lists, other: Lists, rows: NDArray[np.int32]) -> None:
    """Neighbour lists; an item that the other table lacks has none."""
    before = np.flatnonzero(mine.n)
    for column in mine:
        column[before] = 0
    used = np.flatnonzero(other.n)
    for name, column in other._asdict().items():
        getattr(mine, name)[rows[used]] = column[used]
    mine.rows[rows[used]] = rows[other.rows[used]]


def take_groups(mine: GroupTable, other: Groups) -> None:
    """Counts of groups and of what came next; one that has no row here any more is left out."""
    n = int(other.state[N_GROUPS])
    to = np.full(n, -1, np.int32)
    for facet in range(N_FACETS):
        of_facet = np.flatnonzero(other.facet[:n] == facet)
        to[of_facet] = mine.intern(other.hash[of_facet], facet, freed=True)
    columns = mine.columns
    for column in (columns.counts, columns.out, columns.n):
        column[:] = 0
    known = np.flatnonzero(to >= 0)
    for name in ("counts", "out", "n"):
        getattr(columns, name)[to[known]] = getattr(other, name)[known]
    next_groups = to[other.to[known]]
    columns.to[to[known]] = np.maximum(next_groups, 0)
    columns.weight[to[known]] = np.where(next_groups < 0, 0, other.weight[known])
    columns.totals[:] = other.totals
    columns.changed[: len(mine)] |= 3


def take_queries(mine: QueryTable, other: QueryTable, rows: NDArray[np.int32]) -> QueryTable:
    """The other table's words and queries, in a table that readers take for swept."""
    mine.give_way(other)
    columns, n = other.columns, len(other)
    columns.items[:n] = rows[columns.items[:n]] if len(rows) else 0
    columns.changed[:n] |= 3
    columns.state[N_SWEEPS] = mine.columns.state[N_SWEEPS] + 1
    return other


def take_numbers(
    mine: ItemColumns, other: ItemColumns, rows: NDArray[np.int32], n_items: int, n_short: int
) -> None:
    """Positives by number, and the ring. n_items: of the taking table; n_short: see `note_item`."""
    mine.first_number[:n_items] = mine.last_number[:n_items] = 0
    mine.first_number[rows] = other.first_number[: len(rows)]
    mine.last_number[rows] = other.last_number[: len(rows)]
    for place in (N_LEARNED, RING_N, RING_NEXT):
        mine.state[place] = other.state[place]
    n_ring = int(mine.state[RING_N])
    mine.ring[:n_ring] = rows[other.ring[:n_ring]]
    count_ring(mine, n_items, n_short)
