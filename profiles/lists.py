"""Neighbour lists: for each item, which items users had next, and which before.

Owns the counts of pairs within a user's five newest items, and their bounds. A pair is kept twice:
as `forward` of the earlier item and as `backward` of the later one.

Size: 12 bytes an entry, 576 an item that has had 48 neighbours; rows never touched take no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, Real, compiled_inner

DEPTH = 5
"""Newest items of a user that count as neighbours of the next one."""

NEARNESS = 0.5
"""What each of them counts against the next newer one."""

MOST_SUM = 2_000.0
"""Where the counts of a list are halved, so that old habits fade."""


class Lists(NamedTuple):
    """What kernels work on (I rows, L places, n[i] of them used). Replaced when the table grows."""

    rows: NDArray[np.int32]  # (I, L) neighbours
    forward: NDArray[np.float32]  # (I, L) how often the neighbour came after the item
    backward: NDArray[np.float32]  # (I, L) how often before it
    n: NDArray[np.int32]  # (I,)
    forward_sum: NDArray[np.float32]  # (I,) of all that was counted, dropped entries too
    backward_sum: NDArray[np.float32]  # (I,)


def lists_for(capacity: int, length: int) -> Lists:
    """Empty lists; memory is only taken as they are filled."""
    return Lists(
        rows=np.zeros((capacity, length), np.int32),
        forward=np.zeros((capacity, length), np.float32),
        backward=np.zeros((capacity, length), np.float32),
        n=np.zeros(capacity, np.int32),
        forward_sum=np.zeros(capacity, np.float32),
        backward_sum=np.zeros(capacity, np.float32),
    )


def grown_lists(present: Lists, capacity: int) -> Lists:
    """The same lists with room for that many items."""
    bigger = lists_for(capacity, present.rows.shape[1])
    used = np.flatnonzero(present.n)  # the others take no memory, and shall not begin to
    for name, column in present._asdict().items():
        getattr(bigger, name)[used] = column[used]
    return bigger


@compiled_inner
def _count_pair(lists: Lists, row: Integer, other: Integer, forward: Real, backward: Real) -> None:
    n = np.int64(lists.n[row])
    place: Integer = np.int64(-1)
    for candidate in range(n):
        if lists.rows[row, candidate] == other:
            place = candidate
            break
    if place < 0:
        if n < lists.rows.shape[1]:
            place = n
            lists.n[row] = n + 1
        else:
            place = 0
            smallest = np.float32(np.inf)
            for candidate in range(n):
                count = _pair(lists, row, candidate)
                if count < smallest:
                    place, smallest = candidate, count
        lists.rows[row, place] = other
        lists.forward[row, place] = 0
        lists.backward[row, place] = 0
    lists.forward[row, place] += np.float32(forward)
    lists.backward[row, place] += np.float32(backward)
    lists.forward_sum[row] += np.float32(forward)
    lists.backward_sum[row] += np.float32(backward)
    if lists.forward_sum[row] + lists.backward_sum[row] > np.float32(MOST_SUM):
        lists.forward_sum[row] *= np.float32(0.5)
        lists.backward_sum[row] *= np.float32(0.5)
        for candidate in range(lists.n[row]):
            lists.forward[row, candidate] *= np.float32(0.5)
            lists.backward[row, candidate] *= np.float32(0.5)


@compiled_inner
def _pair(lists: Lists, row: Integer, place: Integer) -> Real:
    """What two items have in common; that one came after the other counts twice."""
    return lists.forward[row, place] + np.float32(0.5) * lists.backward[row, place]


@compiled_inner
def count_pairs(
    lists: Lists, history: NDArray[np.int64], n: Integer, item: Integer, weight: Real,
    changed: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Count a positive of `item` after a history. history: rows of its n items, newest first, -1:
    not known here. changed: of `ItemColumns`."""
    amount = np.float32(weight)
    for a in range(min(n, DEPTH)):
        row = history[a]
        if row >= 0:
            _count_pair(lists, row, item, amount, np.float32(0))
            _count_pair(lists, item, row, np.float32(0), amount)
            changed[row] = 3
        amount *= np.float32(NEARNESS)
