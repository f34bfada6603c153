"""An inverted file over item vectors that move: which items have a large x . e.

Owns the cells, whose middles are found by k-means over a sample, and one byte a factor of each
item, kept cell by cell so that a search reads memory in order. An item goes to another cell when it
has strayed from the middle of its own. Exact scores are not its business.

Size: K + 8 bytes a place and 8 an item, some 90 an item at K = 64: a fifth of the places is free.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, compiled, compiled_inner
from profiles.model import Model
from profiles.tokens import Tokens, read_item

BLOCK = 64
"""Places of a block. A cell is a chain of blocks, so that it grows without moving the others."""

ITEMS_A_CELL = 256
"""On average: with fewer, choosing cells takes longer than reading them."""

MOST_CELLS = 8_192
"""Their middles are read for each list, 2 MB at K = 64."""

SAMPLE_A_CELL = 48
"""Items that k-means is given for each cell."""

ROUNDS = 6
"""Of k-means."""

AT_ONCE = 2_048
"""Items that are compared with all middles at a time."""

STRAYED = 1.3
"""An item whose squared distance from its cell's middle has grown so much is given a cell anew."""

LEAST_SCALE = 1e-12
"""Of a vector of zeros."""

N_FREE, N_HELD = range(2)
"""Places in `Cells.state`: free blocks, items held."""


class Cells(NamedTuple):
    """What a search reads (C cells, B blocks, I items, K factors)."""

    middle: NDArray[np.float32]  # (C, K)
    tail: NDArray[np.int32]  # (C,) the last block, -1: the cell is empty
    n: NDArray[np.int32]  # (C,) items
    before: NDArray[np.int32]  # (B,) the block before it in its cell, -1: none
    of: NDArray[np.int32]  # (B,) its cell
    code: NDArray[np.int8]  # (B, BLOCK, K)
    scale: NDArray[np.float32]  # (B, BLOCK) e is about scale * code
    row: NDArray[np.int32]  # (B, BLOCK)
    place: NDArray[np.int32]  # (I,) BLOCK * block + place in it, -1: not here
    far: NDArray[np.float32]  # (I,) squared distance from the middle when it was given the cell
    free: NDArray[np.int32]  # (B,) free blocks, N_FREE of them
    state: NDArray[np.int64]  # (2,)


class Move(NamedTuple):
    """What N items become."""

    rows: NDArray[np.int32]  # (N,) all different
    cell: NDArray[np.int32]  # (N,) -1: it keeps its cell
    far: NDArray[np.float32]  # (N,) as in `Cells`, of those that don't
    code: NDArray[np.int8]  # (N, K)
    scale: NDArray[np.float32]  # (N,)


