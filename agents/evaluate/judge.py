"""From scores to ranks: the same few lines judge our model and every rival.

A rank counts the items above, and half of those level with it: 1 is the top. A score that is not a
number ranks above the item asked for, and when the item's own score is none, it is a miss
(infinite rank): a diverged model must not look good.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled

TOP = 20
"""Length of the lists whose coverage is measured."""


@compiled
def judge(
    scores: NDArray[np.float32],
    n_seen: Any,
    target: Any,
    current: Any,
    had: NDArray[np.int32],
    ranks: NDArray[np.float64],
    top: NDArray[np.int32],
) -> None:
    """Fill ranks (3,) with those of `all`, `new` and `catalogue`, and top with the best rows.

    scores: (n,) of rows 0 to n - 1, n >= n_seen; only the first n_seen count for `all` and `new`.
    current: the row left out, or -1. had: rows left out of `new`. top: int32 (TOP,), -1 where the
    list ends; of the first n_seen rows.
    """
    ranks[:] = np.inf
    top[:] = -1
    best = np.full(len(top), -np.inf, np.float32)
    n_top = 0
    own = scores[target] if target < len(scores) else np.float32(np.nan)
    above = 0.0
    above_seen = 0.0
    for j in range(len(scores)):
        if j == current:
            continue
        score = scores[j]
        if j != target:
            if score == own:
                above += 0.5
            elif not score < own:
                above += 1.0
        if j < n_seen:
            above_seen = above
            if (n_top < len(top) or score > best[n_top - 1]) and score > -np.inf:
                place = n_top if n_top < len(top) else len(top) - 1
                while place > 0 and score > best[place - 1]:
                    best[place] = best[place - 1]
                    top[place] = top[place - 1]
                    place -= 1
                best[place] = score
                top[place] = j
                n_top = min(n_top + 1, len(top))
    if not np.isfinite(own):
        return
    ranks[2] = 1.0 + above
    if target >= n_seen:
        return
    ranks[0] = 1.0 + above_seen
    for number in range(len(had)):
        j = had[number]
        if j != current and j != target and j < n_seen:
            if scores[j] == own:
                above_seen -= 0.5
            elif not scores[j] < own:
                above_seen -= 1.0
    ranks[1] = 1.0 + above_seen
