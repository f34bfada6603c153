"""Neighbour lists: for each item, which items users had next, and which before.

Owns the counts of pairs within a user's five newest items, and their bounds. A pair is kept twice:
as `forward` of the earlier item and as `backward` of the later one.

Size: 12 bytes an entry, 576 an item that has had 48 neighbours; rows never touched take no memory.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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