class VectorIndex:
    """cells: replaced when there are more items. Nothing may read them during `apply`."""

    def __init__(
        self,
        sample: NDArray[np.float32],
        n_cells: int,
        seed: int = 0,
        on_block: Callable[[], None] = lambda: None,
    ) -> None:
        """Empty, with cells for such vectors. sample: (N, K), N at least n_cells, all finite.

        on_block: called every few milliseconds; what it raises ends the search for cells.
        """
        K, n_blocks = sample.shape[1], 2 * n_cells
        self.cells = Cells(
            middle=_k_means(sample, n_cells, np.random.default_rng(seed), on_block),
            tail=np.full(n_cells, -1, np.int32),
            n=np.zeros(n_cells, np.int32),
            before=np.full(n_blocks, -1, np.int32),
            of=np.zeros(n_blocks, np.int32),
            code=np.zeros((n_blocks, BLOCK, K), np.int8),
            scale=np.zeros((n_blocks, BLOCK), np.float32),
            row=np.full((n_blocks, BLOCK), -1, np.int32),
            place=np.full(0, -1, np.int32),
            far=np.zeros(0, np.float32),
            free=np.arange(n_blocks, dtype=np.int32),
            state=np.array([n_blocks, 0], np.int64),
        )
        self._squares: NDArray[np.float32] = (self.cells.middle**2).sum(axis=1)

    def __len__(self) -> int:
        return int(self.cells.state[N_HELD])

    def move_of(self, model: Model, rows: NDArray[np.int32]) -> Move:
        """What rows have become, with cells for new ones and for those that strayed.

        Reads model and cells, changes neither; some 0.5 us an item, 5 us for one that needs a cell.
        """
        E = read_items(model, rows)
        cell, far = np.full(len(rows), -1, np.int32), np.zeros(len(rows), np.float32)
        strayed = np.zeros(len(rows), np.bool_)
        _find_strayed(self.cells, rows, E, strayed)
        homeless = np.flatnonzero(strayed)
        for first in range(0, len(homeless), AT_ONCE):
            some = homeless[first : first + AT_ONCE]
            cell[some], far[some] = _nearest(E[some], self.cells.middle, self._squares)
        code, scale = np.empty(E.shape, np.int8), np.empty(len(rows), np.float32)
        _encode(E, code, scale)
        return Move(rows, cell, far, code, scale)

    def apply(self, move: Move) -> None:
        """Bring the cells up to it: some 0.2 us an item."""
        self._reserve(int(move.rows.max(initial=-1)) + 1, int(np.count_nonzero(move.cell >= 0)))
        _apply(self.cells, move)

    def _reserve(self, n_items: int, n_blocks: int) -> None:
        """Room for so many items, and for so many more blocks: each item may begin one."""
        cells = self.cells
        if n_items > len(cells.place):
            room = n_items + n_items // 4
            cells = cells._replace(
                place=_longer(cells.place, room, -1), far=_longer(cells.far, room, 0)
            )
        n_free = int(cells.state[N_FREE])
        if n_free < n_blocks:
            old = len(cells.of)
            room = old + old // 4 + n_blocks
            free = _longer(cells.free, room, -1)
            free[n_free : n_free + room - old] = np.arange(old, room)
            cells.state[N_FREE] += room - old
            cells = cells._replace(
                before=_longer(cells.before, room, -1),
                of=_longer(cells.of, room, 0),
                code=_longer(cells.code, room, 0),
                scale=_longer(cells.scale, room, 0),
                row=_longer(cells.row, room, -1),
                free=free,
            )
        self.cells = cells


