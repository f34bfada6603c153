"""Counts of an item: decayed ones at three speeds, the rings of recent positives, first and last.

Half-lives are of event time, rings and numbers of positives: whatever a shop's pace, some of them
fit (docs/decisions/0044). Compiled; `kernel` says when.
"""

from __future__ import annotations

import numpy as np

from profiles.decay import decayed
from profiles.item_columns import (
    CLOCK_MS,
    LOST_ENTRY,
    N_LEARNED,
    N_RANKABLE,
    N_SEEN,
    RING_N,
    RING_NEXT,
    ItemColumns,
)
from profiles.jit import Integer, Real, compiled_inline, compiled_inner
from profiles.terms import Speeds, faded


@compiled_inline
def count_item(
    items: ItemColumns, item: Integer, weight: Real, begins: bool, speeds: Speeds
) -> None:
    """What one positive adds to sums. begins: it is the first of a session."""
    clock = items.state[CLOCK_MS]
    age_ms = max(clock - items.count_ms[item], 0)
    more = np.float32(weight)
    items.fast[item] = more + faded(items.fast[item], age_ms, speeds.fast_ms)
    items.slow[item] = more + faded(items.slow[item], age_ms, speeds.slow_ms)
    items.starts[item] = faded(items.starts[item], age_ms, speeds.day_ms)
    if begins:
        items.starts[item] += more
    items.counts[item] = np.float64(weight) + decayed(
        items.counts[item], items.count_ms[item], clock, speeds.day_ms
    )
    items.count_ms[item] = clock
    items.n_positive[item] += 1


@compiled_inline
def note_item(items: ItemColumns, item: Integer, n_short: Integer) -> None:
    """What is no sum: the positive gets its number, and its place in the ring.

    n_short: newest places of the ring that are counted apart.
    """
    if items.seen_at[item] < 0:
        items.seen_at[item] = items.state[N_SEEN]
        items.seen[items.state[N_SEEN]] = item
        items.state[N_SEEN] += 1
    if items.rankable_at[item] < 0 and items.entry[item] != LOST_ENTRY:
        items.rankable_at[item] = items.state[N_RANKABLE]
        items.rankable[items.state[N_RANKABLE]] = item
        items.state[N_RANKABLE] += 1
    items.state[N_LEARNED] += 1
    items.last_number[item] = items.state[N_LEARNED]
    if items.first_number[item] == 0:
        items.first_number[item] = items.state[N_LEARNED]
    _push(items, item, n_short)
    items.changed[item] = 3


@compiled_inner
def _push(items: ItemColumns, item: Integer, n_short: Integer) -> None:
    size = len(items.ring)
    place = items.state[RING_NEXT]
    if items.state[RING_N] >= n_short:
        items.short_count[items.ring[(place + size - n_short) % size]] -= 1
    if items.state[RING_N] == size:
        items.ring_count[items.ring[place]] -= 1
    else:
        items.state[RING_N] += 1
    items.ring[place] = item
    items.ring_count[item] += 1
    items.short_count[item] += 1
    items.state[RING_NEXT] = (place + 1) % size
