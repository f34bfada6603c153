"""Reads plain events out of joined messages: compiled, without the GIL, without objects.

Knows the bytes of flat ASCII JSON with an item's fields, and xxh3 of short texts; what becomes of
them, and of everything else, is for `event_columns`. No array is read beyond its end: a line end
stands behind every message, and stops all that runs on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

FIELDS: Final = (
    "user_id", "item_id", "event_id", "session_id", "request_id",
    "ts", "quantity", "position", "price", "type",
)  # fmt: skip
"""The fields that the pass knows; in `_read_message` they go by their place here."""

MOST_ID: Final = 256
MOST_TS: Final = 4_102_444_800_000
MOST_HASHED: Final = 240
"""xxh3 has another way for longer texts; their events go to the codec."""

MOST_HEAD: Final = 6
"""Bytes that `codec.repeat_hash` sets before a user's id of at most three digits' length."""

SECRET: Final = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
        "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
        "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
).copy()
"""xxh3's own; writable, or numba would compile everything twice."""

PRIME_1, PRIME_2 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F)
PRIME_3, PRIME_X = np.uint64(0x165667B19E3779F9), np.uint64(0x165667919E3779F9)
PRIME_R = np.uint64(0x9FB21C651E98DF25)
LOW = np.uint64(0xFFFFFFFF)

Integer: TypeAlias = Any
Function = TypeVar("Function", bound=Callable[..., Any])


def _compiled(function: Function) -> Function:
    """As `profiles.jit` compiles. All such functions are in this file: numba's cache looks at no
    other."""
    result: Function = numba.njit(cache=True, nogil=True, error_model="numpy", _nrt=False)(function)
    return result


Bytes: TypeAlias = NDArray[np.uint8]


@_compiled
def _le64(data: Bytes, at: Integer) -> Integer:
    word = np.uint64(0)
    for byte in range(8):
        word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
    return word


@_compiled
def _le32(data: Bytes, at: Integer) -> Integer:
    word = np.uint64(0)
    for byte in range(4):
        word |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
    return word


@_compiled
def _folded(a: Integer, b: Integer) -> Integer:
    """Both halves of the 128 bits of a * b, one upon the other."""
    half = np.uint64(32)
    low_low, low_high = (a & LOW) * (b & LOW), (a & LOW) * (b >> half)
    high_low, high_high = (a >> half) * (b & LOW), (a >> half) * (b >> half)
    cross = (low_low >> half) + (high_low & LOW) + low_high
    upper = (high_low >> half) + (cross >> half) + high_high
    return upper ^ ((cross << half) | (low_low & LOW))


@_compiled
def _mix(data: Bytes, at: Integer, secret: Bytes, place: Integer) -> Integer:
    return _folded(
        _le64(data, at) ^ _le64(secret, place), _le64(data, at + 8) ^ _le64(secret, place + 8)
    )


@_compiled
def _avalanche(word: Integer) -> Integer:
    word = (word ^ (word >> np.uint64(37))) * PRIME_X
    return word ^ (word >> np.uint64(32))


