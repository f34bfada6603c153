"""profile = fold(profile, event), for a batch: no I/O, no clock, no generator.

Checks what the kernel does not, and reports what it did. The item table is changed in place; when
this raises, table and profiles are as they were left, so drop both and load them again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.blend import N_SKIPPED
from profiles.errors import DivergedError
from profiles.interactions import LEAST_WEIGHT, MOST_WEIGHT, Interactions
from profiles.items import ItemTable
from profiles.kernel import (
    BAD_INPUT,
    CLIPPED,
    DIVERGED,
    FOLDED,
    LEARNED,
    RESET,
    Batch,
    fold_events,
)
from profiles.scratch import constants_of
from profiles.shape import OWN_FORMAT, FoldConfig
from profiles.table import ProfileTable


@dataclass(frozen=True, slots=True)
class FoldReport:
    """What one batch did.

    n_learned: positives learned. loss_sum: of their softmax losses, weighted. n_clipped: user
    vectors cut to `max_norm`, weights cut to what a kind may have, and ratings, or what belongs to
    them, cut to their bounds. n_skipped: steps of the
    blend left out because one was not finite. n_reset: profiles that
    retention started afresh.
    rating_errors: float32 (R,), of each rating, in their order, less what was expected before it
    was learned.
    user_rows: int32 (U,), each changed row once, in the order of last events; last_offset,
    last_time_ms: int64 (U,), of that last event; last_index: int32 (U,), its number in the batch.
    """

    n_folded: int
    n_learned: int
    loss_sum: float
    n_clipped: int
    n_skipped: int
    n_reset: int
    user_rows: NDArray[np.int32]
    last_offset: NDArray[np.int64]
    last_time_ms: NDArray[np.int64]
    last_index: NDArray[np.int32]
    watermark_ms: int
    rating_errors: NDArray[np.float32]


def fold_batch(
    profiles: ProfileTable,
    items: ItemTable,
    interactions: Interactions,
    config: FoldConfig,
    watermark_ms: int,
    pauses: Sequence[int] = (),
    at_pause: Callable[[int], None] = lambda _: None,
) -> FoldReport:
    """Fold B interactions of one partition, in their order, in place. Releases the GIL.

    watermark_ms: the largest event time of the partition before this batch (0 at first).
    pauses: rising numbers of events; `at_pause` is called with each just before that event is
    folded. It may add no users. What it raises ends the fold there.
    Raises DivergedError (a vector is not finite any more: a bug, stop the partition) and
    ValueError (rows out of range, offsets that don't rise, a weight that is no number: nothing was
    folded).
    """
    batch, n_weights = _bounded(_batch(interactions))
    n = len(interactions)
    items.queries.reserve(_most_query_rows(profiles, batch))
    n_skipped_before = int(items.blend.state[N_SKIPPED])
    counters = np.zeros(4, np.int64)
    last_of_user = np.empty(n, np.int32)
    errors = np.full(len(batch.rating), np.nan, np.float32)
    constants = constants_of(config, keep_vector=profiles.record_format < OWN_FORMAT)
    loss, n_users = 0.0, 0
    for first, end in pairwise([0, *(b for b in pauses if b), n]):
        if first or 0 in pauses:
            at_pause(first)
        state, about, loss_of_part, n_users, watermark_ms = fold_events(
            profiles.columns,
            items.model,
            items.journal,
            batch,
            first,
            end,
            interactions.partition,
            constants,
            watermark_ms,
            profiles.last_event,
            profiles.end_row,
            len(items),
            counters,
            last_of_user,
            n_users,
            errors,
            items.scratch(config),
        )
        loss += loss_of_part
        if state == BAD_INPUT:
            raise ValueError("a row, kind or token is out of range, or the offsets don't rise")
        if state == DIVERGED:
            raise DivergedError(
                f"partition {interactions.partition}, offset {interactions.offset[about]}: a vector"
                f" is not finite after {counters[FOLDED]} events of the batch"
            )
    last = last_of_user[:n_users]
    return FoldReport(
        n_folded=int(counters[FOLDED]),
        n_learned=int(counters[LEARNED]),
        loss_sum=loss,
        n_clipped=int(counters[CLIPPED]) + n_weights,
        n_skipped=int(items.blend.state[N_SKIPPED]) - n_skipped_before,
        n_reset=int(counters[RESET]),
        user_rows=batch.user_row[last],
        last_offset=batch.offset[last],
        last_time_ms=batch.time_ms[last],
        last_index=last,
        watermark_ms=int(watermark_ms),
        rating_errors=errors[~np.isnan(errors)],
    )


def _most_query_rows(profiles: ProfileTable, batch: Batch) -> int:
    """Words and whole queries that this batch may have to make rows for."""
    n_tokens = len(batch.tokens)
    pending = profiles.columns.n_pending[batch.user_row[batch.positive != 0]]
    n_pending = int(pending.sum())
    return n_tokens + n_pending + (len(batch.user_row) if n_tokens + n_pending else 0)


def _bounded(batch: Batch) -> tuple[Batch, int]:
    """The batch with every weight in bounds, and how many were not.

    Settings refuse such kinds; here because one product of 1e30 would stay in the sums for ever.
    """
    weight = np.clip(batch.weight, np.float32(LEAST_WEIGHT), np.float32(MOST_WEIGHT))
    if np.isnan(weight).any():
        raise ValueError("a weight is not a number")
    n = int(np.count_nonzero(weight != batch.weight))
    return (batch._replace(weight=weight), n) if n else (batch, 0)


def _batch(interactions: Interactions) -> Batch:
    """The columns, each contiguous and of its type. Raises ValueError for one of another length."""
    n = len(interactions)
    if interactions.session is None:
        interactions = replace(interactions, session=np.zeros(n, np.uint32))

    n_rated = 0 if interactions.rating is None else n

    def column(name: str, dtype: Any, length: int) -> NDArray[Any]:
        given = getattr(interactions, name)
        array = np.ascontiguousarray(np.zeros(0) if given is None else given, dtype)
        if not array.flags.writeable:  # numba would compile the kernel once more for it
            array = array.copy()
        if array.shape != (length,):
            raise ValueError(f"column {name} has shape {array.shape}, not ({length},)")
        return array

    return Batch(
        user_row=column("user_row", np.int32, n),
        item_row=column("item_row", np.int32, n),
        item_hash=column("item_hash", np.uint64, n),
        kind=column("kind", np.uint8, n),
        weight=column("weight", np.float32, n),
        positive=column("positive", np.uint8, n),
        time_ms=column("time_ms", np.int64, n),
        offset=column("offset", np.int64, n),
        token_start=column("token_start", np.int32, n + 1),
        tokens=column("tokens", np.uint64, len(interactions.tokens)),
        session=column("session", np.uint32, n),
        rating=column("rating", np.float32, n_rated),
        rater=column("rater", np.uint64, n_rated),
    )
