"""Numbers in a record, one after the other: compiled put and take, little endian.

Owns the spelling of one number and the answers of a decoder; what stands where is for
`record_v1` and `record_v2`. What stays true: `take_varint` reads no byte at or behind `end`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, compiled

OK, TOO_NEW, CORRUPT, OTHER_SHAPE, UNKNOWN_PART = range(5)
"""What a decoder says. UNKNOWN_PART: the format is known, and has a part that is not."""

CUT = -1
"""Where `take_varint` stands after a number that is no number."""


@compiled
def put(out: NDArray[np.uint8], at: Integer, value: Integer, n_bytes: Integer) -> Integer:
    """`value` in n_bytes; returns where the next one goes."""
    bits = np.uint64(value)
    for byte in range(n_bytes):
        out[at + byte] = np.uint8((bits >> np.uint64(8 * byte)) & np.uint64(0xFF))
    return at + n_bytes


@compiled
def put8(out: NDArray[np.uint8], at: Integer, value: Integer) -> Integer:
    """`value` in 8 bytes; returns where the next one goes."""
    return put(out, at, value, 8)


@compiled
def take(data: NDArray[np.uint8], at: Integer, n_bytes: Integer) -> Integer:
    """The number in n_bytes, as uint64. The caller knows that they are there."""
    bits = np.uint64(0)
    for byte in range(n_bytes):
        bits |= np.uint64(data[at + byte]) << np.uint64(8 * byte)
    return bits


@compiled
def take8(data: NDArray[np.uint8], at: Integer) -> Integer:
    """The number in 8 bytes, as uint64."""
    return take(data, at, 8)


@compiled
def put_varint(out: NDArray[np.uint8], at: Integer, value: Integer) -> Integer:
    """`value` (as 64 bits) in 1 to 10 bytes, 7 bits each, lowest first, high bit = goes on.

    >>> out = np.zeros(3, np.uint8)
    >>> put_varint(out, 0, 300), out.tolist()
    (2, [172, 2, 0])
    """
    bits = np.uint64(value)
    while bits >= np.uint64(128):
        out[at] = np.uint8((bits & np.uint64(127)) | np.uint64(128))
        bits >>= np.uint64(7)
        at += 1
    out[at] = np.uint8(bits)
    return at + 1


@compiled
def take_varint(data: NDArray[np.uint8], at: Integer, end: Integer) -> tuple[Integer, Integer]:
    """(number as uint64, where the next one is), or (0, CUT): cut short, or above 64 bits.

    At CUT it stays there, so a row of them needs one check.

    >>> take_varint(np.uint8([172, 2]), 0, 2), take_varint(np.uint8([172]), 0, 1)
    ((300, 2), (0, -1))
    """
    bits = np.uint64(0)
    place = np.int64(at)
    if place < 0:
        return bits, np.int64(CUT)
    for number in range(10):
        if place >= end:
            break
        byte = np.uint64(data[place])
        place += 1
        if number == 9 and byte > np.uint64(1):
            break
        bits |= (byte & np.uint64(127)) << np.uint64(7 * number)
        if byte < np.uint64(128):
            return bits, place
    return np.uint64(0), np.int64(CUT)
