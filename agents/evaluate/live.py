"""Compiled parts of live trials: which events are sampled, item-kNN learned batch by batch, and the
three ranks of a trial."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled
from agents.evaluate.judge import judge
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


@compiled
def rank_three(
    seen: NDArray[np.int32], rankable_at: NDArray[np.int32], n_positive: NDArray[np.int64],
    ours: NDArray[np.float32], near: NDArray[np.float32], item: Any, current: Any,
    ranks: NDArray[np.float64], top: NDArray[np.int32],
) -> int:  # fmt: skip
    """Rank an item by our scores, by popularity, and by item-kNN that falls back on popularity.

    seen: rows of the items that somebody had; one that the catalogue has lost is in no list. ours,
    near: float32 (I,). current: row of the item left out, or -1. ranks: filled, (3,), infinite for
    a miss. top: filled with rows of our best, -1 where the list ends. Returns how many are ranked.
    """
    scores = np.empty((3, len(seen)), np.float32)
    rows = np.empty(len(seen), np.int32)
    n = 0
    place = -1
    current_place = -1
    total = 0.0
    for row in seen:
        if rankable_at[row] >= 0:
            rows[n] = row
            scores[0, n] = ours[row]
            scores[1, n] = n_positive[row]
            scores[2, n] = near[row]
            total += n_positive[row]
            if row == item:
                place = n
            if row == current:
                current_place = n
            n += 1
    ranks[:] = np.inf
    top[:] = -1
    if n == 0:
        return 0
    scores[2, :n] += scores[1, :n] * np.float32(1e-7 / max(1.0, total))
    three = np.empty(3, np.float64)
    best = np.empty(len(top), np.int32)
    for model in range(3):
        judge(
            scores[model, :n], n, place if place >= 0 else n, current_place,
            np.empty(0, np.int32), three, best,
        )  # fmt: skip
        ranks[model] = three[0]
        if model == 0:
            for a in range(len(top)):
                top[a] = rows[best[a]] if best[a] >= 0 else -1
    return n
