"""What of a model changed, as a copy, and a copy of a model that follows by such deltas.

Owns which arrays readers get: what scoring takes, and nothing that only learning needs (sums of
squares, curvature, the list of seen items); those stay empty in a copy. Knows no ids: rows are
those of the table that the copy follows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from profiles.blend import new_blend
from profiles.groups import N_GROUPS, Groups, GroupTable
from profiles.hashing import HashIndex
from profiles.item_columns import (
    CHANGED_BY_OTHERS,
    CHANGED_FOR_DELTA,
    ItemColumns,
    item_columns,
    recount_ring,
)
from profiles.lists import Lists, grown_lists, lists_for
from profiles.model import Model
from profiles.queries import N_QUERIES, N_SWEEPS, Queries, QueryTable
from profiles.ratings import new_ratings
from profiles.shape import FoldConfig, ModelShape
from profiles.sharing import with_room
from profiles.tokens import N_TOKENS, Tokens, TokenTable

Table = TypeVar("Table", ItemColumns, Groups, Tokens, Queries)

OF_ITEM = (
    "vectors", "counts", "count_ms", "fast", "slow", "starts", "n_positive", "first_number",
    "last_number", "rankable_at", "facets", "text",
)  # fmt: skip
OF_LISTS = ("n", "forward_sum", "backward_sum")
OF_LISTED = ("rows", "forward", "backward")
OF_GROUP = ("hash", "facet", "counts", "out", "to", "weight", "n")
OF_TOKEN = ("hash", "vectors")
OF_QUERY = ("hash", "vectors", "items", "counts", "n", "total")


@dataclass(frozen=True, slots=True)
class TableDelta:
    """Rows of one table that changed, copied. rows: int32 (N,), rising.

    n: rows that the table has. columns: by name, of those rows. whole: arrays that aren't of rows.
    """

    n: int
    rows: NDArray[np.int32]
    columns: dict[str, NDArray[Any]]
    whole: dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """What changed of each part.

    listed: entries of those of the lists that have any. theta: all of it, it is small.
    """

    items: TableDelta
    lists: TableDelta
    listed: TableDelta
    groups: TableDelta
    tokens: TableDelta
    queries: TableDelta
    theta: NDArray[np.float32]


def take_model_delta(
    model: Model, rows: NDArray[np.int32], n_items: int, everything: bool
) -> ModelDelta:
    """Copy what changed since the last call; in the thread that folds.

    rows: of the items that changed; whose list did has changed, too. everything: all rows, of the
    other tables as well.
    """
    listed = rows[model.lists.n[rows] > 0]
    return ModelDelta(
        items=_copied(model.items, OF_ITEM, ("ring", "state"), rows, n_items),
        lists=_copied(model.lists, OF_LISTS, (), rows, n_items),
        listed=_copied(model.lists, OF_LISTED, (), listed, n_items),
        groups=_changed(model.groups, OF_GROUP, ("totals", "state"), N_GROUPS, everything),
        tokens=_changed(model.tokens, OF_TOKEN, ("state",), N_TOKENS, everything),
        queries=_changed(model.queries, OF_QUERY, ("state",), N_QUERIES, everything),
        theta=model.blend.theta.copy(),
    )


def _changed(
    table: Groups | Tokens | Queries,
    names: Iterable[str],
    whole: Iterable[str],
    place: int,
    everything: bool,
) -> TableDelta:
    n = int(table.state[place])
    rows = np.flatnonzero(table.changed[:n] & CHANGED_FOR_DELTA).astype(np.int32)
    table.changed[rows] &= 0xFF ^ (CHANGED_FOR_DELTA | CHANGED_BY_OTHERS)
    if everything:
        rows = np.arange(n, dtype=np.int32)
    return _copied(table, names, whole, rows, n)


def _copied(
    table: Any, names: Iterable[str], whole: Iterable[str], rows: NDArray[np.int32], n: int
) -> TableDelta:
    return TableDelta(
        n=n,
        rows=rows,
        columns={name: getattr(table, name)[rows] for name in names},
        whole={name: getattr(table, name).copy() for name in whole},
    )


class ModelCopy:
    """A model that follows another one. model: replaced when an array grows."""

    def __init__(self, shape: ModelShape, config: FoldConfig, capacity: int = 1024) -> None:
        self._shape = shape
        self._config = config
        self.model = self._empty(capacity)

    def reset(self) -> None:
        """Begin anew, with as much room as there is."""
        self.model = self._empty(len(self.model.items.counts))

    def _empty(self, capacity: int) -> Model:
        self._items_index = HashIndex(capacity)
        self._query_index = HashIndex()
        self._n_queries = 0
        index = self._items_index
        return Model(
            items=item_columns(
                capacity, self._shape.n_factors, self._config.n_ring, index.keys, index.values
            ),
            lists=lists_for(capacity, self._config.n_list),
            groups=GroupTable().columns,
            tokens=TokenTable(self._shape.n_factors).columns,
            queries=QueryTable(self._shape.n_factors).columns,
            blend=new_blend(),
            ratings=new_ratings(1),  # nobody who reads asks for ratings
        )

    def row_of_hash(self, key: int) -> int:
        """The row of an item, by its 64-bit hash; -1 when it is not here."""
        return self._items_index.get(key)

    def apply(self, delta: ModelDelta, new_hashes: NDArray[np.uint64]) -> None:
        """Bring the copy up to a delta. new_hashes: of the items added since the last one."""
        before = self.model
        self._items_index.append(new_hashes)
        items = _filled(before.items, delta.items, (*OF_ITEM, "ring_count", "short_count"))
        # An item leaves the ring without an event of its own, so its row is in no delta.
        n_short = min(self._config.n_ring_short, self._config.n_ring)
        recount_ring(items, before.items, n_short)
        sweeps = int(delta.queries.whole["state"][N_SWEEPS])
        swept = sweeps != int(before.queries.state[N_SWEEPS])
        queries = _filled(before.queries, delta.queries, OF_QUERY)
        if swept:
            self._query_index = HashIndex(delta.queries.n)
            self._n_queries = 0
        self._query_index.append(queries.hash[self._n_queries : delta.queries.n])
        self._n_queries = delta.queries.n
        before.blend.theta[:] = delta.theta
        self.model = Model(
            items=items._replace(
                index_keys=self._items_index.keys, index_values=self._items_index.values
            ),
            lists=_filled_lists(before.lists, delta),
            groups=_filled(before.groups, delta.groups, OF_GROUP),
            tokens=_filled(before.tokens, delta.tokens, OF_TOKEN),
            queries=queries._replace(
                index_keys=self._query_index.keys, index_values=self._query_index.values
            ),
            blend=before.blend,
            ratings=before.ratings,
        )


def _filled(table: Table, delta: TableDelta, names: Iterable[str]) -> Table:
    """The table with the delta in it. names: all its columns of rows that a copy has."""
    capacity = len(getattr(table, next(iter(delta.columns))))
    columns: dict[str, NDArray[Any]] = {}
    if delta.n > capacity:
        more = max(2 * capacity, delta.n)
        for name in names:
            columns[name] = with_room(getattr(table, name), more)
    table = table._replace(**columns, **delta.whole)
    for name, column in delta.columns.items():
        getattr(table, name)[delta.rows] = column
    return table


def _filled_lists(lists: Lists, delta: ModelDelta) -> Lists:
    """The same for neighbour lists, most of which are short."""
    if delta.lists.n > len(lists.n):
        lists = grown_lists(lists, max(2 * len(lists.n), delta.lists.n))
    for part in (delta.listed, delta.lists):
        for name, column in part.columns.items():
            getattr(lists, name)[part.rows] = column
    return lists
