"""Half-lives in event time, applied lazily: a count is only touched when something happens to it.

Event time, not events: 5,000 events are half a day in a small shop and five seconds in a large one.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, Real, compiled


@compiled
def decayed(count: Real, count_ms: Integer, now_ms: Integer, half_life_ms: Real) -> Real:
    """`count` as of `count_ms`, seen from `now_ms`; time that runs back changes nothing."""
    if count == 0.0 or now_ms <= count_ms:
        return count
    return count * 2.0 ** (-np.float64(now_ms - count_ms) / half_life_ms)


def decayed_all(
    counts: NDArray[np.float64], count_ms: NDArray[np.int64], now_ms: int, half_life_s: float
) -> NDArray[np.float64]:
    """`decayed` of whole columns, counts and their times, both (I,).

    >>> decayed_all(np.array([8.0]), np.array([0]), now_ms=2000, half_life_s=1.0).tolist()
    [2.0]
    """
    age_ms = np.maximum(now_ms - count_ms, 0)
    fresh: NDArray[np.float64] = counts * np.exp2(-age_ms / (half_life_s * 1000.0))
    return fresh
