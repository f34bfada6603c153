"""Profile <-> bytes. Any language can read a record from this page; all numbers little endian.

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
The facts part is compared bit for bit (digests, `rebuild --check`); the model part is measured.
A vector of zeros is left out. Nothing may follow the last field.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.interactions import MAX_KINDS
from profiles.jit import Integer, compiled
from profiles.profile import NO_OFFSET, HistoryEntry, Profile, ProfileColumns
from profiles.shape import RECORD_VERSION, ModelShape

HAS_LONG_TERM = 1
HAS_VECTOR = 2

OK, TOO_NEW, CORRUPT, OTHER_SHAPE = 0, 1, 2, 3

_HEAD = struct.Struct("<BBH")
_TIMES = struct.Struct("<qqq")
_COUNT = struct.Struct("<BI")
_ENTRY = struct.Struct("<QqfB")
_MODEL = struct.Struct("<Hq")


def facts_of(record: bytes) -> bytes:
    """The facts part of a record, as it lies there. Raises RecordTooNew, RecordCorrupt."""
    if len(record) < _HEAD.size:
        raise RecordCorrupt(f"a record of {len(record)} bytes is cut short")
    version, _, n_facts = _HEAD.unpack_from(record)
    if version != RECORD_VERSION:
        raise refusal(TOO_NEW if version > RECORD_VERSION else CORRUPT, "?", version)
    if len(record) < _HEAD.size + n_facts:
        raise RecordCorrupt(f"a record of {len(record)} bytes is cut short")
    return record[_HEAD.size : _HEAD.size + n_facts]


def refusal(code: int, user_id: str, version: int = 0) -> RecordTooNew | RecordCorrupt:
    """The error for a code of `unpack`, naming the user and the way out."""
    if code == TOO_NEW:
        return RecordTooNew(
            f"profile {user_id!r}: format {version} is newer than this worker"
            f" (reads 1-{RECORD_VERSION}); upgrade the worker"
        )
    if code == OTHER_SHAPE:
        return RecordCorrupt(
            f"profile {user_id!r}: made with another number of factors, history length or tokens;"
            " set them back, or rebuild into a new generation"
        )
    return RecordCorrupt(
        f"profile {user_id!r}: these bytes are not a record of foldstream; find out what wrote the"
        " key, then rebuild the profiles from the log"
    )


def encode_profile(profile: Profile, shape: ModelShape) -> bytes:
    """One profile as a record. Raises ValueError when it does not fit `shape`."""
    if len(profile.history) > shape.history or len(profile.pending) > shape.n_tokens:
        raise ValueError("history or pending tokens are longer than the shape allows")
    facts = bytearray(_TIMES.pack(profile.first_ms, profile.last_ms, profile.last_offset))
    counted = sorted((code, n) for code, n in profile.n_by_kind.items() if n)
    facts.append(len(counted))
    for code, n in counted:
        facts += _COUNT.pack(code, n)
    facts.append(len(profile.history))
    for entry in profile.history:
        facts += _ENTRY.pack(entry.item_hash, entry.time_ms, entry.weight, entry.kind)
    facts.append(len(profile.pending))
    if profile.pending:
        facts += struct.pack(f"<q{len(profile.pending)}Q", profile.pending_ms, *profile.pending)
    flags, model = 0, bytearray(_MODEL.pack(shape.n_factors, profile.stamp))
    if profile.long_term is not None:
        flags |= HAS_LONG_TERM
        model += struct.pack("<f", profile.long_term_sum) + _vector_bytes(profile.long_term, shape)
    if profile.vector is not None:
        flags |= HAS_VECTOR
        model += _vector_bytes(profile.vector, shape)
    return _HEAD.pack(RECORD_VERSION, flags, len(facts)) + bytes(facts) + bytes(model)


def _vector_bytes(vector: NDArray[np.float32], shape: ModelShape) -> bytes:
    if vector.shape != (shape.n_factors,):
        raise ValueError(f"a vector of shape {vector.shape} where ({shape.n_factors},) is wanted")
    return vector.astype("<f4").tobytes()


def decode_profile(record: bytes, shape: ModelShape, user_id: str = "?") -> Profile:
    """A record as a `Profile`, for people and tests. Raises RecordTooNew, RecordCorrupt.

    >>> shape = ModelShape(n_factors=2)
    >>> profile = Profile(first_ms=5, last_ms=7, last_offset=3, n_by_kind={2: 9})
    >>> decode_profile(encode_profile(profile, shape), shape) == profile
    True
    """
    columns = columns_for(1, shape)
    code, _ = unpack(
        np.frombuffer(record, np.uint8),
        np.array([0, len(record)], np.int64),
        np.zeros(1, np.int32),
        columns,
    )
    if code != OK or not record:
        raise refusal(code or CORRUPT, user_id, record[0] if record else 0)
    return profile_at(columns, 0)


def profile_at(columns: ProfileColumns, row: int) -> Profile:
    """One row of the columns as a `Profile`."""
    n_history, n_pending = int(columns.n_history[row]), int(columns.n_pending[row])
    counts = columns.n_by_kind[row]
    has_long_term = bool(columns.long_term_sum[row] != 0 or columns.long_term[row].any())
    return Profile(
        first_ms=int(columns.first_ms[row]),
        last_ms=int(columns.last_ms[row]),
        last_offset=int(columns.last_offset[row]),
        n_by_kind={int(code): int(counts[code]) for code in np.flatnonzero(counts)},
        history=[
            HistoryEntry(
                int(columns.history_hash[row, a]),
                int(columns.history_ms[row, a]),
                float(columns.history_weight[row, a]),
                int(columns.history_kind[row, a]),
            )
            for a in range(n_history)
        ],
        pending=[int(token) for token in columns.pending[row, :n_pending]],
        pending_ms=int(columns.pending_ms[row]) if n_pending else 0,
        long_term=columns.long_term[row].copy() if has_long_term else None,
        long_term_sum=float(columns.long_term_sum[row]),
        vector=columns.vector[row].copy() if columns.vector[row].any() else None,
        stamp=int(columns.stamp[row]),
    )


def columns_for(capacity: int, shape: ModelShape) -> ProfileColumns:
    """Columns of `capacity` fresh rows; memory is only taken as rows are touched."""
    return ProfileColumns(
        n_by_kind=np.zeros((capacity, MAX_KINDS), np.uint32),
        first_ms=np.zeros(capacity, np.int64),
        last_ms=np.zeros(capacity, np.int64),
        last_offset=np.full(capacity, NO_OFFSET, np.int64),
        n_history=np.zeros(capacity, np.int32),
        history_hash=np.zeros((capacity, shape.history), np.uint64),
        history_ms=np.zeros((capacity, shape.history), np.int64),
        history_weight=np.zeros((capacity, shape.history), np.float32),
        history_kind=np.zeros((capacity, shape.history), np.uint8),
        n_pending=np.zeros(capacity, np.int32),
        pending_ms=np.zeros(capacity, np.int64),
        pending=np.zeros((capacity, shape.n_tokens), np.uint64),
        long_term=np.zeros((capacity, shape.n_factors), np.float32),
        long_term_sum=np.zeros(capacity, np.float32),
        vector=np.zeros((capacity, shape.n_factors), np.float32),
        stamp=np.zeros(capacity, np.int64),
    )


@compiled
def clear_row(columns: ProfileColumns, row: Integer) -> None:
    """Make one row a fresh profile."""
    columns.n_by_kind[row, :] = 0
    columns.first_ms[row] = 0
    columns.last_ms[row] = 0
    columns.last_offset[row] = NO_OFFSET
    columns.n_history[row] = 0
    columns.n_pending[row] = 0
    columns.pending_ms[row] = 0
    columns.long_term[row, :] = 0
    columns.long_term_sum[row] = 0
    columns.vector[row, :] = 0
    columns.stamp[row] = 0


@compiled
def _any(vectors: NDArray[np.float32], row: Integer) -> bool:
    for k in range(vectors.shape[1]):  # noqa: SIM110 (numba has no any() over a generator)
        if vectors[row, k] != 0:
            return True
    return False


@compiled
def _flags_and_sizes(columns: ProfileColumns, row: Integer) -> tuple[Integer, Integer, Integer]:
    """(flags, bytes of the facts, bytes of the whole record) of one row."""
    n_kinds = 0
    for code in range(columns.n_by_kind.shape[1]):
        if columns.n_by_kind[row, code] != 0:
            n_kinds += 1
    n_facts = 27 + 5 * n_kinds + 21 * columns.n_history[row]
    if columns.n_pending[row] > 0:
        n_facts += 8 + 8 * columns.n_pending[row]
    n_bytes = 4 + n_facts + 10
    flags = 0
    K = columns.vector.shape[1]
    if columns.long_term_sum[row] != 0 or _any(columns.long_term, row):
        flags |= HAS_LONG_TERM
        n_bytes += 4 + 4 * K
    if _any(columns.vector, row):
        flags |= HAS_VECTOR
        n_bytes += 4 * K
    return flags, n_facts, n_bytes


@compiled
def record_ends(rows: NDArray[np.int32], columns: ProfileColumns) -> NDArray[np.int64]:
    """int64 (B + 1,): where each record begins in the joined buffer, and the end of the last."""
    ends = np.empty(len(rows) + 1, np.int64)
    ends[0] = 0
    for number in range(len(rows)):
        ends[number + 1] = ends[number] + _flags_and_sizes(columns, rows[number])[2]
    return ends


@compiled
def _put(out: NDArray[np.uint8], at: Integer, value: Integer, n_bytes: Integer) -> Integer:
    bits = np.uint64(value)
    for byte in range(n_bytes):
        out[at + byte] = np.uint8((bits >> np.uint64(8 * byte)) & np.uint64(0xFF))
    return at + n_bytes


@compiled
def _put8(out: NDArray[np.uint8], at: Integer, value: Integer) -> Integer:
    return _put(out, at, value, 8)


@compiled
def pack(
    rows: NDArray[np.int32],
    starts: NDArray[np.int64],
    columns: ProfileColumns,
    out: NDArray[np.uint8],
) -> None:
    """Write the records of `rows` into `out`, each where `record_ends` put it."""
    K = columns.vector.shape[1]
    weights = columns.history_weight.view(np.uint8)
    sums = columns.long_term_sum.view(np.uint8)
    long_terms = columns.long_term.view(np.uint8)
    vectors = columns.vector.view(np.uint8)
    for number in range(len(rows)):
        row = np.int64(rows[number])
        at = starts[number]
        flags, n_facts, _ = _flags_and_sizes(columns, row)
        out[at] = RECORD_VERSION
        out[at + 1] = flags
        at = _put(out, at + 2, n_facts, 2)
        at = _put8(out, at, columns.first_ms[row])
        at = _put8(out, at, columns.last_ms[row])
        at = _put8(out, at, columns.last_offset[row])
        count_at = at
        n_kinds = 0
        at += 1
        for code in range(columns.n_by_kind.shape[1]):
            if columns.n_by_kind[row, code] != 0:
                out[at] = code
                at = _put(out, at + 1, columns.n_by_kind[row, code], 4)
                n_kinds += 1
        out[count_at] = n_kinds
        out[at] = columns.n_history[row]
        at += 1
        for a in range(columns.n_history[row]):
            at = _put8(out, at, columns.history_hash[row, a])
            at = _put8(out, at, columns.history_ms[row, a])
            for byte in range(4):
                out[at + byte] = weights[row, 4 * a + byte]
            out[at + 4] = columns.history_kind[row, a]
            at += 5
        out[at] = columns.n_pending[row]
        at += 1
        if columns.n_pending[row] > 0:
            at = _put8(out, at, columns.pending_ms[row])
            for token in range(columns.n_pending[row]):
                at = _put8(out, at, columns.pending[row, token])
        at = _put(out, at, K, 2)
        at = _put8(out, at, columns.stamp[row])
        if flags & HAS_LONG_TERM:
            for byte in range(4):
                out[at + byte] = sums[4 * row + byte]
            at += 4
            for byte in range(4 * K):
                out[at + byte] = long_terms[row, byte]
            at += 4 * K
        if flags & HAS_VECTOR:
            for byte in range(4 * K):
                out[at + byte] = vectors[row, byte]


@compiled
def _take(data: NDArray[np.uint8], at: Integer, n_bytes: Integer) -> Integer:
    bits = np.uint64(0)
    for byte in range(n_bytes):
        bits |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
    return bits


@compiled
def _take8(data: NDArray[np.uint8], at: Integer) -> Integer:
    return _take(data, at, 8)


@compiled
def _unpack_one(
    data: NDArray[np.uint8], start: Integer, end: Integer, row: Integer, columns: ProfileColumns
) -> Integer:
    """Fill one cleared row from data[start:end]; returns OK or why not. Reads no byte outside."""
    if end - start < 4 or data[start] == 0:
        return CORRUPT
    if data[start] > RECORD_VERSION:
        return TOO_NEW
    flags = data[start + 1]
    K = columns.vector.shape[1]
    model = start + 4 + np.int64(_take(data, start + 2, 2))
    if model + 10 > end or model < start + 31 or flags > 3:
        return CORRUPT
    if np.int64(_take(data, model, 2)) != K:
        return OTHER_SHAPE
    if model + 10 + (4 + 4 * K) * (flags & 1) + 4 * K * (flags >> 1) != end:
        return CORRUPT
    at = start + 4
    columns.first_ms[row] = np.int64(_take8(data, at))
    columns.last_ms[row] = np.int64(_take8(data, at + 8))
    columns.last_offset[row] = np.int64(_take8(data, at + 16))
    n_kinds = np.int64(data[at + 24])
    at += 25
    if at + 5 * n_kinds + 2 > model:
        return CORRUPT
    for _ in range(n_kinds):
        if data[at] >= columns.n_by_kind.shape[1]:
            return CORRUPT
        columns.n_by_kind[row, data[at]] = np.uint32(_take(data, at + 1, 4))
        at += 5
    n_history = np.int64(data[at])
    at += 1
    if at + 21 * n_history + 1 > model:
        return CORRUPT
    if n_history > columns.history_hash.shape[1]:
        return OTHER_SHAPE
    weights = columns.history_weight.view(np.uint8)
    for a in range(n_history):
        columns.history_hash[row, a] = _take8(data, at)
        columns.history_ms[row, a] = np.int64(_take8(data, at + 8))
        for byte in range(4):
            weights[row, 4 * a + byte] = data[at + 16 + byte]
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
        columns.pending_ms[row] = np.int64(_take8(data, at))
        at += 8
        for token in range(n_pending):
            columns.pending[row, token] = _take8(data, at)
            at += 8
    columns.n_pending[row] = n_pending
    if at != model:
        return CORRUPT
    columns.stamp[row] = np.int64(_take8(data, at + 2))
    at += 10
    if flags & HAS_LONG_TERM:
        sums = columns.long_term_sum.view(np.uint8)
        for byte in range(4):
            sums[4 * row + byte] = data[at + byte]
        at += 4
        long_terms = columns.long_term.view(np.uint8)
        for byte in range(4 * K):
            long_terms[row, byte] = data[at + byte]
        at += 4 * K
    if flags & HAS_VECTOR:
        vectors = columns.vector.view(np.uint8)
        for byte in range(4 * K):
            vectors[row, byte] = data[at + byte]
    return OK


@compiled
def unpack(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    rows: NDArray[np.int32],
    columns: ProfileColumns,
) -> tuple[Integer, Integer]:
    """Fill `rows` from joined records; an empty one makes a fresh row.

    data: uint8, all records after each other. ends: int64 (B + 1,), the first is 0.
    Returns (code, number of the record it is about): OK, or why a record was refused.
    """
    for number in range(len(rows)):
        row = np.int64(rows[number])
        clear_row(columns, row)
        if ends[number + 1] > ends[number]:
            code = _unpack_one(data, ends[number], ends[number + 1], row, columns)
            if code != OK:
                clear_row(columns, row)
                return code, number
    return OK, 0
