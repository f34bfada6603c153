"""Format 1 of a record: every field at its full width. All numbers little endian.

```
at   type     content
0    u8       format version, 1
1    u8       flags: 1 = the long-term vector is there, 2 = the user vector is there
2    u16      F, bytes of the facts that follow
4    -- facts
     i64      first event time, ms since 1970
     i64      last (largest) event time
     i64      offset of the last event folded, in the user's partition of `events`
     u8       number of kinds counted, then for each, by rising code:
       u8 u32   kind code, interactions
     u8       number of history entries, then for each, newest first:
       u64      item hash (xxh3_64 of the UTF-8 id, 0 replaced by 1)
       i64      event time
       f32 u8   weight, kind code
     u8       number of pending query tokens; when above 0:
       i64      event time of the query
       u64 ...  token hashes (xxh3_64 with seed 1)
4+F  -- model part
     u16      K, numbers of a vector
     i64      stamp: positives learned by the item table when the user vector was made
     f32 f32*K  with flag 1: squared gradients so far, the long-term vector
     f32*K    with flag 2: the user vector
```
A vector of zeros is left out. Nothing may follow the last field. The facts as they lie here are
also their canonical form: digests compare it whatever format a record has (`put_facts`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, compiled
from profiles.profile import ProfileColumns
from profiles.record_bytes import CORRUPT, OK, OTHER_SHAPE, put, put8, take, take8

HEAD_BYTES = 4
"""Version, flags, F."""

MODEL_BYTES = 10
"""K and the stamp."""

HAS_LONG_TERM = 1
HAS_VECTOR = 2


@compiled
def has_numbers(vectors: NDArray[np.float32], row: Integer) -> bool:
    """Whether one row is anything but zeros."""
    for k in range(vectors.shape[1]):  # noqa: SIM110 (numba has no any() over a generator)
        if vectors[row, k] != 0:
            return True
    return False


@compiled
def put_facts(
    columns: ProfileColumns, row: Integer, out: NDArray[np.uint8], at: Integer
) -> Integer:
    """Write the facts of one row at `at`; returns where they end."""
    at = put8(out, at, columns.first_ms[row])
    at = put8(out, at, columns.last_ms[row])
    at = put8(out, at, columns.last_offset[row])
    count_at = at
    n_kinds = 0
    at += 1
    for code in range(columns.n_by_kind.shape[1]):
        if columns.n_by_kind[row, code] != 0:
            out[at] = code
            at = put(out, at + 1, columns.n_by_kind[row, code], 4)
            n_kinds += 1
    out[count_at] = n_kinds
    out[at] = columns.n_history[row]
    at += 1
    weights = columns.history_weight.view(np.uint32)
    for a in range(columns.n_history[row]):
        at = put8(out, at, columns.history_hash[row, a])
        at = put8(out, at, columns.history_ms[row, a])
        at = put(out, at, weights[row, a], 4)
        out[at] = columns.history_kind[row, a]
        at += 1
    out[at] = columns.n_pending[row]
    at += 1
    if columns.n_pending[row] > 0:
        at = put8(out, at, columns.pending_ms[row])
        for token in range(columns.n_pending[row]):
            at = put8(out, at, columns.pending[row, token])
    return at


@compiled
def pack_row(columns: ProfileColumns, row: Integer, out: NDArray[np.uint8], at: Integer) -> Integer:
    """Write the record of one row at `at`; returns where it ends."""
    start = at
    K = columns.vector.shape[1]
    flags = 0
    out[start] = 1
    at = put_facts(columns, row, out, start + HEAD_BYTES)
    put(out, start + 2, at - start - HEAD_BYTES, 2)
    at = put(out, at, K, 2)
    at = put8(out, at, columns.stamp[row])
    if columns.long_term_sum[row] != 0 or has_numbers(columns.long_term, row):
        flags |= HAS_LONG_TERM
        at = put(out, at, columns.long_term_sum.view(np.uint32)[row], 4)
        at = _put_vector(columns.long_term, row, out, at)
    if has_numbers(columns.vector, row):
        flags |= HAS_VECTOR
        at = _put_vector(columns.vector, row, out, at)
    out[start + 1] = flags
    return at


@compiled
def _put_vector(
    vectors: NDArray[np.float32], row: Integer, out: NDArray[np.uint8], at: Integer
) -> Integer:
    n_bytes = 4 * vectors.shape[1]
    numbers = vectors.view(np.uint8)
    for byte in range(n_bytes):
        out[at + byte] = numbers[row, byte]
    return at + n_bytes


@compiled
def unpack_row(
    data: NDArray[np.uint8], start: Integer, end: Integer, row: Integer, columns: ProfileColumns
) -> Integer:
    """Fill one cleared row from data[start:end]; returns OK or why not. Reads no byte outside."""
    if end - start < HEAD_BYTES:
        return CORRUPT
    flags = data[start + 1]
    K = columns.vector.shape[1]
    model = start + HEAD_BYTES + np.int64(take(data, start + 2, 2))
    if model + MODEL_BYTES > end or model < start + 31 or flags > 3:
        return CORRUPT
    if np.int64(take(data, model, 2)) != K:
        return OTHER_SHAPE
    if model + MODEL_BYTES + (4 + 4 * K) * (flags & 1) + 4 * K * (flags >> 1) != end:
        return CORRUPT
    at = start + HEAD_BYTES
    columns.first_ms[row] = np.int64(take8(data, at))
    columns.last_ms[row] = np.int64(take8(data, at + 8))
    columns.last_offset[row] = np.int64(take8(data, at + 16))
    n_kinds = np.int64(data[at + 24])
    at += 25
    if at + 5 * n_kinds + 2 > model:
        return CORRUPT
    for _ in range(n_kinds):
        if data[at] >= columns.n_by_kind.shape[1]:
            return CORRUPT
        columns.n_by_kind[row, data[at]] = np.uint32(take(data, at + 1, 4))
        at += 5
    n_history = np.int64(data[at])
    at += 1
    if at + 21 * n_history + 1 > model:
        return CORRUPT
    if n_history > columns.history_hash.shape[1]:
        return OTHER_SHAPE
    weights = columns.history_weight.view(np.uint32)
    for a in range(n_history):
        if data[at + 20] >= columns.n_by_kind.shape[1]:
            return CORRUPT
        columns.history_hash[row, a] = take8(data, at)
        columns.history_ms[row, a] = np.int64(take8(data, at + 8))
        weights[row, a] = np.uint32(take(data, at + 16, 4))
        columns.history_kind[row, a] = data[at + 20]
        at += 21
    columns.n_history[row] = n_history
    n_pending = np.int64(data[at])
    at += 1
    if n_pending > 0:
        if at + 8 + 8 * n_pending > model:
            return CORRUPT
        if n_pending > columns.pending.shape[1]:
            return OTHER_SHAPE
        columns.pending_ms[row] = np.int64(take8(data, at))
        at += 8
        for token in range(n_pending):
            columns.pending[row, token] = take8(data, at)
            at += 8
    columns.n_pending[row] = n_pending
    if at != model:
        return CORRUPT
    columns.stamp[row] = np.int64(take8(data, at + 2))
    at += MODEL_BYTES
    if flags & HAS_LONG_TERM:
        columns.long_term_sum.view(np.uint32)[row] = np.uint32(take(data, at, 4))
        _take_vector(data, at + 4, columns.long_term, row)
        at += 4 + 4 * K
    if flags & HAS_VECTOR:
        _take_vector(data, at, columns.vector, row)
    return OK


@compiled
def _take_vector(
    data: NDArray[np.uint8], at: Integer, vectors: NDArray[np.float32], row: Integer
) -> None:
    numbers = vectors.view(np.uint8)
    for byte in range(numbers.shape[1]):
        numbers[row, byte] = data[at + byte]
