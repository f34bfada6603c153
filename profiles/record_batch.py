"""Many records at once, each in its own format: joined bytes <-> rows of columns, compiled.

Owns the choice of the format by the first byte and the room that a record may need. The formats are
in `record_v1` (1) and `record_v2` (2 and 3).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.interactions import MAX_KINDS
from profiles.jit import Integer, compiled
from profiles.profile import ProfileColumns
from profiles.record_bytes import CORRUPT, OK, TOO_NEW
from profiles.record_columns import clear_row
from profiles.record_own import MOST_OWN_BYTES, put_own_in_full
from profiles.record_v1 import pack_row as pack_row_1
from profiles.record_v1 import put_facts
from profiles.record_v1 import unpack_row as unpack_row_1
from profiles.record_v2 import pack_row as pack_row_2
from profiles.record_v2 import unpack_facts as unpack_facts_2
from profiles.record_v2 import unpack_row as unpack_row_2
from profiles.shape import ModelShape


def most_record_bytes(shape: ModelShape) -> int:
    """No record of this shape is longer, in any format: numbers of 64 bits, all kinds counted."""
    fixed = 128 + 6 * MAX_KINDS
    own = MOST_OWN_BYTES * shape.own_items
    return fixed + 23 * shape.history + 8 * shape.n_tokens + 8 * shape.n_factors + own


@compiled
def pack(
    rows: NDArray[np.int32],
    columns: ProfileColumns,
    record_format: Integer,
    out: NDArray[np.uint8],
    ends: NDArray[np.int64],
) -> None:
    """Write the records of B rows into `out`, one behind the other.

    out: uint8, room for B times `most_record_bytes`. ends: int64 (B + 1,), filled: record b lies
    in out[ends[b]:ends[b + 1]].
    """
    at = np.int64(0)
    ends[0] = at
    for number in range(len(rows)):
        row = np.int64(rows[number])
        if record_format == 1:
            at = pack_row_1(columns, row, out, at)
        else:
            at = pack_row_2(columns, row, record_format, out, at)
        ends[number + 1] = at


@compiled
def unpack(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    rows: NDArray[np.int32],
    columns: ProfileColumns,
) -> tuple[Integer, Integer]:
    """Fill `rows` from joined records, whatever format each has; an empty one makes a fresh row.

    data: uint8, all records after each other. ends: int64 (B + 1,), the first is 0.
    Returns (code, number of the record it is about): OK, or why a record was refused.
    """
    for number in range(len(rows)):
        row = np.int64(rows[number])
        start, end = ends[number], ends[number + 1]
        clear_row(columns, row)
        if end > start:
            version = data[start]
            if version in (2, 3):
                code = unpack_row_2(data, start, end, row, columns)
            elif version == 1:
                code = unpack_row_1(data, start, end, row, columns)
            else:
                code = TOO_NEW if version > 3 else CORRUPT
            if code != OK:
                clear_row(columns, row)
                return code, number
    return OK, 0


@compiled
def canonical_facts(
    data: NDArray[np.uint8], columns: ProfileColumns, out: NDArray[np.uint8]
) -> tuple[Integer, Integer]:
    """The facts of one record of format 2 or 3 as format 1 has them, and its own table in full
    behind them: (OK or why not, bytes written).

    columns: one fresh row, as long as a history and a query may be. out: room for it.
    """
    code, _ = unpack_facts_2(data, 0, len(data), 0, columns)
    if code != OK:
        return code, 0
    return OK, put_own_in_full(columns, 0, out, put_facts(columns, 0, out, 0))
