"""float16 for compiled code, which has no such type: rounding, and to and from the 16 bits.

Owns this one format (IEEE 754 binary16). What stays true: rounding is to the nearest, ties to even,
as numpy does it, so any language gets the same bits; beyond the largest float16 it is cut to that.
"""

from __future__ import annotations

import numpy as np

from profiles.jit import Integer, Real, compiled

LARGEST_HALF = 65504.0
LARGEST_HALF_BITS = 0x7BFF

_LEAST_NORMAL = 2.0**-14
"""Below it a float16 has a fixed step of 2**-24 instead of 11 significant bits."""

_STEPS = 2.0**24


@compiled
def nearest_half(value: Real) -> Real:
    """The float16 next to a float32, as a float32; NaN stays NaN.

    >>> float(nearest_half(np.float32(0.1))) == float(np.float16(0.1)), float(nearest_half(1e9))
    (True, 65504.0)
    """
    number = np.float32(value)
    bits = number.view(np.uint32)
    # Half a unit of the 13 bits that go, less one where the last bit that stays is even.
    up = np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    normal = np.uint32((bits + up) & np.uint32(0xFFFFE000)).view(np.float32)
    small = np.float32(np.rint(number * np.float32(_STEPS))) * np.float32(1 / _STEPS)
    rounded = normal if abs(number) >= np.float32(_LEAST_NORMAL) else small
    return min(max(rounded, np.float32(-LARGEST_HALF)), np.float32(LARGEST_HALF))


@compiled
def half_bits(value: Real) -> Integer:
    """The 16 bits of a float32, rounded as `nearest_half` does.

    >>> hex(half_bits(np.float32(1.0))), hex(half_bits(np.float32(-2.0**-24)))
    ('0x3c00', '0x8001')
    """
    # Every step is cut to 32 bits (numba widens integers): so a loop of it becomes vector code.
    number = np.float32(value)
    bits = number.view(np.uint32)
    sign = np.uint32((bits >> np.uint32(16)) & np.uint32(0x8000))
    size = np.uint32(bits & np.uint32(0x7FFFFFFF))
    odd = np.uint32((size >> np.uint32(13)) & np.uint32(1))
    # 112: the exponent of a float32 counts from -127, that of a float16 from -15.
    normal = np.uint32(np.uint32(size + np.uint32(0xFFF) + odd) - np.uint32(112 << 23))
    small = np.rint(min(abs(number), np.float32(1)) * np.float32(_STEPS))
    least = np.uint32(113 << 23)  # 2**-14, the smallest with 11 significant bits
    rest = np.uint32(np.int32(small)) if size < least else np.uint32(normal >> np.uint32(13))
    return np.uint16(np.uint32(sign | min(rest, np.uint32(LARGEST_HALF_BITS))))


@compiled
def half_value(bits: Integer) -> Real:
    """The float32 of a float16's 16 bits, which must be finite.

    >>> float(half_value(0x3C00)), float(half_value(0x8001)) == -2.0**-24
    (1.0, True)
    """
    sign = np.uint32(np.uint32(np.uint32(bits) & np.uint32(0x8000)) << np.uint32(16))
    rest = np.uint32(np.uint32(bits) & np.uint32(0x7FFF))
    normal = np.uint32(np.uint32(rest << np.uint32(13)) + np.uint32(112 << 23))
    small = np.float32(np.float32(np.int32(rest)) * np.float32(1 / _STEPS)).view(np.uint32)
    size = normal if rest >= np.uint32(0x400) else small
    return np.uint32(size | sign).view(np.float32)
