"""Profiles in columns: making them, clearing a row, a row as a `Profile` and back.

Knows no bytes: those are `record_v1` and `record_v2`.
"""

from __future__ import annotations

import numpy as np

from profiles.interactions import MAX_KINDS
from profiles.jit import Integer, compiled
from profiles.profile import NO_OFFSET, HistoryEntry, OwnEntry, Profile, ProfileColumns
from profiles.shape import ModelShape


def columns_for(capacity: int, shape: ModelShape) -> ProfileColumns:
    """Columns of `capacity` fresh rows; memory is only taken as rows are touched."""
    return ProfileColumns(
        n_by_kind=np.zeros((capacity, MAX_KINDS), np.uint32),
        first_ms=np.zeros(capacity, np.int64),
        last_ms=np.zeros(capacity, np.int64),
        last_offset=np.full(capacity, NO_OFFSET, np.int64),
        n_history=np.zeros(capacity, np.int32),
        history_hash=np.zeros((capacity, shape.history), np.uint64),
        history_ms=np.zeros((capacity, shape.history), np.int64),
        history_weight=np.zeros((capacity, shape.history), np.float32),
        history_kind=np.zeros((capacity, shape.history), np.uint8),
        n_pending=np.zeros(capacity, np.int32),
        pending_ms=np.zeros(capacity, np.int64),
        pending=np.zeros((capacity, shape.n_tokens), np.uint64),
        n_positive=np.zeros(capacity, np.uint32),
        n_sessions=np.zeros(capacity, np.uint32),
        session=np.zeros(capacity, np.uint32),
        session_from=np.zeros(capacity, np.uint32),
        n_own=np.zeros(capacity, np.int32),
        own_hash=np.zeros((capacity, shape.own_items), np.uint32),
        own_times=np.zeros((capacity, shape.own_items), np.uint8),
        own_number=np.zeros((capacity, shape.own_items), np.uint32),
        own_minute=np.zeros((capacity, shape.own_items), np.uint32),
        long_term=np.zeros((capacity, shape.n_factors), np.float32),
        long_term_sum=np.zeros(capacity, np.float32),
        vector=np.zeros((capacity, shape.n_factors), np.float32),
        stamp=np.zeros(capacity, np.int64),
    )


@compiled
def clear_row(columns: ProfileColumns, row: Integer) -> None:
    """Make one row a fresh profile."""
    columns.n_by_kind[row, :] = 0
    columns.first_ms[row] = 0
    columns.last_ms[row] = 0
    columns.last_offset[row] = NO_OFFSET
    columns.n_history[row] = 0
    columns.n_pending[row] = 0
    columns.pending_ms[row] = 0
    columns.n_positive[row] = 0
    columns.n_sessions[row] = 0
    columns.session[row] = 0
    columns.session_from[row] = 0
    columns.n_own[row] = 0
    columns.long_term[row, :] = 0
    columns.long_term_sum[row] = 0
    columns.vector[row, :] = 0
    columns.stamp[row] = 0


def profile_at(columns: ProfileColumns, row: int) -> Profile:
    """One row of the columns as a `Profile`."""
    n_history, n_pending = int(columns.n_history[row]), int(columns.n_pending[row])
    counts = columns.n_by_kind[row]
    has_long_term = bool(columns.long_term_sum[row] != 0 or columns.long_term[row].any())
    return Profile(
        first_ms=int(columns.first_ms[row]),
        last_ms=int(columns.last_ms[row]),
        last_offset=int(columns.last_offset[row]),
        n_by_kind={int(code): int(counts[code]) for code in np.flatnonzero(counts)},
        history=[
            HistoryEntry(
                int(columns.history_hash[row, a]),
                int(columns.history_ms[row, a]),
                float(columns.history_weight[row, a]),
                int(columns.history_kind[row, a]),
            )
            for a in range(n_history)
        ],
        pending=[int(token) for token in columns.pending[row, :n_pending]],
        pending_ms=int(columns.pending_ms[row]) if n_pending else 0,
        n_positive=int(columns.n_positive[row]),
        n_sessions=int(columns.n_sessions[row]),
        session=int(columns.session[row]),
        session_from=int(columns.session_from[row]),
        own=[
            OwnEntry(
                int(columns.own_hash[row, a]),
                int(columns.own_times[row, a]),
                int(columns.own_number[row, a]),
                int(columns.own_minute[row, a]),
            )
            for a in range(int(columns.n_own[row]))
        ],
        long_term=columns.long_term[row].copy() if has_long_term else None,
        long_term_sum=float(columns.long_term_sum[row]),
        vector=columns.vector[row].copy() if columns.vector[row].any() else None,
        stamp=int(columns.stamp[row]),
    )


def put_profile(columns: ProfileColumns, row: int, profile: Profile) -> None:
    """A `Profile` into one cleared row. Raises ValueError when it does not fit."""
    n_history, n_pending = len(profile.history), len(profile.pending)
    if len(profile.own) > columns.own_hash.shape[1]:
        raise ValueError("the own table is longer than the shape allows")
    if n_history > columns.history_hash.shape[1] or n_pending > columns.pending.shape[1]:
        raise ValueError("history or pending tokens are longer than the shape allows")
    columns.first_ms[row] = profile.first_ms
    columns.last_ms[row] = profile.last_ms
    columns.last_offset[row] = profile.last_offset
    for code, n in profile.n_by_kind.items():
        columns.n_by_kind[row, code] = n
    columns.n_history[row] = n_history
    for a, entry in enumerate(profile.history):
        columns.history_hash[row, a] = entry.item_hash
        columns.history_ms[row, a] = entry.time_ms
        columns.history_weight[row, a] = entry.weight
        columns.history_kind[row, a] = entry.kind
    columns.n_pending[row] = n_pending
    columns.pending[row, :n_pending] = profile.pending
    columns.pending_ms[row] = profile.pending_ms if n_pending else 0
    columns.n_positive[row] = profile.n_positive
    columns.n_sessions[row] = profile.n_sessions
    columns.session[row] = profile.session
    columns.session_from[row] = profile.session_from
    columns.n_own[row] = len(profile.own)
    for a, own in enumerate(profile.own):
        columns.own_hash[row, a] = own.short_hash
        columns.own_times[row, a] = own.times
        columns.own_number[row, a] = own.number
        columns.own_minute[row, a] = own.minute
    for column, vector in (
        (columns.long_term, profile.long_term),
        (columns.vector, profile.vector),
    ):
        if vector is not None:
            if vector.shape != column.shape[1:]:
                wanted = f"({column.shape[1]},)"
                raise ValueError(f"a vector of shape {vector.shape} where {wanted} is wanted")
            column[row] = vector
    columns.long_term_sum[row] = profile.long_term_sum if profile.long_term is not None else 0.0
    columns.stamp[row] = profile.stamp
