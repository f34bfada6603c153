"""Formats 2 and 3 of a record: facts bit for bit in few bytes, vectors in 16 and 8 bits a number.

Format 3 is format 2 with room for an own table, parts 2 and 4 of the facts (`record_own`), and
without the user vector, which every reader makes anew (`embedding.fill_context`).

*varint*: an unsigned 64-bit number in 1 to 10 bytes, 7 bits each, lowest first; the high bit says
that another follows. A difference is taken modulo 2**64. The rest is little endian.

```
type       content
u8         format version, 2 or 3
u8         parts of the facts: 1 = pending query; in format 3 also 2 = own table, 4 = session; the
           other bits are not given out
u8         parts of the model: 1 = long-term vector; in format 2 also 2 = user vector; the other
           bits are not given out
varint     K, numbers of a vector
-- facts
varint     last (largest) event time, ms since 1970
varint     last - first event time
varint     offset of the last event folded + 1
varint     number of kinds counted, then for each, by rising code:
  u8 varint  kind code, interactions
varint     number of history entries, then for each, newest first:
  u64        item hash
  u8         bits 0-4: kind code; bits 5-6: how the weight is written; bit 7: its time is later than
             the one it is counted from (events may come out of their order)
  -          weight: 0 = that of the entry before (1.0 for the first), 1 = u8, hundredths,
             2 = f32; 3 is not given out
  varint     ms from the event time of the entry before (from the last event time for the first)
with facts part 1:
  varint     last event time - event time of the query
  varint     number of tokens, then u64 each
with facts parts 2 and 4: see `record_own`
-- model
varint     stamp
with model part 1:
  f32        squared gradients so far
  f16*K      the long-term vector
with model part 2:
  u16        scale: the upper half of a f32 (bfloat16)
  i8*K       the user vector is scale times these
```
Parts come in the order of their bits, facts before model, and each must be read to find the next: a
part that a reader does not know is a record that is too new for it. New parts take the next bits,
and the format a new number: that is what a fleet agrees on (docs/decisions/0046).
What stays true: what is loaded and packed again has the same bytes. The scale is the largest number
/ 127, rounded to 8 significant bits, so the largest is always +-127 and scale times 127 is exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.half import half_bits, half_value
from profiles.jit import Integer, compiled
from profiles.profile import ProfileColumns
from profiles.record_bytes import (
    CORRUPT,
    CUT,
    OK,
    OTHER_SHAPE,
    UNKNOWN_PART,
    put,
    put8,
    put_varint,
    take,
    take8,
    take_varint,
)
from profiles.record_own import has_own, put_own, take_own
from profiles.record_v1 import has_numbers

HAS_PENDING = 1
HAS_OWN = 2
HAS_SESSION = 4
KNOWN_FACTS = (0, 0, HAS_PENDING, HAS_PENDING | HAS_OWN | HAS_SESSION)
"""By format."""

HAS_LONG_TERM = 1
HAS_VECTOR = 2
KNOWN_MODEL = (0, 0, HAS_LONG_TERM | HAS_VECTOR, HAS_LONG_TERM)
"""By format."""

SAME_WEIGHT, HUNDREDTHS, FULL_WEIGHT = 0, 1, 2

HUNDREDTH_BITS = (np.arange(256) / 100).astype(np.float32).view(np.uint32)
"""The float32 of 0.00 to 2.55: a weight is written as hundredths only where no bit differs."""

ONE_BITS = np.uint32(0x3F800000)

LEAST_LARGEST = 2.0**-100
"""A user vector whose largest number is below counts as zero: its scale has no bits left."""

MOST_LARGEST = 2.0**63
"""Numbers of a user vector are cut to this; the fold refuses vectors whose square is not finite."""

END_SCALE = (127 + 63) << 7
"""Scales of a valid record are below: 2**63 as bfloat16."""

FINITE_HALF = 0x7C00
FINITE_SINGLE = 0x7F800000
"""Exponent bits that mean infinite or NaN."""


@compiled
def pack_row(
    columns: ProfileColumns,
    row: Integer,
    record_format: Integer,
    out: NDArray[np.uint8],
    at: Integer,
) -> Integer:
    """Write the record of one row at `at`, in format 2 or 3; returns where it ends.

    Format 2 leaves out what it has no room for: `record.check_format` refuses it beforehand.
    """
    largest = np.float32(0)
    for k in range(columns.vector.shape[1]):
        largest = max(largest, abs(columns.vector[row, k]))
    model = 0
    if columns.long_term_sum[row] != 0 or has_numbers(columns.long_term, row):
        model |= HAS_LONG_TERM
    if record_format < 3 and largest >= np.float32(LEAST_LARGEST):
        model |= HAS_VECTOR
    facts = HAS_PENDING if columns.n_pending[row] > 0 else 0
    if record_format >= 3:
        facts |= HAS_OWN if has_own(columns, row) else 0
        facts |= HAS_SESSION if columns.session[row] != 0 else 0
    out[at] = record_format
    out[at + 1] = facts
    out[at + 2] = model
    at = put_varint(out, at + 3, columns.vector.shape[1])
    at = _put_facts(columns, row, out, at)
    if facts & HAS_OWN:
        at = put_own(columns, row, out, at)
    if facts & HAS_SESSION:
        at = put(out, at, columns.session[row], 4)
    at = put_varint(out, at, columns.stamp[row])
    if model & HAS_LONG_TERM:
        at = put(out, at, columns.long_term_sum.view(np.uint32)[row], 4)
        for k in range(columns.long_term.shape[1]):
            bits = half_bits(columns.long_term[row, k])
            out[at + 2 * k] = np.uint8(bits & np.uint16(0xFF))
            out[at + 2 * k + 1] = np.uint8(bits >> np.uint16(8))
        at += 2 * columns.long_term.shape[1]
    if model & HAS_VECTOR:
        at = _put_scaled(columns.vector, row, min(largest, np.float32(MOST_LARGEST)), out, at)
    return at


@compiled
def _put_facts(
    columns: ProfileColumns, row: Integer, out: NDArray[np.uint8], at: Integer
) -> Integer:
    last_ms = np.uint64(columns.last_ms[row])
    at = put_varint(out, at, last_ms)
    at = put_varint(out, at, last_ms - np.uint64(columns.first_ms[row]))
    at = put_varint(out, at, np.uint64(columns.last_offset[row]) + np.uint64(1))
    n_kinds = 0
    for code in range(columns.n_by_kind.shape[1]):
        if columns.n_by_kind[row, code] != 0:
            n_kinds += 1
    at = put_varint(out, at, n_kinds)
    for code in range(columns.n_by_kind.shape[1]):
        if columns.n_by_kind[row, code] != 0:
            out[at] = code
            at = put_varint(out, at + 1, columns.n_by_kind[row, code])
    at = put_varint(out, at, columns.n_history[row])
    weights = columns.history_weight.view(np.uint32)
    before_ms, before_weight = last_ms, ONE_BITS
    for a in range(columns.n_history[row]):
        at = put8(out, at, columns.history_hash[row, a])
        weight = weights[row, a]
        hundredths = np.uint8(0)
        how = FULL_WEIGHT
        if weight == before_weight:
            how = SAME_WEIGHT
        else:
            size = columns.history_weight[row, a] * np.float32(100)
            if np.float32(0) <= size and size < np.float32(255.5):
                hundredths = np.uint8(np.rint(size))
                if HUNDREDTH_BITS[hundredths] == weight:
                    how = HUNDREDTHS
        time_ms = np.uint64(columns.history_ms[row, a])
        apart_ms = before_ms - time_ms
        later = np.int64(apart_ms) < 0
        if later:
            apart_ms = time_ms - before_ms
        out[at] = np.int64(columns.history_kind[row, a]) | np.int64(how) << 5 | np.int64(later) << 7
        at += 1
        if how == HUNDREDTHS:
            out[at] = hundredths
            at += 1
        elif how == FULL_WEIGHT:
            at = put(out, at, weight, 4)
        at = put_varint(out, at, apart_ms)
        before_ms, before_weight = time_ms, weight
    if columns.n_pending[row] > 0:
        at = put_varint(out, at, last_ms - np.uint64(columns.pending_ms[row]))
        at = put_varint(out, at, columns.n_pending[row])
        for token in range(columns.n_pending[row]):
            at = put8(out, at, columns.pending[row, token])
    return at


@compiled
def _put_scaled(
    vectors: NDArray[np.float32],
    row: Integer,
    largest: Integer,
    out: NDArray[np.uint8],
    at: Integer,
) -> Integer:
    """A vector as scale and int8, its largest number being +-127."""
    bits = np.float32(np.float32(largest) / np.float32(127)).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    scale_bits = np.uint32((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    at = put(out, at, scale_bits, 2)
    scale = np.uint32(scale_bits << np.uint32(16)).view(np.float32)
    for k in range(vectors.shape[1]):
        number = np.rint(vectors[row, k] / scale)
        # Only numbers beyond MOST_LARGEST are cut.
        number = min(max(number, np.float32(-127)), np.float32(127))
        out[at + k] = np.uint8(np.int8(number))
    return at + vectors.shape[1]


@compiled
def unpack_row(
    data: NDArray[np.uint8], start: Integer, end: Integer, row: Integer, columns: ProfileColumns
) -> Integer:
    """Fill one cleared row from data[start:end]; returns OK or why not. Reads no byte outside."""
    code, at = unpack_facts(data, start, end, row, columns)
    if code != OK:
        return code
    model = data[start + 2]
    K = columns.vector.shape[1]
    n_factors, _behind = take_varint(data, start + 3, end)
    if n_factors != np.uint64(K):
        return OTHER_SHAPE
    stamp, at = take_varint(data, at, end)
    left = (4 + 2 * K) * np.int64(model & 1) + (2 + K) * np.int64(model >> 1)
    if at == CUT or at + left != end:
        return CORRUPT
    columns.stamp[row] = np.int64(stamp)
    if model & HAS_LONG_TERM:
        total = np.uint32(take(data, at, 4))
        if total >= np.uint32(FINITE_SINGLE):  # infinite, NaN, or below zero
            return CORRUPT
        columns.long_term_sum.view(np.uint32)[row] = total
        at += 4
        worst = np.uint32(0)
        for k in range(K):
            high = np.uint32(np.uint32(data[at + 2 * k + 1]) << np.uint32(8))
            bits = np.uint32(np.uint32(data[at + 2 * k]) | high)
            worst = max(worst, np.uint32(bits & np.uint32(FINITE_HALF)))
            columns.long_term[row, k] = half_value(bits)
        if worst == np.uint32(FINITE_HALF):
            return CORRUPT
        at += 2 * K
    if model & HAS_VECTOR:
        scale_bits = np.uint32(take(data, at, 2))
        if scale_bits == np.uint32(0) or scale_bits >= np.uint32(END_SCALE):
            return CORRUPT
        scale = np.uint32(scale_bits << np.uint32(16)).view(np.float32)
        at += 2
        for k in range(K):
            columns.vector[row, k] = scale * np.float32(np.int8(data[at + k]))
    return OK


@compiled
def unpack_facts(
    data: NDArray[np.uint8], start: Integer, end: Integer, row: Integer, columns: ProfileColumns
) -> tuple[Integer, Integer]:
    """Fill the facts of one cleared row: (OK or why not, where the model part begins).

    The first byte is 2 or 3.
    """
    nowhere = np.int64(CUT)
    if end - start < 3:
        return CORRUPT, nowhere
    facts = np.int64(data[start + 1])
    if facts > KNOWN_FACTS[data[start]] or data[start + 2] > KNOWN_MODEL[data[start]]:
        return UNKNOWN_PART, nowhere
    _n_factors, at = take_varint(data, start + 3, end)  # for unpack_row
    last_ms, at = take_varint(data, at, end)
    active_ms, at = take_varint(data, at, end)
    offset, at = take_varint(data, at, end)
    n_kinds, at = take_varint(data, at, end)
    most_kinds = columns.n_by_kind.shape[1]
    if at == CUT or n_kinds > np.uint64(most_kinds):
        return CORRUPT, nowhere
    columns.last_ms[row] = np.int64(last_ms)
    columns.first_ms[row] = np.int64(last_ms - active_ms)
    columns.last_offset[row] = np.int64(offset - np.uint64(1))
    for _ in range(np.int64(n_kinds)):
        if at >= end:
            return CORRUPT, nowhere
        kind = data[at]
        n, at = take_varint(data, at + 1, end)
        if at == CUT or kind >= most_kinds or n > np.uint64(0xFFFFFFFF):
            return CORRUPT, nowhere
        columns.n_by_kind[row, kind] = np.uint32(n)
    n_history, at = take_varint(data, at, end)
    # An entry has 10 bytes at the least: a huge count is refused before it is compared.
    if at == CUT or n_history > np.uint64(end - at):
        return CORRUPT, nowhere
    if n_history > np.uint64(columns.history_hash.shape[1]):
        return OTHER_SHAPE, nowhere
    weights = columns.history_weight.view(np.uint32)
    before_ms = last_ms
    before_weight: Integer = ONE_BITS
    for a in range(np.int64(n_history)):
        if at + 9 > end:
            return CORRUPT, nowhere
        columns.history_hash[row, a] = take8(data, at)
        head = data[at + 8]
        at += 9
        how = (head >> 5) & 3
        if how == HUNDREDTHS:
            if at >= end:
                return CORRUPT, nowhere
            before_weight = HUNDREDTH_BITS[data[at]]
            at += 1
        elif how == FULL_WEIGHT:
            if at + 4 > end:
                return CORRUPT, nowhere
            before_weight = np.uint32(take(data, at, 4))
            at += 4
        elif how != SAME_WEIGHT:
            return UNKNOWN_PART, nowhere
        apart_ms, at = take_varint(data, at, end)
        if at == CUT:
            return CORRUPT, nowhere
        before_ms = before_ms + apart_ms if head & 0x80 else before_ms - apart_ms
        columns.history_ms[row, a] = np.int64(before_ms)
        weights[row, a] = before_weight
        columns.history_kind[row, a] = head & 31
    columns.n_history[row] = np.int64(n_history)
    if facts & HAS_PENDING:
        since_ms, at = take_varint(data, at, end)
        n_pending, at = take_varint(data, at, end)
        if (
            at == CUT
            or n_pending == np.uint64(0)
            or n_pending > np.uint64(end - at) // np.uint64(8)
        ):
            return CORRUPT, nowhere
        if n_pending > np.uint64(columns.pending.shape[1]):
            return OTHER_SHAPE, nowhere
        columns.pending_ms[row] = np.int64(last_ms - since_ms)
        for token in range(np.int64(n_pending)):
            columns.pending[row, token] = take8(data, at)
            at += 8
        columns.n_pending[row] = np.int64(n_pending)
    if facts & HAS_OWN:
        code, at = take_own(data, at, end, row, columns)
        if code != OK:
            return code, nowhere
    if facts & HAS_SESSION:
        if at + 4 > end:
            return CORRUPT, nowhere
        columns.session[row] = np.uint32(take(data, at, 4))
        at += 4
    return OK, at
