"""The terms of the blend: what each simple rival says of an item for a user (docs/model.md).

Owns their names, places and formulas. A term that a shop has nothing for is 0. Terms of the item
alone and of its groups are there for every item; the others only for the items *touched* by the
user: neighbours of the newest items, items had before, items had after the pending query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.groups import Groups, GroupScratch, group_lift, group_share
from profiles.hashing import index_get_short
from profiles.item_columns import CLOCK_MS, N_LEARNED, ItemColumns
from profiles.jit import Integer, Real, compiled_inline, compiled_inner
from profiles.lists import DEPTH, NEARNESS, Lists
from profiles.own import had_in_session
from profiles.profile import ProfileColumns
from profiles.queries import Queries

TERMS = (
    "DOT", "POPF", "POPM", "POPS", "START", "RS", "RL", "NEVER", "AGE", "LAST",
    "G_LEAF", "G_PARENT", "G_BRAND", "G_PRICE", "H_LEAF", "H_PARENT", "H_BRAND", "H_PRICE",
    "LFN", "LF", "LB", "MK", "OWN1", "OWNC", "OWNS", "OWNA", "OWNT", "QW", "QT",
)  # fmt: skip

N_TERMS = len(TERMS)

(
    DOT, POPF, POPM, POPS, START, RS, RL, NEVER, AGE, LAST,
    G_LEAF, G_PARENT, G_BRAND, G_PRICE, H_LEAF, H_PARENT, H_BRAND, H_PRICE,
    LFN, LF, LB, MK, OWN1, OWNC, OWNS, OWNA, OWNT, QW, QT,
) = range(N_TERMS)  # fmt: skip

COUNT_FLOOR = 0.1
"""Added to a count before its logarithm."""

LIST_PRIOR = 5.0
"""Pairs that every list is taken to have had besides, so that one pair isn't taken for a habit."""

MOST_TOUCHED = 1_024
"""Items touched by one user; what comes later is left out."""


class Speeds(NamedTuple):
    """Half-lives of the counts, in ms of event time."""

    fast_ms: float
    day_ms: float
    slow_ms: float


class Touched(NamedTuple):
    """The items touched by one user, and what was counted of each; between two events `n` is 0."""

    at: NDArray[np.int32]  # (I,) place + 1 in the others, 0: not touched
    rows: NDArray[np.int64]  # (M,)
    pairs: NDArray[np.float32]  # (M,) t, from neighbour lists
    forward: NDArray[np.float32]  # (M,) of it what came after the user's items
    next: NDArray[np.float32]  # (M,) the share of what came after the newest item
    own: NDArray[np.int64]  # (M,) place + 1 in the user's own table, 0: not there
    words: NDArray[np.float32]  # (M,) sum over the pending words
    query: NDArray[np.float32]  # (M,) share of what was had after the whole pending query
    n: NDArray[np.int64]  # (1,)


def touched_for(capacity: int) -> Touched:
    """Nothing touched, for a table with room for that many items."""
    return Touched(
        np.zeros(capacity, np.int32),
        np.zeros(MOST_TOUCHED, np.int64),
        np.zeros(MOST_TOUCHED, np.float32),
        np.zeros(MOST_TOUCHED, np.float32),
        np.zeros(MOST_TOUCHED, np.float32),
        np.zeros(MOST_TOUCHED, np.int64),
        np.zeros(MOST_TOUCHED, np.float32),
        np.zeros(MOST_TOUCHED, np.float32),
        np.zeros(1, np.int64),
    )


@compiled_inner
def _touch(t: Touched, row: Integer, current: Integer) -> Integer:
    """The item's place among the touched ones; -1: it is the current one, or there are too many."""
    if row < 0 or row == current:
        return np.int64(-1)
    place: Integer = np.int64(t.at[row]) - 1
    if place < 0:
        place = t.n[0]
        if place == len(t.rows):
            return np.int64(-1)
        t.n[0] += 1
        t.at[row] = place + 1
        t.rows[place] = row
        t.pairs[place] = 0
        t.forward[place] = 0
        t.next[place] = 0
        t.own[place] = 0
        t.words[place] = 0
        t.query[place] = 0
    return place


@compiled_inner
def touch_neighbours(
    lists: Lists, history: NDArray[np.int64], n: Integer, current: Integer, t: Touched
) -> None:
    """What neighbour lists say. history: rows of the user's n items, newest first, -1: unknown."""
    total = np.float32(0)
    nearness = np.float32(1)
    for a in range(min(n, DEPTH)):
        if history[a] >= 0:
            total += nearness
        nearness *= np.float32(NEARNESS)
    nearness = np.float32(1) / max(total, np.float32(1e-6))
    for a in range(min(n, DEPTH)):
        row = history[a]
        if row >= 0:
            half = np.float32(0.5)
            out = lists.forward_sum[row]
            share = nearness / (out + half * lists.backward_sum[row] + np.float32(LIST_PRIOR))
            for entry in range(lists.n[row]):
                place = _touch(t, np.int64(lists.rows[row, entry]), current)
                if place >= 0:
                    forward = lists.forward[row, entry]
                    t.pairs[place] += share * (forward + half * lists.backward[row, entry])
                    t.forward[place] += share * forward
                    if a == 0:
                        t.next[place] = forward / (out + np.float32(1))
        nearness *= np.float32(NEARNESS)


@compiled_inner
def touch_own(
    users: ProfileColumns, user: Integer, index_keys: NDArray[np.uint64],
    index_values: NDArray[np.int32], current: Integer, t: Touched,
) -> None:  # fmt: skip
    """The items of the user's own table."""
    for entry in range(users.n_own[user]):
        row = index_get_short(index_keys, index_values, users.own_hash[user, entry])
        place = _touch(t, row, current)
        if place >= 0:
            t.own[place] = entry + 1


