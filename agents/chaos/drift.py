"""Does a series of samples drift? A robust slope with its interval, for soaks.

Knows nothing of workers. What stays true: a single peak, or a quarter of the samples gone wild,
moves neither slope nor verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class Drift:
    """Median slope of all pairs (Theil-Sen) and its 95 % interval (Sen 1968), a unit a second."""

    slope: float
    low: float
    high: float


def drift(times_s: Sequence[float], values: Sequence[float]) -> Drift:
    """The slope of values over times, in units a second. Raises ValueError below three samples.

    >>> drift([0, 1, 2, 3, 4, 5], [1, 3, 5, 900, 9, 11]).slope
    2.0
    """
    x, y = np.asarray(times_s, float), np.asarray(values, float)
    n = len(x)
    if n < 3 or len(y) != n:
        raise ValueError(f"{n} times and {len(y)} values: give as many of both, three at least")
    first, second = np.triu_indices(n, 1)
    apart = x[second] > x[first]
    slopes = np.sort((y[second] - y[first])[apart] / (x[second] - x[first])[apart])
    reach = Z_95 * math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low = max(0, round((len(slopes) - reach) / 2) - 1)
    high = min(len(slopes) - 1, round((len(slopes) + reach) / 2))
    return Drift(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def calm(
    times_s: Sequence[float], values: Sequence[float], window_s: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least value of each window, and the window's middle: what is left of memory when passing
    peaks are taken away.

    >>> [part.tolist() for part in calm([0, 1, 2, 3], [7, 5, 6, 9], 2)]
    [[1.0, 3.0], [5.0, 6.0]]
    """
    x, y = np.asarray(times_s, float), np.asarray(values, float)
    window = ((x - x[0]) // window_s).astype(int)
    kept = np.unique(window)
    middles = np.array([x[0] + (number + 0.5) * window_s for number in kept])
    return middles, np.array([y[window == number].min() for number in kept])
