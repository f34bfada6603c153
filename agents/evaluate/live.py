"""Compiled parts of live trials: which events are sampled, and item-kNN learned batch by batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled
from agents.evaluate.rivals.neighbours import learn_near
from profiles.hashing import index_get
from profiles.negatives import draw_below, event_seed

MILLION = 1_000_000
SAMPLING_DRAW = 1 << 20
"""Number of the draw that decides: far above the numbers of the negatives."""


@compiled
def sampled(partition: Any, offset: NDArray[np.int64], share: Any) -> NDArray[np.bool_]:
    """bool (B,): whether the event at each offset is a trial; the same for every cut and replay."""
    chosen = np.zeros(len(offset), np.bool_)
    for b in range(len(offset)):
        draw = draw_below(event_seed(partition, offset[b]), SAMPLING_DRAW, MILLION)
        chosen[b] = draw < share * MILLION
    return chosen


@compiled
def recent_rows(
    history: NDArray[np.uint64], n_history: Any, keys: NDArray[np.uint64],
    values: NDArray[np.int32], recent: NDArray[np.int32],
) -> int:  # fmt: skip
    """Fill `recent` with the rows of a profile's history, newest first; returns how many."""
    n = 0
    for a in range(min(n_history, len(recent))):
        row = index_get(keys, values, history[a])
        if row >= 0:
            recent[n] = row
            n += 1
    return n


@compiled
def learn_batch(
    neighbour: NDArray[np.int32], weight: NDArray[np.float32], n: NDArray[np.int32],
    total: NDArray[np.float32], history: NDArray[np.uint64], n_history: NDArray[np.int32],
    keys: NDArray[np.uint64], values: NDArray[np.int32], user_row: NDArray[np.int32],
    item_row: NDArray[np.int32], positive: NDArray[np.uint8], before: NDArray[np.int32],
    depth: Any, decay: Any, back: Any,
) -> None:  # fmt: skip
    """Learn the positives of a batch, whose users' histories are still those from before it.

    before: int32 (rows of users,), -1 everywhere, and so again afterwards.
    """
    B = len(user_row)
    previous = np.full(B, -1, np.int32)
    recent = np.zeros(depth, np.int32)
    for b in range(B):
        if positive[b] == 0 or item_row[b] < 0:
            continue
        user = user_row[b]
        previous[b] = before[user]
        before[user] = b
        n_recent = 0
        at = previous[b]
        newest = -1
        while at >= 0 and n_recent < depth:
            if item_row[at] != newest:
                newest = item_row[at]
                recent[n_recent] = newest
                n_recent += 1
            at = previous[at]
        for a in range(n_history[user]):
            if n_recent == depth:
                break
            row = index_get(keys, values, history[user, a])
            if row >= 0 and row != newest:
                newest = row
                recent[n_recent] = row
                n_recent += 1
        if n_recent == 0 or recent[0] != item_row[b]:
            learn_near(
                neighbour, weight, n, total, recent, n_recent, item_row[b], depth, decay, back
            )
    for b in range(B):
        before[user_row[b]] = -1
