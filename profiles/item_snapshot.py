"""Snapshots of the item table as bytes: a header and chunks, and the table made of them again.

Format 2: a chunk is the same stretch of every table: items with their neighbour lists, groups,
tokens, queries, so that a table which grows only ever adds chunks. Rows that a chunk names (of
neighbours, groups, tokens) are those of the snapshot, which keeps their order. Format 1 had items
alone and is still read: what it lacks is zero, and comes back as events do.

Arrays are little-endian as they lie in memory; of lists only the places in use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from profiles.item_columns import CHANGED_FOR_SNAPSHOT, UNKNOWN

SNAPSHOT_VERSION = 2

Arrays = dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Part:
    """What is kept of one table.

    rows: of a chunk. lists: columns of which a row uses `n` places.
    """

    rows: int
    columns: tuple[str, ...]
    lists: tuple[str, ...] = ()


ITEMS = Part(
    4096,  # 1 MB of vectors at K = 64: a small value for the store
    ("vectors", "sums", "counts", "count_ms", "fast", "slow", "starts", "n_positive",
     "first_number", "last_number", "seen_at", "rankable_at", "entry", "facets",
     "text", "rating_sum", "rating_n"),
)  # fmt: skip
LISTS = Part(ITEMS.rows, ("n", "forward_sum", "backward_sum"), ("rows", "forward", "backward"))
GROUPS = Part(1024, ("hash", "facet", "counts", "out", "n"), ("to", "weight"))
TOKENS = Part(4096, ("hash", "vectors", "sums"))
QUERIES = Part(1024, ("hash", "vectors", "sums", "n", "total", "used"), ("items", "counts"))


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot holds once.

    ring: item hashes (rows would be local), each at its place, for draws name places; ring_next:
    the place of the next one. From format 2 on: rows of the other tables, places of a neighbour
    list, and what is held once of groups, queries and the blend. ratings: of the rating head, none
    without ratings; workers from before it pass over it, as over an item's columns of ratings.
    """

    version: int
    n_factors: int
    n_items: int
    n_learned: int
    clock_ms: int
    ring_next: int
    ring: bytes
    n_groups: int = 0
    n_tokens: int = 0
    n_queries: int = 0
    n_list: int = 0
    once: Arrays = {}
    ratings: Arrays = {}


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of every table, columns by name."""

    ids: list[str]
    items: Arrays = {}
    lists: Arrays = {}
    groups: Arrays = {}
    tokens: Arrays = {}
    queries: Arrays = {}


class _FirstChunk(msgspec.Struct, frozen=True, array_like=True):
    """A chunk of format 1."""

    ids: list[str]
    vectors: bytes
    sums: bytes
    counts: bytes
    count_ms: bytes
    n_positive: bytes
    seen_at: bytes


@dataclass(frozen=True, slots=True)
class ItemSnapshot:
    """header and the changed chunks by number; n_chunks: of the whole table."""

    header: bytes
    chunks: dict[int, bytes]
    n_chunks: int


def read_header(data: bytes) -> SnapshotHeader:
    """Raises msgspec.DecodeError."""
    return msgspec.msgpack.decode(data, type=SnapshotHeader)


def read_chunk(version: int, data: bytes) -> Chunk:
    """A chunk of either format. Raises msgspec.DecodeError."""
    if version > 1:
        return msgspec.msgpack.decode(data, type=Chunk)
    old = msgspec.msgpack.decode(data, type=_FirstChunk)
    names = ("vectors", "sums", "counts", "count_ms", "n_positive", "seen_at")
    return Chunk(old.ids, {name: getattr(old, name) for name in names})


def stretch(part: Part, number: int, n_rows: int) -> slice:
    """The rows of chunk `number`, of a table of n_rows."""
    return slice(min(number * part.rows, n_rows), min((number + 1) * part.rows, n_rows))


def n_chunks(sizes: Mapping[Part, int]) -> int:
    """Chunks that tables of so many rows take."""
    return max(-(-n_rows // part.rows) for part, n_rows in sizes.items())


def changed_chunks(part: Part, changed: NDArray[np.uint8]) -> list[int]:
    """Numbers of the chunks with a row that changed since the last snapshot; none has after."""
    rows = np.flatnonzero(changed & CHANGED_FOR_SNAPSHOT)
    changed &= 0xFF ^ CHANGED_FOR_SNAPSHOT
    numbers: list[int] = np.unique(rows // part.rows).tolist()
    return numbers


def arrays_of(part: Part, columns: Any, rows: slice) -> Arrays:
    """Those rows of a table's columns."""
    arrays = {name: getattr(columns, name)[rows].tobytes() for name in part.columns}
    if part.lists:
        n = columns.n[rows]
        for name in part.lists:
            listed = getattr(columns, name)[rows]
            arrays[name] = listed[_used(n, listed.shape[1])].tobytes()
    return arrays


def put_arrays(part: Part, columns: Any, rows: slice, arrays: Arrays, n_places: int = 0) -> None:
    """The inverse: into columns that have room. n_places: of a list when it was written, if that
    may differ; of a longer one the first places are kept. Raises ValueError for a wrong length."""
    if rows.stop == rows.start:
        return
    for name in part.columns:
        if name in arrays:
            column = getattr(columns, name)
            flat = np.frombuffer(arrays[name], column.dtype)
            column[rows] = flat.reshape(rows.stop - rows.start, *column.shape[1:])
    if part.lists and "n" in arrays:
        n = np.frombuffer(arrays["n"], columns.n.dtype)
        for name in part.lists:
            column = getattr(columns, name)
            wide = np.zeros((len(n), n_places or column.shape[1]), column.dtype)
            wide[_used(n, wide.shape[1])] = np.frombuffer(arrays[name], column.dtype)
            width = min(wide.shape[1], column.shape[1])
            column[rows, :width] = wide[:, :width]
        columns.n[rows] = np.minimum(n, column.shape[1])


def ordered_rows(places: NDArray[np.int32]) -> NDArray[np.int32]:
    """Rows in the order of their places; those with none are left out.

    Raises ValueError unless the places are 0, 1, 2, ...
    """
    rows = np.flatnonzero(places != UNKNOWN).astype(np.int32)
    order = np.argsort(places[rows])
    if not np.array_equal(places[rows[order]], np.arange(len(rows))):
        raise ValueError("places with gaps")
    ordered: NDArray[np.int32] = rows[order]
    return ordered


def _used(n: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    used: NDArray[np.bool_] = np.arange(width) < n[:, None]
    return used