@_compiled
def xxh3(data: Bytes, at: Integer, n: Integer, secret: Bytes) -> Integer:
    """xxh3_64 without a seed of 1 to `MOST_HASHED` bytes."""
    size = np.uint64(n)
    if n <= 3:
        first, middle = np.uint64(data[at]), np.uint64(data[at + (n >> 1)])
        word = (first << np.uint64(16)) | (middle << np.uint64(24))
        word |= np.uint64(data[at + n - 1]) | (size << np.uint64(8))
        word ^= _le32(secret, 0) ^ _le32(secret, 4)
        word = (word ^ (word >> np.uint64(33))) * PRIME_2
        word = (word ^ (word >> np.uint64(29))) * PRIME_3
        return word ^ (word >> np.uint64(32))
    if n <= 8:
        word = _le32(data, at + n - 4) + (_le32(data, at) << np.uint64(32))
        word ^= _le64(secret, 8) ^ _le64(secret, 16)
        left = (word << np.uint64(49)) | (word >> np.uint64(15))
        right = (word << np.uint64(24)) | (word >> np.uint64(40))
        word = (word ^ left ^ right) * PRIME_R
        word = (word ^ ((word >> np.uint64(35)) + size)) * PRIME_R
        return word ^ (word >> np.uint64(28))
    if n <= 16:
        low = _le64(data, at) ^ (_le64(secret, 24) ^ _le64(secret, 32))
        high = _le64(data, at + n - 8) ^ (_le64(secret, 40) ^ _le64(secret, 48))
        swapped = np.uint64(0)
        for byte in range(8):
            swapped |= ((low >> np.uint64(8 * byte)) & np.uint64(255)) << np.uint64(56 - 8 * byte)
        return _avalanche(size + swapped + high + _folded(low, high))
    word = size * PRIME_1
    if n <= 128:
        for part in range((n - 1) // 32 + 1):
            word += _mix(data, at + 16 * part, secret, 32 * part)
            word += _mix(data, at + n - 16 * (part + 1), secret, 32 * part + 16)
        return _avalanche(word)
    for part in range(8):
        word += _mix(data, at + 16 * part, secret, 16 * part)
    word = _avalanche(word)
    for part in range(8, n // 16):
        word += _mix(data, at + 16 * part, secret, 16 * (part - 8) + 3)
    word += _mix(data, at + n - 16, secret, 136 - 17)
    return _avalanche(word)


@_compiled
def _string_end(data: Bytes, at: Integer) -> Integer:
    """Where a string of plain characters ends that begins at its quote; -1: it is none.

    The line end behind every value stops all that runs on.
    """
    if data[at] != np.uint8(34):  # "
        return np.int64(-1)
    at += 1
    while data[at] != np.uint8(34):
        if data[at] < np.uint8(32) or data[at] > np.uint8(126) or data[at] == np.uint8(92):
            return np.int64(-1)
        at += 1
    return np.int64(at)


@_compiled
def _which(data: Bytes, at: Integer, end: Integer, names: Bytes, ends: NDArray[np.int64]) -> Any:
    """The number of the name that lies in data[at:end]; -1: none."""
    for number in range(len(ends) - 1):
        start = ends[number]
        if ends[number + 1] - start != end - at or end == at:
            continue
        same = True
        for byte in range(end - at):
            if data[at + byte] != names[start + byte]:
                same = False
                break
        if same:
            return np.int64(number)
    return np.int64(-1)


@_compiled
def _past_blanks(data: Bytes, at: Integer) -> Integer:
    while data[at] == np.uint8(32):
        at += 1
    return np.int64(at)


@_compiled
def _past_digits(data: Bytes, at: Integer) -> tuple[Integer, Integer]:
    """Where digits end, and the number they are; at most 15 are looked at."""
    number = np.int64(0)
    first = at
    while np.uint8(48) <= data[at] and data[at] <= np.uint8(57) and at - first < 15:
        number = number * 10 + np.int64(data[at] - np.uint8(48))
        at += 1
    return np.int64(at), number


@_compiled
def _read_message(
    data: Bytes,
    at: Integer,
    names: Bytes,
    name_ends: NDArray[np.int64],
    fields: Bytes,
    field_ends: NDArray[np.int64],
    strings: NDArray[np.int64],
) -> tuple[Integer, Integer, Integer]:
    """Type, time and end of the plain event that begins at `at`; type -1: it is none.

    strings: int64 (4, 2), filled: where user, item, event and session id begin and end; 0, 0 for
    one that is not there.
    """
    none = (np.int64(-1), np.int64(0), np.int64(0))
    kind, time_ms = np.int64(-1), np.int64(-1)
    strings[:, :] = 0
    met = 0
    if data[at] != np.uint8(123):  # {
        return none
    at = _past_blanks(data, at + 1)
    while True:
        end = _string_end(data, at)
        if end < 0:
            return none
        field = _which(data, at + 1, end, fields, field_ends)
        if field < 0 or met & (1 << field):
            return none
        met |= 1 << field
        at = _past_blanks(data, end + 1)
        if data[at] != np.uint8(58):  # :
            return none
        at = _past_blanks(data, at + 1)
        if field < 5 or field == 9:
            end = _string_end(data, at)
            if end < 0:
                return none
            if field == 9:
                kind = _which(data, at + 1, end, names, name_ends)
                if kind < 0:
                    return none
            elif end - at - 1 < 1 or end - at - 1 > MOST_ID:
                return none
            elif field < 4:
                strings[field, 0], strings[field, 1] = at + 1, end
            at = end + 1
        else:
            end, number = _past_digits(data, at)
            n = end - at
            if n < 1 or (n > 1 and data[at] == np.uint8(48)):
                return none
            if field == 5:
                if n > 13 or number > MOST_TS:
                    return none
                time_ms = number
            elif field == 6:
                if number < 1 or number > 1_000_000:
                    return none
            elif field == 7:
                if number > 100_000:
                    return none
            else:  # a price, surely below its bound
                if n > 8:
                    return none
                if data[end] == np.uint8(46):  # .
                    first = end + 1
                    end, _ = _past_digits(data, first)
                    if end == first:
                        return none
            at = end
        at = _past_blanks(data, at)
        if data[at] == np.uint8(125):  # }
            break
        if data[at] != np.uint8(44):  # ,
            return none
        at = _past_blanks(data, at + 1)
    if strings[0, 1] == 0 or strings[1, 1] == 0 or time_ms < 0:
        return none
    return kind, time_ms, np.int64(at + 1)


@_compiled
def read_all(
    data: Bytes,
    ends: NDArray[np.int64],
    keys: Bytes,
    key_ends: NDArray[np.int64],
    max_bytes: Integer,
    names: Bytes,
    name_ends: NDArray[np.int64],
    fields: Bytes,
    field_ends: NDArray[np.int64],
    secret: Bytes,
    text: Bytes,
    strings: NDArray[np.int64],
    tags: NDArray[np.uint8],
    times: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    sessions: NDArray[np.uint32],
    users: Bytes,
    items: Bytes,
) -> tuple[Integer, Integer]:
    """Fill tags and the other columns of the messages that are plain, and leave the others.

    users, items: filled with a line for each message, empty where it is not plain. Returns the
    bytes of both.
    """
    at_user, at_item = np.int64(0), np.int64(0)
    for b in range(len(tags)):
        start, end = ends[b], ends[b + 1] - 1
        tag, time_ms, read_to = np.int64(-1), np.int64(0), np.int64(0)
        if 0 < end - start <= max_bytes:
            tag, time_ms, read_to = _read_message(
                data, start, names, name_ends, fields, field_ends, strings
            )
        user, n_user = strings[0, 0], strings[0, 1] - strings[0, 0]
        event, n_event = strings[2, 0], strings[2, 1] - strings[2, 0]
        session, n_session = strings[3, 0], strings[3, 1] - strings[3, 0]
        n_text = 0
        if tag >= 0 and n_event:
            n_text = n_user + n_event + MOST_HEAD
        plain = tag >= 0 and read_to == end and key_ends[b + 1] - 1 - key_ends[b] == n_user
        plain = plain and n_text <= MOST_HASHED and n_session <= MOST_HASHED
        if plain:
            for byte in range(n_user):
                if keys[key_ends[b] + byte] != data[user + byte]:
                    plain = False
                    break
        if plain:
            tags[b], times[b] = np.uint8(tag), time_ms
            for byte in range(n_user):
                users[at_user + byte] = data[user + byte]
            at_user += n_user
            item, n_item = strings[1, 0], strings[1, 1] - strings[1, 0]
            for byte in range(n_item):
                items[at_item + byte] = data[item + byte]
            at_item += n_item
            if n_event:
                n = _repeat_text(data, user, n_user, event, n_event, text)
                hashes[b] = max(xxh3(text, 0, n, secret), np.uint64(1))
            if n_session:
                sessions[b] = np.uint32(max(xxh3(data, session, n_session, secret) & LOW,
                                            np.uint64(1)))  # fmt: skip
        users[at_user] = items[at_item] = np.uint8(10)
        at_user += 1
        at_item += 1
    return at_user, at_item


@_compiled
def _repeat_text(
    data: Bytes, user: Integer, n_user: Integer, event: Integer, n_event: Integer, text: Bytes
) -> Integer:
    """Write what `codec.repeat_hash` hashes of a plain event; returns its length."""
    text[0], text[1] = np.uint8(48), np.uint8(32)  # "0 "
    n = 2
    for power in (100, 10, 1):
        if n_user >= power or power == 1:
            text[n] = np.uint8(48 + n_user // power % 10)
            n += 1
    text[n] = np.uint8(32)
    n += 1
    for byte in range(n_user):
        text[n + byte] = data[user + byte]
    n += n_user
    for byte in range(n_event):
        text[n + byte] = data[event + byte]
    return np.int64(n + n_event)
