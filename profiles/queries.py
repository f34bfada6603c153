"""Words of queries and whole queries: what was opened after each, and the words' vectors.

A row is a word or a whole query (in spaces of their own); its list counts the items that were had
while it was pending. A word also has a vector: (2/sqrt n) sum Q of the n words moves the user
vector. Shoppers can type anything, so rows are found and made inside the fold, in the order of
events, and when all are used, the half that was unused longest is given up: the cut of batches
changes nothing. Rows are local to this process.

Size: (4 K + 8 L + 41) bytes a row, 809 at K = 64, L = 64, of `MOST_ROWS` at most: 53 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import index_get
from profiles.item_columns import CHANGED_BY_OTHERS, CHANGED_FOR_DELTA
from profiles.jit import Integer, Real, compiled, compiled_inline, compiled_inner
from profiles.negatives import GOLDEN, mix
from profiles.sharing import TOKEN_COLUMNS, Sharing, rows_of_hashes
from profiles.tokens import token_step

MOST_ROWS = 65_536
"""Words and whole queries together."""

MOST_LISTED = 64
"""L: items that are counted after one; a full list gives the smallest place to the newcomer."""

MOST_SUM = 2_000.0
"""Where the counts after one are halved, so that old habits fade."""

QUERY_SHARE = 2.0
"""What the words of a pending query weigh in the user vector, over the root of their number."""

QUERY_RATE, QUERY_SUM_START = 0.2, 0.001
"""AdaGrad of the words: they start at zero, and most are seen seldom."""

N_QUERIES, N_SWEEPS, N_NOTED = range(3)
"""Places in `Queries.state`. N_NOTED: rows, the first ones, that were there at the last
`QueryTable.note` and have not been given up since."""


class Queries(NamedTuple):
    """What kernels work on (Q rows, K factors, L listed). Replaced when the table grows."""

    index_keys: NDArray[np.uint64]  # hash -> row
    index_values: NDArray[np.int32]
    hash: NDArray[np.uint64]  # (Q,)
    vectors: NDArray[np.float32]  # (Q, K), zeros of a whole query
    sums: NDArray[np.float32]  # (Q,) squared gradients so far, without the start value
    items: NDArray[np.int32]  # (Q, L) rows of the item table
    counts: NDArray[np.float32]  # (Q, L)
    n: NDArray[np.int32]  # (Q,) how many of them
    total: NDArray[np.float32]  # (Q,) all that was counted
    used: NDArray[np.int64]  # (Q,) number of the positive that last counted here
    changed: NDArray[np.uint8]  # (Q,) bits as in `ItemColumns`
    state: NDArray[np.int64]  # (3,)


@compiled
def whole_query(words: NDArray[np.uint64], n: Integer) -> Integer:
    """The hash of a query of n words, in whatever order they come; never 0."""
    total = np.uint64(n)
    for number in range(n):
        total += mix(words[number])
    return mix(total + GOLDEN) | np.uint64(1)


@compiled
def _put(queries: Queries, key: Integer, row: Integer) -> None:
    mask = np.uint64(len(queries.index_keys) - 1)
    place = np.uint64(key) & mask
    while queries.index_keys[place] != np.uint64(0):
        place = (place + np.uint64(1)) & mask
    queries.index_keys[place] = key
    queries.index_values[place] = row


@compiled
def _index_rows(queries: Queries) -> None:
    queries.index_keys[:] = 0
    for row in range(queries.state[N_QUERIES]):
        _put(queries, queries.hash[row], row)


@compiled_inline
def move_row(array: NDArray[Any], row: Integer, to: Integer) -> None:
    """array[to] = array[row], of two dimensions: numba would allocate a copy."""
    for place in range(array.shape[1]):
        array[to, place] = array[row, place]


@compiled_inner
def _sweep(queries: Queries) -> None:
    """Give up the half of the rows that was unused longest; the others move together."""
    n = queries.state[N_QUERIES]
    limit, most = np.int64(0), np.int64(0)
    for row in range(n):
        most = max(most, queries.used[row])
    while limit < most:  # the least number that more than half of the rows don't exceed
        middle = limit + (most - limit) // 2
        n_below = 0
        for row in range(n):
            n_below += queries.used[row] <= middle
        if n_below > n // 2:
            most = middle
        else:
            limit = middle + 1
    queries.index_keys[:] = 0
    kept, kept_noted = 0, 0
    for row in range(n):
        if queries.used[row] > limit:
            kept_noted += row < queries.state[N_NOTED]
            queries.hash[kept] = queries.hash[row]
            move_row(queries.vectors, row, kept)
            queries.sums[kept] = queries.sums[row]
            move_row(queries.items, row, kept)
            move_row(queries.counts, row, kept)
            queries.n[kept] = queries.n[row]
            queries.total[kept] = queries.total[row]
            queries.used[kept] = queries.used[row]
            queries.changed[kept] = 3
            _put(queries, queries.hash[kept], kept)
            kept += 1
    queries.state[N_QUERIES] = kept
    queries.state[N_NOTED] = kept_noted
    queries.state[N_SWEEPS] += 1


@compiled_inner
def _row_of(queries: Queries, key: Integer, number: Integer) -> Integer:
    """The row of a word or query, made if it has none."""
    row: Integer = index_get(queries.index_keys, queries.index_values, key)
    if row < 0:
        if queries.state[N_QUERIES] == len(queries.hash):
            _sweep(queries)
        row = queries.state[N_QUERIES]
        queries.state[N_QUERIES] += 1
        queries.hash[row] = key
        for k in range(queries.vectors.shape[1]):
            queries.vectors[row, k] = 0
        queries.sums[row] = 0
        queries.n[row] = 0
        queries.total[row] = 0
        _put(queries, key, row)
    queries.used[row] = number
    queries.changed[row] = 3
    return row


@compiled
def _add_rows(queries: Queries, keys: NDArray[np.uint64], number: Integer) -> None:
    for key in keys:
        _row_of(queries, key, number)


@compiled_inner
def _count(queries: Queries, row: Integer, item: Integer, weight: Real) -> None:
    n = np.int64(queries.n[row])
    place: Integer = np.int64(-1)
    for candidate in range(n):
        if queries.items[row, candidate] == item:
            place = candidate
    if place >= 0:
        queries.counts[row, place] += np.float32(weight)
    else:
        if n < queries.items.shape[1]:
            place = n
            queries.n[row] = n + 1
        else:
            place = 0
            for candidate in range(1, n):
                if queries.counts[row, candidate] < queries.counts[row, place]:
                    place = candidate
        queries.items[row, place] = item
        queries.counts[row, place] = weight
    queries.total[row] += np.float32(weight)
    if queries.total[row] > np.float32(MOST_SUM):
        queries.total[row] *= np.float32(0.5)
        for candidate in range(queries.n[row]):
            queries.counts[row, candidate] *= np.float32(0.5)


@compiled
def count_query(
    queries: Queries, words: NDArray[np.uint64], n: Integer, item: Integer, weight: Real,
    number: Integer,
) -> None:  # fmt: skip
    """A positive of `item` while a query of n words was pending. number: of the positive, rising.

    The table must have room for n + 1 rows, or all the rows it may have (`QueryTable.reserve`).
    """
    for place in range(n):
        _count(queries, _row_of(queries, words[place], number), item, weight)
    if n > 0:
        _count(queries, _row_of(queries, whole_query(words, n), number), item, weight)


@compiled
def query_rows(
    queries: Queries, words: NDArray[np.uint64], n: Integer, rows: NDArray[np.int64]
) -> None:
    """Write the rows of n words, and behind them that of the whole query; -1: never seen.

    rows: int64, longer than n.
    """
    for place in range(n):
        rows[place] = index_get(queries.index_keys, queries.index_values, words[place])
    whole = whole_query(words, n)
    rows[n] = np.int64(-1)
    if n > 0:
        rows[n] = index_get(queries.index_keys, queries.index_values, whole)


@compiled
def add_words(
    queries: Queries, rows: NDArray[np.int64], n: Integer, x: NDArray[np.float32]
) -> None:
    """Add what the n words of a pending query say to a user vector; rows: of `query_rows`."""
    share = np.float32(QUERY_SHARE) / np.sqrt(np.float32(max(n, 1)))
    for place in range(n):
        if rows[place] >= 0:
            for k in range(len(x)):
                x[k] += share * queries.vectors[rows[place], k]


@compiled
def words_step(
    queries: Queries, words: NDArray[np.uint64], n: Integer, gradient: NDArray[np.float32],
    square: Real, number: Integer,
) -> None:  # fmt: skip
    """Move the n words against the gradient on the user vector, whose square is `square`."""
    share = np.float32(QUERY_SHARE) / np.sqrt(np.float32(max(n, 1)))
    for place in range(n):
        row = _row_of(queries, words[place], number)
        token_step(queries, row, share, gradient, square, QUERY_RATE, QUERY_SUM_START)


class QueryTable:
    """All words and queries of one item table; its columns are handed to kernels.

    sharing: what others know of the words' vectors, while the item table is shared.
    """

    clock_ms = 0  # nothing here decays
    ids: Sequence[str] = ()  # words are known by their hash alone

    def __init__(self, n_factors: int, capacity: int = 256, most: int = MOST_ROWS) -> None:
        """most: at least 600, so that a sweep leaves room for a query of 255 words."""
        self.sharing: Sharing | None = None
        self._n_factors = n_factors
        self._most = most
        self._known: NDArray[np.uint64] = np.zeros(0, np.uint64)  # hashes as `sharing` has them
        self._n_sweeps = 0
        self.columns = self._columns(capacity)

    def __len__(self) -> int:
        return int(self.columns.state[N_QUERIES])

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Of the words and queries, by row."""
        return self.columns.hash

    def rows_of_hashes(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each; -1 for one that isn't there, and for 0."""
        return rows_of_hashes(self.columns.index_keys, self.columns.index_values, hashes)

    def intern(self, hashes: NDArray[np.uint64], number: int) -> NDArray[np.int32]:
        """The same, with new rows for what is new, while there are any. number: of a positive."""
        self.reserve(len(hashes))
        new = hashes[(self.rows_of_hashes(hashes) < 0) & (hashes != 0)]
        _add_rows(self.columns, new[: len(self.columns.hash) - len(self)], number)
        return self.rows_of_hashes(hashes)

    def share(self) -> None:
        """Keep account of what others don't know of words' vectors."""
        self.sharing = Sharing(self, TOKEN_COLUMNS, named=False)
        self._note_rows()

    def note(self) -> None:
        """Words that the fold changed are pending; what others know moves with swept rows."""
        assert self.sharing is not None
        columns, n = self.columns, len(self)
        if int(columns.state[N_SWEEPS]) != self._n_sweeps:
            before = {key: row for row, key in enumerate(self._known.tolist())}
            came_from = [before.get(key, -1) for key in columns.hash[:n].tolist()]
            came_from[columns.state[N_NOTED] :] = [-1] * (n - int(columns.state[N_NOTED]))
            self.sharing.move(np.array(came_from, np.int64))
        self._note_rows()
        bits = columns.changed[:n] & (CHANGED_FOR_DELTA | CHANGED_BY_OTHERS)
        moved = (bits == CHANGED_FOR_DELTA) & (columns.sums[:n] != self.sharing.public["sums"][:n])
        self.sharing.note(np.flatnonzero(moved).astype(np.int32))

    def give_way(self, other: QueryTable) -> None:
        """Another snapshot's table takes the place of this one: what of ours is pending goes on
        top of it, and what others know is what it holds."""
        assert self.sharing is not None
        self.note()
        other.reserve(len(self.hashes) - len(other))  # others' account has no fewer rows than ours
        mine, other.sharing = self.columns, self.sharing
        pending = np.flatnonzero(mine.sums[: len(self)] != self.sharing.public["sums"][: len(self)])
        other.intern(mine.hash[pending], 0)
        other.sharing.grow(len(other.hashes))
        rows = self.rows_of_hashes(other.hashes[: len(other)])
        known = np.flatnonzero(rows >= 0)
        ahead = {
            name: getattr(mine, name)[rows[known]] - self.sharing.public[name][rows[known]]
            for name in ("vectors", "sums")
        }
        other.sharing.move(rows.astype(np.int64))
        for name, difference in ahead.items():
            own = getattr(other.columns, name)
            other.sharing.public[name][:] = own
            own[known] += difference
        np.maximum(other.columns.sums, 0, out=other.columns.sums)
        other._note_rows()

    def _note_rows(self) -> None:
        """How `sharing` has the rows now."""
        swept = int(self.columns.state[N_SWEEPS])
        if len(self._known) != len(self) or swept != self._n_sweeps:
            self._known = self.columns.hash[: len(self)].copy()
        self._n_sweeps = swept
        self.columns.state[N_NOTED] = len(self)

    def reserve(self, n: int) -> None:
        """Make room for n more rows, or for all that there may be: before a batch that has n."""
        least = min(len(self) + n, self._most)
        present = self.columns
        if least <= len(present.hash):
            return
        bigger, rows = self._columns(min(max(least, 2 * len(present.hash)), self._most)), len(self)
        for name in (
            "hash", "vectors", "sums", "items", "counts", "n", "total", "used", "changed",
        ):  # fmt: skip
            getattr(bigger, name)[:rows] = getattr(present, name)[:rows]
        self.columns = bigger._replace(state=present.state)
        self.index()
        if self.sharing is not None:
            self.sharing.grow(len(self.columns.hash))

    def restore(self, n: int) -> None:
        """n empty rows, of a table that has none, to be filled from a snapshot; then `index`."""
        self.reserve(n)
        self.columns.state[N_QUERIES] = n

    def index(self) -> None:
        """Make the index anew from the hashes."""
        _index_rows(self.columns)

    def _columns(self, capacity: int) -> Queries:
        places = 1 << (2 * capacity - 1).bit_length()
        return Queries(
            index_keys=np.zeros(places, np.uint64),
            index_values=np.zeros(places, np.int32),
            hash=np.zeros(capacity, np.uint64),
            vectors=np.zeros((capacity, self._n_factors), np.float32),
            sums=np.zeros(capacity, np.float32),
            items=np.zeros((capacity, MOST_LISTED), np.int32),
            counts=np.zeros((capacity, MOST_LISTED), np.float32),
            n=np.zeros(capacity, np.int32),
            total=np.zeros(capacity, np.float32),
            used=np.zeros(capacity, np.int64),
            changed=np.zeros(capacity, np.uint8),
            state=np.zeros(3, np.int64),
        )
