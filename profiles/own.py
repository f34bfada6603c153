"""A user's own table and sessions: facts, compiled. Which items a user had, how often, when last.

Owns what an event changes in them; `kernel` says when, `record_v2` how they are written. What stays
true: the items that the history holds come first, in its order, so a record writes little of them;
numbers fall from entry to entry. Without own tables (no column has a place) nothing is changed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import SHORT, index_get_short
from profiles.jit import Integer, compiled, compiled_inline
from profiles.profile import ProfileColumns

SESSION_GAP_MS = 1_800_000
"""A positive event more than half an hour after the one before begins a session."""

MINUTE_MS = 60_000

MOST_TIMES = 255


@compiled
def begins_session(
    users: ProfileColumns, user: Integer, session: Integer, time_ms: Integer
) -> bool:
    """Whether a positive event now would be the first of a session, from before it is noted.

    session: hash of the id that it has, 0 without one. The user's first one is; one whose id is
    another than that of the newest positive; one after the gap.
    """
    if users.n_history[user] == 0:
        return True
    before = users.session[user]
    if session != 0 and before != 0 and np.uint32(session) != before:
        return True
    return bool(np.int64(time_ms) - users.history_ms[user, 0] > SESSION_GAP_MS)


@compiled
def note_session(users: ProfileColumns, user: Integer, session: Integer, begins: bool) -> None:
    """A positive event, no repeat, before `touch` numbers it. begins: it is the session's first."""
    if users.own_hash.shape[1] == 0:
        return
    users.session[user] = np.uint32(session)
    if begins:
        users.n_sessions[user] += np.uint32(1)
        users.session_from[user] = users.n_positive[user] + np.uint32(1)


@compiled_inline
def own_place(users: ProfileColumns, user: Integer, item_hash: Integer) -> Integer:
    """Where the own table has an item, 0 the newest; -1: nowhere."""
    short = np.uint32(np.uint64(item_hash) & np.uint64(SHORT))
    for a in range(users.n_own[user]):
        if users.own_hash[user, a] == short:
            return np.int64(a)
    return np.int64(-1)


@compiled
def had_in_session(users: ProfileColumns, user: Integer, place: Integer) -> bool:
    """Whether the entry at `place` was had in the newest session."""
    return bool(users.own_number[user, place] >= users.session_from[user])


@compiled
def own_row(
    users: ProfileColumns,
    user: Integer,
    place: Integer,
    index_keys: NDArray[np.uint64],
    index_values: NDArray[np.int32],
) -> Integer:
    """The item's row by the item table's index, or -1."""
    return index_get_short(index_keys, index_values, users.own_hash[user, place])


@compiled
def touch(
    users: ProfileColumns, user: Integer, item_hash: Integer, time_ms: Integer, repeat: bool
) -> None:
    """A positive event: its item comes first and has one more; a full table drops the oldest.

    repeat: of the newest item, which gets no number of its own.
    """
    size = users.own_hash.shape[1]
    if size == 0:
        return
    if not repeat:
        users.n_positive[user] += np.uint32(1)
    place = own_place(users, user, item_hash)
    times = np.int64(1)
    if place >= 0:
        times = min(np.int64(users.own_times[user, place]) + 1, np.int64(MOST_TIMES))
    elif users.n_own[user] < size:
        place = np.int64(users.n_own[user])
        users.n_own[user] += 1
    else:
        place = np.int64(size - 1)
    for a in range(place, 0, -1):
        users.own_hash[user, a] = users.own_hash[user, a - 1]
        users.own_times[user, a] = users.own_times[user, a - 1]
        users.own_number[user, a] = users.own_number[user, a - 1]
        users.own_minute[user, a] = users.own_minute[user, a - 1]
    users.own_hash[user, 0] = np.uint32(np.uint64(item_hash) & np.uint64(SHORT))
    users.own_times[user, 0] = np.uint8(times)
    users.own_number[user, 0] = users.n_positive[user]
    users.own_minute[user, 0] = minute_of(time_ms)


@compiled
def give_back(users: ProfileColumns, user: Integer, item_hash: Integer) -> None:
    """A return: the item was had one time less, not below 0."""
    place = own_place(users, user, item_hash)
    if place >= 0 and users.own_times[user, place] > 0:
        users.own_times[user, place] -= np.uint8(1)


@compiled
def minute_of(time_ms: Integer) -> Integer:
    """The minute of an event time, since 1970, as uint32."""
    return np.uint32(np.uint64(np.int64(time_ms) // np.int64(MINUTE_MS)) & np.uint64(SHORT))
