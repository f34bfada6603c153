"""The profile of one user: as people read it (`Profile`) and as columns (`ProfileColumns`).

*Facts* (counts, times, history, pending query, own table, sessions) are a pure function of the
partition's prefix of the log. The *model part* (long-term vector and sum, user vector, stamp) is
also a function of the item table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_OFFSET = -1
"""`last_offset` of a profile that has folded nothing."""


@dataclass(slots=True)
class HistoryEntry:
    """One positive interaction. time_ms: event time. weight: in [0.001, 1]. kind: its code."""

    item_hash: int
    time_ms: int
    weight: float
    kind: int


@dataclass(slots=True)
class OwnEntry:
    """One item that the user had. short_hash: the lower 32 bits of the item's hash.

    times: how often, returns taken off, at most 255. number: of the user's positive events, 1 the
    first, when last had; minute: since 1970, of the event time then.
    """

    short_hash: int
    times: int
    number: int
    minute: int


@dataclass(slots=True)
class Profile:
    """Everything that is kept of one user; a fresh one has folded nothing.

    n_by_kind: kind code -> interactions folded. history: newest first. pending: token hashes of
    the last query, until the next positive interaction.
    n_positive: positive events but for repeats of the newest item. n_sessions: of those, how many
    began a session. session: hash of the session id of the newest one, 0: it had none.
    session_from: number of the one that began the newest session. own: items had, newest first.
    These stay zero in a generation without own tables (`ModelShape.own_items`).
    long_term: float32 (K,), or None while it is zero; long_term_sum: squared gradients so far,
    without the start value. vector: float32 (K,), the folded user vector after the last event, or
    None while it is zero and when it comes from a record of format 3, which has none.
    stamp: positives that the item table had learned at the last event.
    """

    first_ms: int = 0
    last_ms: int = 0
    last_offset: int = NO_OFFSET
    n_by_kind: dict[int, int] = field(default_factory=dict)
    history: list[HistoryEntry] = field(default_factory=list)
    pending: list[int] = field(default_factory=list)
    pending_ms: int = 0
    n_positive: int = 0
    n_sessions: int = 0
    session: int = 0
    session_from: int = 0
    own: list[OwnEntry] = field(default_factory=list)
    long_term: NDArray[np.float32] | None = None
    long_term_sum: float = 0.0
    vector: NDArray[np.float32] | None = None
    stamp: int = 0

    @property
    def n_events(self) -> int:
        """Interactions folded, of all kinds."""
        return sum(self.n_by_kind.values())


class ProfileColumns(NamedTuple):
    """The profiles of one table, a row each (U rows, H history, T tokens, N own items, K factors).

    A row of zeros with last_offset -1 is a fresh profile. Kernels take this tuple as it is.
    """

    n_by_kind: NDArray[np.uint32]  # (U, MAX_KINDS)
    first_ms: NDArray[np.int64]  # (U,)
    last_ms: NDArray[np.int64]  # (U,)
    last_offset: NDArray[np.int64]  # (U,)
    n_history: NDArray[np.int32]  # (U,)
    history_hash: NDArray[np.uint64]  # (U, H), newest first
    history_ms: NDArray[np.int64]  # (U, H)
    history_weight: NDArray[np.float32]  # (U, H)
    history_kind: NDArray[np.uint8]  # (U, H)
    n_pending: NDArray[np.int32]  # (U,)
    pending_ms: NDArray[np.int64]  # (U,)
    pending: NDArray[np.uint64]  # (U, T)
    n_positive: NDArray[np.uint32]  # (U,)
    n_sessions: NDArray[np.uint32]  # (U,)
    session: NDArray[np.uint32]  # (U,)
    session_from: NDArray[np.uint32]  # (U,)
    n_own: NDArray[np.int32]  # (U,)
    own_hash: NDArray[np.uint32]  # (U, N), newest first
    own_times: NDArray[np.uint8]  # (U, N)
    own_number: NDArray[np.uint32]  # (U, N)
    own_minute: NDArray[np.uint32]  # (U, N)
    long_term: NDArray[np.float32]  # (U, K)
    long_term_sum: NDArray[np.float32]  # (U,)
    vector: NDArray[np.float32]  # (U, K)
    stamp: NDArray[np.int64]  # (U,)
