"""Row changes as messages and back: arrays of `profiles`, bytes of `streams`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from profiles.sharing import RowChanges
from streams.item_deltas import ROWS_PER_MESSAGE_BYTES, Column, EventList, ItemDeltas, Rows

ITEMS, RECENT = "items", "recent_positives"

N_RECENT = 2_000
"""Recent positives in one round at most: with four rounds a second more than a ring holds."""

TYPES = {"<f2", "<f4", "<f8", "<i4", "<i8"}


def rows_of(n_factors: int) -> int:
    """Bytes of one item's row in a message: hash, half vector, sum, count, positives."""
    return 8 + 2 * n_factors + 4 + 8 + 4


def to_messages(
    blank: ItemDeltas,
    changes: RowChanges | None,
    n_learned: int,
    recent: NDArray[np.uint64],
    covers: Mapping[int, int],
    clock_ms: int,
    row_bytes: int,
) -> Iterator[ItemDeltas]:
    """One round: positives in the first message, what the round covers in the last.

    blank: a message of the sender without content or number.
    """
    per_message = max(1, ROWS_PER_MESSAGE_BYTES // row_bytes)
    n = 0 if changes is None else len(changes)
    firsts = range(0, max(n, 1), per_message)
    for first in firsts:
        tables = []
        if changes is not None and n:
            tables.append(_rows(changes, slice(first, min(n, first + per_message))))
        yield msgspec.structs.replace(
            blank,
            clock_ms=clock_ms,
            tables=tables,
            covers=dict(covers) if first == firsts[-1] else {},
            n_learned=n_learned if first == 0 else 0,
            lists=[EventList(RECENT, recent.tobytes())] if first == 0 and len(recent) else [],
        )


def _rows(changes: RowChanges, part: slice) -> Rows:
    new = {at - part.start: i for at, i in changes.new_ids.items() if part.start <= at < part.stop}
    return Rows(
        table=ITEMS,
        hashes=changes.hashes[part].tobytes(),
        new_at=np.fromiter(new, np.int32, len(new)).tobytes(),
        new_ids=list(new.values()),
        columns=[
            Column(name, column.dtype.newbyteorder("<").str, column[part].tobytes())
            for name, column in changes.columns.items()
        ],
    )


def from_rows(rows: Rows, clock_ms: int, n_factors: int) -> RowChanges:
    """Raises ValueError for columns that don't fit together, or a vector of another length."""
    hashes = np.frombuffer(rows.hashes, np.uint64)
    columns = {}
    for name, kind, data in ((c.name, c.type, c.data) for c in rows.columns):
        if kind not in TYPES:
            continue
        column = np.frombuffer(data, kind)
        if name == "vectors":
            column = column.reshape(len(hashes), n_factors)
        if len(column) != len(hashes):
            raise ValueError(f"column {name} has {len(column)} rows, not {len(hashes)}")
        if not np.isfinite(column).all():
            raise ValueError(f"column {name} has a number that is not finite")
        columns[name] = column
    at = np.frombuffer(rows.new_at, np.int32).tolist()
    return RowChanges(hashes, dict(zip(at, rows.new_ids, strict=True)), columns, clock_ms)


def recent_of(message: ItemDeltas) -> NDArray[np.uint64]:
    """Items of the sender's positives, oldest first."""
    parts = [np.frombuffer(part.hashes, np.uint64) for part in message.lists if part.name == RECENT]
    return np.concatenate([*parts, np.zeros(0, np.uint64)])
