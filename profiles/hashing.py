"""64-bit hashes of ids and tokens, and an index from hash to row that kernels can use.

A record holds the hash of an item, never its row: rows differ from process to process. Two items
of one hash would share a history entry; at 10 million items the odds of any such pair are 3e-6.
"""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

from profiles.jit import Integer, compiled

TOKEN_SEED = 1
"""Words are hashed in a space of their own: the query 'a' is not the item 'a'."""

SHORT = 0xFFFFFFFF
"""The bits of a short hash, as an own table keeps it. Of a million items about 116 pairs share one:
each is then taken for the other, by the users who had one of them."""


def item_hash(item_id: str) -> int:
    """xxh3_64 of the UTF-8 id; never 0, which means "no item".

    >>> item_hash("85123A") == item_hash("85123A"), item_hash("") > 0
    (True, True)
    """
    return xxhash.xxh3_64_intdigest(item_id.encode()) or 1


def token_hash(token: str) -> int:
    """xxh3_64 with seed 1 of the UTF-8 token; never 0."""
    return xxhash.xxh3_64_intdigest(token.encode(), seed=TOKEN_SEED) or 1


def user_hash(user_id: str) -> int:
    """xxh3_64 of the UTF-8 id; never 0, which means "nobody"."""
    return xxhash.xxh3_64_intdigest(user_id.encode()) or 1


def session_hash(session_id: str | None) -> int:
    """The lower 32 bits of the xxh3_64 of the UTF-8 id; 0: no session, and no id has it.

    >>> session_hash(None), session_hash("s1") == session_hash("s2")
    (0, False)
    """
    if session_id is None:
        return 0
    return xxhash.xxh3_64_intdigest(session_id.encode()) & SHORT or 1


@compiled
def index_get(keys: NDArray[np.uint64], values: NDArray[np.int32], key: Integer) -> Integer:
    """The value under `key`, or -1. keys: uint64 (2^n,), 0 is a free place; values: int32."""
    mask = np.uint64(len(keys) - 1)
    place = np.uint64(key) & mask
    while True:
        found = keys[place]
        if found == np.uint64(key):
            return np.int64(values[place])
        if found == np.uint64(0):
            return np.int64(-1)
        place = (place + np.uint64(1)) & mask


@compiled
def index_get_short(keys: NDArray[np.uint64], values: NDArray[np.int32], short: Integer) -> Integer:
    """The value of a key whose lower 32 bits are `short`, or -1; of several the first on the way.

    The place of a key follows from its lower bits alone, so nothing else needs an index.
    """
    mask = np.uint64(len(keys) - 1)
    place = np.uint64(short) & mask
    while True:
        found = keys[place]
        if found == np.uint64(0):
            return np.int64(-1)
        if (found & np.uint64(SHORT)) == np.uint64(short):
            return np.int64(values[place])
        place = (place + np.uint64(1)) & mask


@compiled
def index_put(
    keys: NDArray[np.uint64], values: NDArray[np.int32], new: NDArray[np.uint64], first: Integer
) -> Integer:
    """Put `new` under the values first, first + 1, ...; a key that is there keeps its value.

    Returns how many keys were new. The caller keeps at least half of the places free.
    """
    mask = np.uint64(len(keys) - 1)
    added = 0
    for number in range(len(new)):
        place = new[number] & mask
        while keys[place] != np.uint64(0) and keys[place] != new[number]:
            place = (place + np.uint64(1)) & mask
        if keys[place] == np.uint64(0):
            keys[place] = new[number]
            values[place] = first + number
            added += 1
    return added


@compiled
def index_get_many(
    keys: NDArray[np.uint64],
    values: NDArray[np.int32],
    wanted: NDArray[np.uint64],
    rows: NDArray[np.int32],
) -> None:
    """Write the value of each wanted key into rows; -1 for one that isn't there, and for 0."""
    for number in range(len(wanted)):
        rows[number] = -1
        if wanted[number] != np.uint64(0):
            rows[number] = index_get(keys, values, wanted[number])


class HashIndex:
    """Open addressing from a uint64 hash to an int32 row; grows, never shrinks, never deletes.

    `keys` and `values` are handed to kernels; they are replaced when the index grows.

    >>> index = HashIndex()
    >>> index.append(np.uint64([7, 9]))
    >>> index.get(9), index.get(8)
    (1, -1)
    """

    def __init__(self, capacity: int = 512) -> None:
        places = 1 << max(4, (2 * capacity - 1).bit_length())
        self.keys: NDArray[np.uint64] = np.zeros(places, np.uint64)
        self.values: NDArray[np.int32] = np.zeros(places, np.int32)
        self._in_order: list[NDArray[np.uint64]] = []
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def append(self, hashes: NDArray[np.uint64]) -> None:
        """Give each hash the next row. A hash that is there already keeps its old row."""
        if not len(hashes):
            return
        if 2 * (self._n + len(hashes)) > len(self.keys):
            everything = np.concatenate([*self._in_order, hashes])
            places = 1 << (4 * len(everything) - 1).bit_length()
            self.keys = np.zeros(places, np.uint64)
            self.values = np.zeros(places, np.int32)
            index_put(self.keys, self.values, everything, 0)
            self._in_order = [everything]
        else:
            index_put(self.keys, self.values, hashes, self._n)
            self._in_order.append(hashes.copy())
        self._n += len(hashes)

    def get(self, key: int) -> int:
        """The row of a hash, or -1."""
        return int(index_get(self.keys, self.values, np.uint64(key)))

    def rows(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """int32 (N,): the row of each hash; -1 for one that isn't there, and for 0."""
        rows = np.zeros(len(hashes), np.int32)
        index_get_many(self.keys, self.values, hashes, rows)
        return rows