def n_cells_for(n_items: int) -> int:
    """How many cells suit so many items."""
    return max(1, min(MOST_CELLS, n_items // ITEMS_A_CELL))


def read_items(model: Model, rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """float32 (N, K): effective vectors of rows; zeros for one that is not finite."""
    E = np.empty((len(rows), model.items.vectors.shape[1]), np.float32)
    _read(model.items.vectors, model.items.text, model.tokens, rows, E)
    return E


def _longer(array: NDArray[Any], n: int, fill: int) -> NDArray[Any]:
    longer = np.full((n, *array.shape[1:]), fill, array.dtype)
    longer[: len(array)] = array
    return longer


def _k_means(
    E: NDArray[np.float32],
    n_cells: int,
    random: np.random.Generator,
    on_block: Callable[[], None],
) -> NDArray[np.float32]:
    """float32 (C, K): middles. An empty cell begins anew at a vector of the sample."""
    middle = E[random.choice(len(E), n_cells, replace=False)]
    for _ in range(ROUNDS):
        squares = (middle**2).sum(axis=1)
        total, n = np.zeros(middle.shape, np.float64), np.zeros(n_cells, np.int64)
        for first in range(0, len(E), AT_ONCE):
            on_block()
            some = E[first : first + AT_ONCE]
            cell, _far = _nearest(some, middle, squares)
            _add_up(some, cell, total, n)
        empty = np.flatnonzero(n == 0)
        total[empty], n[empty] = E[random.choice(len(E), len(empty), replace=False)], 1
        middle = (total / n[:, None]).astype(np.float32)
    return middle


def _nearest(
    E: NDArray[np.float32], middle: NDArray[np.float32], squares: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The nearest middle of each vector, and its squared distance. squares: (C,), of middles."""
    cell, far = np.empty(len(E), np.int32), np.empty(len(E), np.float32)
    _least(E @ middle.T, squares, (E**2).sum(axis=1), cell, far)
    return cell, far


@compiled
def _least(
    products: NDArray[np.float32], squares: NDArray[np.float32], own: NDArray[np.float32],
    cell: NDArray[np.int32], far: NDArray[np.float32],
) -> None:  # fmt: skip
    for j in range(len(products)):
        best = 0
        least = np.float32(np.inf)
        for c in range(products.shape[1]):
            distance = squares[c] - np.float32(2) * products[j, c]
            if distance < least:
                best, least = c, distance
        cell[j] = best
        far[j] = max(least + own[j], np.float32(0))


@compiled
def _add_up(
    E: NDArray[np.float32], cell: NDArray[np.int32], total: NDArray[np.float64],
    n: NDArray[np.int64],
) -> None:  # fmt: skip
    for j in range(len(E)):
        n[cell[j]] += 1
        for k in range(E.shape[1]):
            total[cell[j], k] += E[j, k]


@compiled
def _read(
    vectors: NDArray[np.float32], text: NDArray[np.int32], tokens: Tokens,
    rows: NDArray[np.int32], E: NDArray[np.float32],
) -> None:  # fmt: skip
    for j in range(len(rows)):
        read_item(vectors, text, tokens, np.int64(rows[j]), E[j])
        for k in range(E.shape[1]):
            if not np.isfinite(E[j, k]):
                E[j, :] = np.float32(0)
                break


@compiled
def _encode(E: NDArray[np.float32], code: NDArray[np.int8], scale: NDArray[np.float32]) -> None:
    for j in range(len(E)):
        most = np.float32(LEAST_SCALE)
        for k in range(E.shape[1]):
            most = max(most, abs(E[j, k]))
        scale[j] = most / np.float32(127)
        for k in range(E.shape[1]):
            code[j, k] = np.int8(np.rint(E[j, k] / scale[j]))


@compiled
def _find_strayed(
    cells: Cells, rows: NDArray[np.int32], E: NDArray[np.float32], strayed: NDArray[np.bool_]
) -> None:
    for j in range(len(rows)):
        row = rows[j]
        if row >= len(cells.place) or cells.place[row] < 0:
            strayed[j] = True
            continue
        cell = cells.of[cells.place[row] // BLOCK]
        far = np.float32(0)
        for k in range(E.shape[1]):
            difference = E[j, k] - cells.middle[cell, k]
            far += difference * difference
        strayed[j] = far > np.float32(STRAYED) * cells.far[row]


@compiled
def _apply(cells: Cells, move: Move) -> None:
    for j in range(len(move.rows)):
        row = np.int64(move.rows[j])
        if move.cell[j] >= 0:
            if cells.place[row] >= 0:
                _take_out(cells, row)
            _put_in(cells, row, np.int64(move.cell[j]))
            cells.far[row] = move.far[j]
        block, place = cells.place[row] // BLOCK, cells.place[row] % BLOCK
        cells.scale[block, place] = move.scale[j]
        for k in range(move.code.shape[1]):
            cells.code[block, place, k] = move.code[j, k]


@compiled_inner
def _take_out(cells: Cells, row: Integer) -> None:
    """The last item of its cell takes its place."""
    block, place = cells.place[row] // BLOCK, cells.place[row] % BLOCK
    cell = cells.of[block]
    tail = cells.tail[cell]
    last = (cells.n[cell] - 1) % BLOCK
    other = cells.row[tail, last]
    cells.row[block, place] = other
    cells.scale[block, place] = cells.scale[tail, last]
    for k in range(cells.code.shape[2]):
        cells.code[block, place, k] = cells.code[tail, last, k]
    cells.place[other] = cells.place[row]
    cells.place[row] = -1
    cells.n[cell] -= 1
    cells.state[N_HELD] -= 1
    if last == 0:
        cells.tail[cell] = cells.before[tail]
        cells.free[cells.state[N_FREE]] = tail
        cells.state[N_FREE] += 1


@compiled_inner
def _put_in(cells: Cells, row: Integer, cell: Integer) -> None:
    place = cells.n[cell] % BLOCK
    if place == 0:
        cells.state[N_FREE] -= 1
        block = cells.free[cells.state[N_FREE]]
        cells.before[block] = cells.tail[cell]
        cells.of[block] = cell
        cells.tail[cell] = block
    tail = cells.tail[cell]
    cells.row[tail, place] = row
    cells.place[row] = tail * BLOCK + place
    cells.n[cell] += 1
    cells.state[N_HELD] += 1
