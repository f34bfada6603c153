"""The compiled fold: docs/model.md, strictly one event after the other.

Owns the order of what an event does: the parts are `embedding`, `blend`, `terms`, `lists`,
`groups`, `queries`, `popularity`, `ratings` and `own`. `fold.fold_batch` prepares the arrays and
raises the errors, `reference.py` holds the same maths in slow numpy. No clock, no generator: a draw
is a hash of (partition, offset, number), so the cut of the batches changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.blend import (
    EAGER,
    FIRST_DRAW,
    N_RECENT,
    N_TOUCHED,
    N_UNIFORM,
    learn_weights,
    write_parts,
)
from profiles.embedding import LEAST_Q, fill_context, learn_embedding
from profiles.groups import clear_groups, gather_groups
from profiles.interactions import BAD_REVIEW, RETURN
from profiles.item_columns import CLOCK_MS, N_LEARNED, N_RANKABLE, RING_N, ItemColumns
from profiles.jit import Integer, Real, compiled, compiled_inner
from profiles.learned import Learned, count_positive, note_positive
from profiles.model import Model
from profiles.negatives import draw_below, event_seed
from profiles.own import begins_session, give_back, minute_of, note_session, own_place, touch
from profiles.popularity import count_item
from profiles.profile import ProfileColumns
from profiles.ratings import learn_rating
from profiles.record_columns import clear_row
from profiles.scratch import Constants, Scratch
from profiles.terms import (
    DOT,
    clear_touched,
    touch_neighbours,
    touch_own,
    touch_queried,
    write_group_terms,
    write_item_terms,
    write_touched_terms,
)
from profiles.tokens import read_item

FREELY = 8.0
"""Times a user may have had an item before another positive on it weighs less: one pair alone can't
make an item. Likewise returns and bad reviews of one user, of whatever item."""

FOLDED, LEARNED, CLIPPED, RESET = range(4)
"""Places in the counters that `fold_events` fills."""

FINE, DIVERGED, BAD_INPUT = 0, 1, 2


class Batch(NamedTuple):
    """The columns of `Interactions`; those of ratings are empty without any."""

    user_row: NDArray[np.int32]
    item_row: NDArray[np.int32]
    item_hash: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    weight: NDArray[np.float32]
    positive: NDArray[np.uint8]
    time_ms: NDArray[np.int64]
    offset: NDArray[np.int64]
    token_start: NDArray[np.int32]
    tokens: NDArray[np.uint64]
    session: NDArray[np.uint32]
    rating: NDArray[np.float32]
    rater: NDArray[np.uint64]


@compiled
def touch_items(
    users: ProfileColumns, model: Model, user: Integer, c: Constants, s: Scratch
) -> None:
    """Gather what the user's items, own table and query say; s holds the user's context."""
    items = model.items
    n = np.int64(users.n_history[user])
    n_words = np.int64(users.n_pending[user])
    current = s.history_row[0] if n > 0 else np.int64(-1)
    touch_neighbours(model.lists, s.history_row, n, current, s.touched)
    touch_own(users, user, items.index_keys, items.index_values, current, s.touched)
    if n_words > 0:
        touch_queried(model.queries, s.query_row, n_words, items, c.speeds, current, s.touched)
    gather_groups(model.groups, items.facets, s.history_row, n, s.groups)


@compiled_inner
def forget_touched(users: ProfileColumns, model: Model, user: Integer, s: Scratch) -> None:
    """The scratch as it was before `touch_items`; to be called before anything is counted."""
    clear_touched(s.touched)
    n = np.int64(users.n_history[user])
    clear_groups(model.groups, model.items.facets, s.history_row, n, s.groups)


@compiled_inner
def _draw(
    items: ItemColumns, item: Integer, current: Integer, seed: Integer, s: Scratch
) -> Integer:
    """Candidates of a blend step, `item` first, with the log of their chances; returns how many."""
    n_rankable = items.state[N_RANKABLE]
    n_ring = items.state[RING_N]
    n_touched = s.touched.n[0]
    rows = s.blend.row
    rows[0] = item
    n = 1
    n_draws = np.float32(0)
    for number in range(N_UNIFORM + N_RECENT + N_TOUCHED):
        bound: Integer = n_rankable
        if number >= N_UNIFORM:
            bound = n_ring if number < N_UNIFORM + N_RECENT else n_touched
        if bound == 0:
            continue
        n_draws += np.float32(1)
        place = draw_below(seed, FIRST_DRAW + number, bound)
        if number < N_UNIFORM:
            row: Integer = np.int64(items.rankable[place])
        elif number < N_UNIFORM + N_RECENT:
            row = np.int64(items.ring[place])
        else:
            row = s.touched.rows[place]
        if row != item and row != current:
            rows[n] = row
            n += 1
    for j in range(n):
        row = rows[j]
        chance = np.float32(N_UNIFORM) / np.float32(n_rankable)
        if n_ring > 0:
            chance += np.float32(N_RECENT) * np.float32(items.ring_count[row]) / np.float32(n_ring)
        if s.touched.at[row] > 0:
            chance += np.float32(N_TOUCHED) / np.float32(n_touched)
        s.blend.share[j] = np.log(max(chance / n_draws, np.float32(LEAST_Q)))
    return n


@compiled_inner
def _learn_blend(
    users: ProfileColumns, model: Model, user: Integer, item: Integer, begins: bool,
    time_ms: Integer, seed: Integer, c: Constants, s: Scratch,
) -> None:  # fmt: skip
    """One step of the weights, on x and the items as they were ranked before this event.

    Only for an item that could have been ranked: the others would push all popularity down.
    """
    items = model.items
    touch_items(users, model, user, c, s)
    current = s.history_row[0] if users.n_history[user] > 0 else np.int64(-1)
    n = _draw(items, item, current, seed, s)
    minute = minute_of(time_ms)
    phi = s.blend.phi
    for j in range(n):
        row = s.blend.row[j]
        read_item(items.vectors, items.text, model.tokens, row, s.spare)
        dot = np.float32(0)
        for k in range(len(s.x)):
            dot += s.x[k] * s.spare[k]
        phi[j, DOT] = dot
        write_item_terms(items, row, c.speeds, phi, j)
        write_group_terms(model.groups, items.facets, row, s.groups, phi, j)
        place = np.int64(s.touched.at[row]) - 1
        write_touched_terms(users, user, begins, minute, s.touched, place, phi, j)
    write_parts(np.int64(users.n_history[user]), begins, users.n_pending[user], s.blend.parts)
    number = items.state[N_LEARNED] + 1
    with_spread = number <= EAGER or number % (2 * c.blend_every) == 0
    learn_weights(model.blend, n, with_spread, s.blend)
    forget_touched(users, model, user, s)


@compiled_inner
def _learn(
    users: ProfileColumns, model: Model, journal: Learned, user: Integer, item: Integer,
    begins: bool, batch: Batch, b: Integer, partition: Integer, c: Constants, s: Scratch,
) -> tuple[Real, bool]:  # fmt: skip
    """All that one positive, no repeat, teaches. Returns loss and cut as `learn_embedding`."""
    items = model.items
    weight = batch.weight[b]
    place = own_place(users, user, batch.item_hash[b])
    if place >= 0:
        had = np.float32(users.own_times[user, place])
        weight *= min(np.float32(1), np.float32(FREELY) / (np.float32(1) + had))
    seed = event_seed(partition, batch.offset[b])
    fill_context(users, model, user, c, s)
    number = items.state[N_LEARNED] + 1
    its_turn = c.blend_every > 0 and (number <= EAGER or number % c.blend_every == 0)
    if its_turn and items.rankable_at[item] >= 0:
        _learn_blend(users, model, user, item, begins, batch.time_ms[b], seed, c, s)
    loss, clipped = learn_embedding(users, model, user, item, weight, False, seed, c, s)
    if not np.isfinite(loss):
        return loss, clipped
    n = np.int64(users.n_history[user])
    words, n_words = users.pending[user], np.int64(users.n_pending[user])
    note_positive(journal, item, s.history_row, n, weight, words, n_words)
    count_item(items, item, weight, begins, c.speeds)
    count_positive(model, item, s.history_row, n, weight, words, n_words, c.n_ring_short)
    return loss, clipped


@compiled_inner
def _push_away(
    users: ProfileColumns, model: Model, user: Integer, item: Integer, batch: Batch, b: Integer,
    partition: Integer, c: Constants, s: Scratch,
) -> tuple[Real, bool]:  # fmt: skip
    """A return or a bad review moves vectors and nothing else: no count, no list, no blend step.

    Only of an item that the user has had and not given back, and ever less from one who does it
    often: else one account could push for ever.
    """
    place = own_place(users, user, batch.item_hash[b])
    if place < 0 or users.own_times[user, place] == 0:
        return 0.0, False
    fill_context(users, model, user, c, s)
    n = np.float32(users.n_by_kind[user, RETURN]) + np.float32(users.n_by_kind[user, BAD_REVIEW])
    weight = batch.weight[b] * min(np.float32(1), np.float32(FREELY) / max(n, np.float32(1)))
    seed = event_seed(partition, batch.offset[b])
    return learn_embedding(users, model, user, item, weight, True, seed, c, s)


@compiled_inner
def _learn_rating(
    users: ProfileColumns, model: Model, user: Integer, item: Integer, batch: Batch, b: Integer,
    c: Constants, s: Scratch,
) -> tuple[Real, bool]:  # fmt: skip
    """What the stars of a review teach, before anything else of it does; see `learn_rating`."""
    fill_context(users, model, user, c, s)
    read_item(model.items.vectors, model.items.text, model.tokens, item, s.spare)
    dot = np.float32(0)
    for k in range(len(s.x)):
        dot += s.x[k] * s.spare[k]
    return learn_rating(model.ratings, model.items, item, batch.rater[b], dot, batch.rating[b])


@compiled_inner
def _remember(users: ProfileColumns, user: Integer, batch: Batch, b: Integer, repeat: bool) -> None:
    """Put event b at the front of the history; a repeat of the newest item refreshes it."""
    if not repeat:
        n = min(users.n_history[user] + 1, users.history_hash.shape[1])
        for a in range(n - 1, 0, -1):
            users.history_hash[user, a] = users.history_hash[user, a - 1]
            users.history_ms[user, a] = users.history_ms[user, a - 1]
            users.history_weight[user, a] = users.history_weight[user, a - 1]
            users.history_kind[user, a] = users.history_kind[user, a - 1]
        users.history_hash[user, 0] = batch.item_hash[b]
        users.n_history[user] = n
    users.history_ms[user, 0] = batch.time_ms[b]
    users.history_weight[user, 0] = batch.weight[b]
    users.history_kind[user, 0] = batch.kind[b]


@compiled_inner
def _take_query(users: ProfileColumns, user: Integer, batch: Batch, b: Integer) -> None:
    """The tokens of event b become the pending ones."""
    first = batch.token_start[b]
    n_tokens = min(np.int64(batch.token_start[b + 1] - first), users.pending.shape[1])
    for token in range(n_tokens):
        users.pending[user, token] = batch.tokens[first + token]
    users.n_pending[user] = n_tokens
    users.pending_ms[user] = batch.time_ms[b]


@compiled_inner
def _check(batch: Batch, n_users: Integer, n_items: Integer, n_kinds: Integer) -> bool:
    """Whether every row is in range and offsets rise: a wrong row would write anywhere."""
    last = np.int64(-1)
    for b in range(len(batch.user_row)):
        if not 0 <= batch.user_row[b] < n_users or not -1 <= batch.item_row[b] < n_items:
            return False
        if batch.kind[b] >= n_kinds or batch.offset[b] <= last:
            return False
        if not 0 <= batch.token_start[b] <= batch.token_start[b + 1] <= len(batch.tokens):
            return False
        last = batch.offset[b]
    return True


@compiled
def fold_events(
    users: ProfileColumns, model: Model, journal: Learned, batch: Batch, first: Integer,
    end: Integer, partition: Integer, c: Constants, watermark_ms: Integer,
    last_event: NDArray[np.int32], n_users: Integer, n_items: Integer,
    counters: NDArray[np.int64], last_of_user: NDArray[np.int32], n_changed: Integer,
    errors: NDArray[np.float32], s: Scratch,
) -> tuple[Integer, Integer, Real, Integer, Integer]:  # fmt: skip
    """Fold events `first` to `end` of a batch in place; a batch's calls follow one another.

    last_event: int32, at least `n_users` long, the batch's own between its calls. counters: int64
    (4,), see FOLDED. last_of_user: int32 (B,), whose first `n_changed` are filled with the number
    of each changed user's last event. errors: float32 (B,) of not a number where the batch has
    ratings, filled where an event has one.
    Returns (state, number of the event it is about, loss, changed users, watermark).
    """
    K = users.vector.shape[1]
    items = model.items
    loss = 0.0
    if first == 0:
        if not _check(batch, n_users, n_items, users.n_by_kind.shape[1]):
            return BAD_INPUT, 0, loss, 0, watermark_ms
        for b in range(len(batch.user_row)):
            last_event[batch.user_row[b]] = b
    for b in range(first, end):
        user = np.int64(batch.user_row[b])
        time_ms = batch.time_ms[b]
        watermark_ms = max(watermark_ms, time_ms)
        if (
            c.retention_ms > 0
            and users.last_offset[user] >= 0
            and users.last_ms[user] < watermark_ms - c.retention_ms
        ):
            clear_row(users, user)
            counters[RESET] += 1
        if users.last_offset[user] < 0:
            users.first_ms[user] = time_ms
            users.last_ms[user] = time_ms
        users.first_ms[user] = min(users.first_ms[user], time_ms)
        users.last_ms[user] = max(users.last_ms[user], time_ms)
        users.last_offset[user] = batch.offset[b]
        users.n_by_kind[user, batch.kind[b]] += np.uint32(1)
        counters[FOLDED] += 1
        item_hash = batch.item_hash[b]
        if c.learn:
            items.state[CLOCK_MS] = max(items.state[CLOCK_MS], time_ms)
            if len(errors) > 0 and batch.item_row[b] >= 0 and np.isfinite(batch.rating[b]):
                error, cut = _learn_rating(
                    users, model, user, np.int64(batch.item_row[b]), batch, b, c, s
                )
                errors[b] = error
                counters[CLIPPED] += 1 if cut else 0
        if item_hash == np.uint64(0):
            _take_query(users, user, batch, b)
        elif batch.positive[b] != 0:
            if batch.token_start[b] < batch.token_start[b + 1]:  # the query that led to it
                _take_query(users, user, batch, b)
            repeat = users.n_history[user] > 0 and users.history_hash[user, 0] == item_hash
            item = np.int64(batch.item_row[b])
            begins = begins_session(users, user, batch.session[b], time_ms)
            if c.learn and not repeat and item >= 0:
                event_loss, clipped = _learn(
                    users, model, journal, user, item, begins, batch, b, partition, c, s
                )
                if not np.isfinite(event_loss):
                    return DIVERGED, b, loss, n_changed, watermark_ms
                loss += event_loss
                counters[LEARNED] += 1
                counters[CLIPPED] += 1 if clipped else 0
            if not repeat:
                note_session(users, user, batch.session[b], begins)
            touch(users, user, item_hash, time_ms, repeat)
            _remember(users, user, batch, b, repeat)
            users.n_pending[user] = 0
            users.pending_ms[user] = 0
        elif batch.kind[b] == RETURN or batch.kind[b] == BAD_REVIEW:
            item = np.int64(batch.item_row[b])
            if c.learn and item >= 0:
                event_loss, clipped = _push_away(
                    users, model, user, item, batch, b, partition, c, s
                )
                if not np.isfinite(event_loss):
                    return DIVERGED, b, loss, n_changed, watermark_ms
                counters[CLIPPED] += 1 if clipped else 0
            if batch.kind[b] == RETURN:
                give_back(users, user, item_hash)
        if last_event[user] == b:
            last_of_user[n_changed] = b
            n_changed += 1
            if c.learn:
                users.stamp[user] = items.state[N_LEARNED]
            if c.learn and c.keep_vector:
                fill_context(users, model, user, c, s)
                square = np.float32(0)
                for k in range(K):
                    square += s.x[k] * s.x[k]
                    users.vector[user, k] = s.x[k]
                if not np.isfinite(square):
                    return DIVERGED, b, loss, n_changed, watermark_ms
    return FINE, 0, loss, n_changed, watermark_ms
