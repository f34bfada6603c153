"""The own table in a record of format 3: parts 2 and 4 of the facts, and its canonical form.

```
with facts part 2:
  varint     positive events but for repeats of the newest item
  varint     sessions
  varint     positive events since the one that began the newest session
  varint     number of entries, then for each, newest first:
    u8         bits 0-1: times had, 1 to 3, or 0: in the u8 that follows; bit 2: the history tells
               the rest; bit 3: the number is not one below that of the entry before (for the first:
               not that of the newest event); bits 4-5: the minute is that of the entry before (for
               the first: of the last event time), 1 = an earlier one, 2 = a later one; bits 6-7 are
               not given out
    u32        lower half of the item hash               [not with bit 2]
    u8         times had                                 [when bits 0-1 are 0]
    varint     number of the entry before less this one  [with bit 3]
    varint     minutes apart                             [when bits 4-5 are not 0]
with facts part 4:
  u32        hash of the newest session's id
```
*The history tells*: as many items as entries have said so before are left out, newest first, each
once; the next one has the entry's hash and minute, and the number of its place. Nearly all entries
that the history still holds are so, and take one byte.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import SHORT
from profiles.jit import Integer, compiled
from profiles.own import minute_of
from profiles.profile import ProfileColumns
from profiles.record_bytes import (
    CORRUPT,
    CUT,
    OK,
    OTHER_SHAPE,
    UNKNOWN_PART,
    put,
    put_varint,
    take,
    take_varint,
)

TOLD = 1 << 2
OTHER_NUMBER = 1 << 3
EARLIER, LATER = 1 << 4, 2 << 4
KNOWN_BITS = 0x3F

MOST_OWN_BYTES = 16
"""No entry is longer: u8, u32, u8, two varints of 32 bits."""


@compiled
def has_own(columns: ProfileColumns, row: Integer) -> bool:
    """Whether a row has anything for part 2."""
    return bool(
        columns.n_positive[row] != 0
        or columns.n_sessions[row] != 0
        or columns.session_from[row] != 0
        or columns.n_own[row] != 0
    )


@compiled
def _next_told(columns: ProfileColumns, row: Integer, a: Integer) -> Integer:
    """The first place of the history from `a` on whose item is at none before it."""
    n = np.int64(columns.n_history[row])
    place = np.int64(a)
    while place < n:
        known = False
        for b in range(place):
            if ((columns.history_hash[row, b] ^ columns.history_hash[row, place])
                    & np.uint64(SHORT)) == np.uint64(0):  # fmt: skip
                known = True
        if not known:
            break
        place += 1
    return place


@compiled
def put_own(columns: ProfileColumns, row: Integer, out: NDArray[np.uint8], at: Integer) -> Integer:
    """Write part 2 at `at`; returns where it ends."""
    n_positive = columns.n_positive[row]
    at = put_varint(out, at, n_positive)
    at = put_varint(out, at, columns.n_sessions[row])
    at = put_varint(out, at, np.uint32(n_positive - columns.session_from[row]))
    at = put_varint(out, at, columns.n_own[row])
    before_number = np.uint32(n_positive + np.uint32(1))
    before_minute = minute_of(columns.last_ms[row])
    told = _next_told(columns, row, 0)
    for a in range(columns.n_own[row]):
        short, number = columns.own_hash[row, a], columns.own_number[row, a]
        minute, times = columns.own_minute[row, a], columns.own_times[row, a]
        head_at = at
        head = np.int64(times) if np.uint8(1) <= times and times <= np.uint8(3) else np.int64(0)
        at += 1
        is_told = (
            told < columns.n_history[row]
            and short == np.uint32(columns.history_hash[row, told] & np.uint64(SHORT))
            and number == np.uint32(n_positive - np.uint32(told))
            and minute == minute_of(columns.history_ms[row, told])
        )
        if is_told:
            head |= TOLD
            told = _next_told(columns, row, told + 1)
        else:
            at = put(out, at, short, 4)
        if head & 3 == 0:
            out[at] = times
            at += 1
        if not is_told:
            fewer = np.uint32(before_number - number)
            if fewer != np.uint32(1):
                head |= OTHER_NUMBER
                at = put_varint(out, at, fewer)
            if minute < before_minute:
                head |= EARLIER
                at = put_varint(out, at, np.uint32(before_minute - minute))
            elif minute > before_minute:
                head |= LATER
                at = put_varint(out, at, np.uint32(minute - before_minute))
        out[head_at] = np.uint8(head)
        before_number, before_minute = number, minute
    return at


@compiled
def take_own(
    data: NDArray[np.uint8], at: Integer, end: Integer, row: Integer, columns: ProfileColumns
) -> tuple[Integer, Integer]:
    """Fill a row whose history is there already from part 2: (OK or why not, where it ends)."""
    most = np.uint64(SHORT)
    nowhere = np.int64(CUT)
    n_positive, at = take_varint(data, at, end)
    n_sessions, at = take_varint(data, at, end)
    since, at = take_varint(data, at, end)
    n_own, at = take_varint(data, at, end)
    if at == CUT or max(n_positive, n_sessions, since) > most or n_own > np.uint64(end - at):
        return CORRUPT, nowhere
    if n_own > np.uint64(columns.own_hash.shape[1]):
        return OTHER_SHAPE, nowhere
    columns.n_positive[row] = np.uint32(n_positive)
    columns.n_sessions[row] = np.uint32(n_sessions)
    columns.session_from[row] = np.uint32(n_positive) - np.uint32(since)
    before_number = np.uint32(np.uint32(n_positive) + np.uint32(1))
    before_minute = np.uint32(minute_of(columns.last_ms[row]))
    told = _next_told(columns, row, 0)
    for a in range(np.int64(n_own)):
        if at >= end:
            return CORRUPT, nowhere
        head = np.int64(data[at])
        at += 1
        if head > KNOWN_BITS:
            return UNKNOWN_PART, nowhere
        if head & TOLD:
            if told >= columns.n_history[row] or head & (OTHER_NUMBER | EARLIER | LATER):
                return CORRUPT, nowhere
            short = np.uint32(columns.history_hash[row, told] & np.uint64(SHORT))
        else:
            if at + 4 > end:
                return CORRUPT, nowhere
            short = np.uint32(take(data, at, 4))
            at += 4
        times: Integer = np.uint8(head & 3)
        if times == np.uint8(0):
            if at >= end:
                return CORRUPT, nowhere
            times = data[at]
            at += 1
        if head & TOLD:
            number = np.uint32(np.uint32(n_positive) - np.uint32(told))
            minute = np.uint32(minute_of(columns.history_ms[row, told]))
            told = _next_told(columns, row, told + 1)
        else:
            fewer, apart = np.uint64(1), np.uint64(0)
            if head & OTHER_NUMBER:
                fewer, at = take_varint(data, at, end)
            if head & (EARLIER | LATER):
                apart, at = take_varint(data, at, end)
            if at == CUT or max(fewer, apart) > most or head & (EARLIER | LATER) == EARLIER | LATER:
                return CORRUPT, nowhere
            number = np.uint32(before_number - np.uint32(fewer))
            if head & LATER:
                minute = np.uint32(before_minute + np.uint32(apart))
            else:
                minute = np.uint32(before_minute - np.uint32(apart))
        columns.own_hash[row, a] = short
        columns.own_times[row, a] = times
        columns.own_number[row, a] = number
        columns.own_minute[row, a] = minute
        before_number, before_minute = number, minute
    columns.n_own[row] = np.int64(n_own)
    return OK, at


@compiled
def put_own_in_full(
    columns: ProfileColumns, row: Integer, out: NDArray[np.uint8], at: Integer
) -> Integer:
    """The canonical form, behind the facts of format 1; no byte where there is nothing.

    u32 positive events, sessions, session, first event of the newest session; u8 entries, then for
    each u32 hash, u8 times, u32 number, u32 minute.
    """
    if not has_own(columns, row) and columns.session[row] == 0:
        return at
    at = put(out, at, columns.n_positive[row], 4)
    at = put(out, at, columns.n_sessions[row], 4)
    at = put(out, at, columns.session[row], 4)
    at = put(out, at, columns.session_from[row], 4)
    out[at] = np.uint8(columns.n_own[row])
    at += 1
    for a in range(columns.n_own[row]):
        at = put(out, at, columns.own_hash[row, a], 4)
        out[at] = columns.own_times[row, a]
        at = put(out, at + 1, columns.own_number[row, a], 4)
        at = put(out, at, columns.own_minute[row, a], 4)
    return at
