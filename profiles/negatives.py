"""Draws without a generator: the n-th number of an event is a hash of (partition, offset, n).

So a replay draws what the first run drew, whatever the cut of the batches, and no state of a
generator has to be kept anywhere. The mixing is splitmix64 (Steele, Lea & Flood 2014, OOPSLA).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, Real, compiled

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def mix(value: Integer) -> Integer:
    """splitmix64's finalizer: every bit of the answer depends on every bit of `value`."""
    z = np.uint64(value)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@compiled
def event_seed(partition: Integer, offset: Integer) -> Integer:
    """The seed of all draws that belong to one event."""
    return mix(np.uint64(offset) * GOLDEN + mix(np.uint64(partition) + GOLDEN))


@compiled
def draw_below(seed: Integer, number: Integer, bound: Integer) -> Integer:
    """The `number`-th draw of a seed: uniform over 0 .. bound - 1, for 1 <= bound < 2^31.

    The bias of the multiplication is below bound / 2^32.
    """
    bits = mix(np.uint64(seed) + (np.uint64(number) + np.uint64(1)) * GOLDEN)
    return np.int64(((bits >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@compiled
def start_vectors(
    vectors: NDArray[np.float32], hashes: NDArray[np.uint64], first: Integer, deviation: Real
) -> None:
    """Write the start vector of each hash into rows first, first + 1, ... of `vectors`.

    Near N(0, deviation^2): the sum of four 16-bit integers, so no libm is asked and every machine
    gets the same bits. vectors: float32 (I, K). hashes: uint64 (N,).
    """
    scale = np.float32(deviation * np.sqrt(3.0) / 65536.0)
    for number in range(len(hashes)):
        for k in range(vectors.shape[1]):
            bits = mix(hashes[number] + (np.uint64(k) + np.uint64(1)) * GOLDEN)
            total = (
                np.int64(bits & np.uint64(0xFFFF))
                + np.int64((bits >> np.uint64(16)) & np.uint64(0xFFFF))
                + np.int64((bits >> np.uint64(32)) & np.uint64(0xFFFF))
                + np.int64(bits >> np.uint64(48))
            )
            vectors[first + number, k] = np.float32(total - 131070) * scale