@compiled_inner
def touch_queried(
    queries: Queries, rows: NDArray[np.int64], n: Integer, items: ItemColumns, speeds: Speeds,
    current: Integer, t: Touched,
) -> None:  # fmt: skip
    """What was had after the pending query. rows: of its n words, then of the whole query."""
    for word in range(n + 1):
        query = rows[word]
        if query >= 0:
            for entry in range(queries.n[query]):
                row = np.int64(queries.items[query, entry])
                place = _touch(t, row, current)
                if place >= 0:
                    count = queries.counts[query, entry]
                    if word == n:
                        t.query[place] = count / (queries.total[query] + np.float32(1))
                    else:
                        chance = (slow_count(items, row, speeds) + np.float32(0.5)) / (
                            np.float32(items.state[N_LEARNED]) + np.float32(1)
                        )
                        t.words[place] += np.log(
                            np.float32(1) + count / (np.float32(LIST_PRIOR) * chance)
                        )


@compiled_inner
def clear_touched(t: Touched) -> None:
    """Nothing is touched."""
    for place in range(t.n[0]):
        t.at[t.rows[place]] = 0
    t.n[0] = 0


@compiled_inner
def faded(count: Real, age_ms: Integer, half_life_ms: Real) -> Real:
    """A decayed float32 count, that long after it was written."""
    return np.float32(count) * np.exp(np.float32(-0.6931472) * np.float32(age_ms / half_life_ms))


@compiled_inner
def slow_count(items: ItemColumns, row: Integer, speeds: Speeds) -> Real:
    """The item's count that decays within two weeks, as of the table's clock."""
    age_ms = max(items.state[CLOCK_MS] - items.count_ms[row], 0)
    return faded(items.slow[row], age_ms, speeds.slow_ms)


@compiled_inline
def write_item_terms(
    items: ItemColumns, row: Integer, speeds: Speeds, phi: NDArray[np.float32], at: Integer
) -> None:
    """POPF to LAST of one item into phi[at], as of the table's clock. phi: float32 (N, F)."""
    age_ms = max(items.state[CLOCK_MS] - items.count_ms[row], 0)
    floor = np.float32(COUNT_FLOOR)
    phi[at, POPF] = np.log(faded(items.fast[row], age_ms, speeds.fast_ms) + floor)
    phi[at, POPM] = np.log(faded(items.counts[row], age_ms, speeds.day_ms) + floor)
    phi[at, POPS] = np.log(faded(items.slow[row], age_ms, speeds.slow_ms) + floor)
    phi[at, START] = np.log(faded(items.starts[row], age_ms, speeds.day_ms) + floor)
    phi[at, RS] = np.log(np.float32(items.short_count[row]) + floor)
    phi[at, RL] = np.log(np.float32(items.ring_count[row]) + floor)
    first = items.first_number[row]
    if first == 0:
        phi[at, NEVER] = 1
        phi[at, AGE] = 0
        phi[at, LAST] = 0
    else:
        number = items.state[N_LEARNED] + 1
        since_first: Integer = max(number - first, 1)
        since_last: Integer = max(number - items.last_number[row], 1)
        phi[at, NEVER] = 0
        phi[at, AGE] = np.float32(0.3) * np.log(np.float32(since_first))
        phi[at, LAST] = np.float32(0.3) * np.log(np.float32(since_last))


@compiled_inline
def write_group_terms(
    groups: Groups, facets: NDArray[np.int32], row: Integer, g: GroupScratch,
    phi: NDArray[np.float32], at: Integer,
) -> None:  # fmt: skip
    """G and H of one item into phi[at]. facets: (I, N_FACETS) of the item table."""
    for facet in range(facets.shape[1]):
        group = np.int64(facets[row, facet])
        phi[at, G_LEAF + facet] = group_lift(groups, group, g)
        phi[at, H_LEAF + facet] = group_share(groups, group, g)


@compiled_inline
def write_touched_terms(
    users: ProfileColumns, user: Integer, begins: bool, minute: Integer, t: Touched,
    place: Integer, phi: NDArray[np.float32], at: Integer,
) -> None:  # fmt: skip
    """LFN to QT of one item into phi[at], whose POPS must be there already.

    place: among the touched ones, -1: it isn't. begins: a session begins now. minute: of now.
    """
    for term in range(LFN, QT + 1):
        phi[at, term] = 0
    if place < 0:
        return
    one = np.float32(1)
    thousand = np.float32(1000)
    if t.pairs[place] > 0:
        slow = np.exp(phi[at, POPS]) - np.float32(COUNT_FLOOR)
        pairs = thousand * t.pairs[place]
        phi[at, LFN] = np.log(one + pairs / np.sqrt(max(slow, np.float32(0)) + one))
        phi[at, LF] = np.log(one + pairs)
        phi[at, LB] = np.log(one + thousand * t.forward[place])
        phi[at, MK] = np.log(one + thousand * t.next[place])
    if t.own[place] > 0:
        entry = t.own[place] - 1
        events = np.int64(users.n_positive[user]) + 1 - np.int64(users.own_number[user, entry])
        minutes: Integer = max(np.int64(minute) - np.int64(users.own_minute[user, entry]), 0)
        phi[at, OWN1] = 1
        phi[at, OWNC] = np.log(one + np.float32(users.own_times[user, entry]))
        if not begins and had_in_session(users, user, entry):
            phi[at, OWNS] = 1
        phi[at, OWNA] = np.float32(0.3) * np.log(one + np.float32(events))
        phi[at, OWNT] = np.float32(0.1) * np.log(one + np.float32(minutes))
    phi[at, QW] = t.words[place]
    phi[at, QT] = np.log(one + thousand * t.query[place])
