"""The compiled fold: docs/model.md, strictly one event after the other.

Owns the arithmetic and nothing else: `fold.fold_batch` prepares the arrays and raises the errors,
`reference.py` holds the same maths in slow numpy. No clock, no generator: a draw is a hash of
(partition, offset, number), so the cut of the batches changes nothing.

What is still to come has its place: neighbour lists and the blend belong after `_learn`'s steps
(new columns of `ItemColumns`), text tokens inside `_context` and `_learn`, where item vectors are
read and written.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.decay import decayed
from profiles.half import nearest_half
from profiles.hashing import index_get
from profiles.interactions import RETURN
from profiles.item_columns import CLOCK_MS, N_LEARNED, N_SEEN, RING_N, RING_NEXT, ItemColumns
from profiles.jit import Integer, Real, compiled
from profiles.negatives import draw_below, event_seed
from profiles.own import begins_session, give_back, note_session, touch
from profiles.profile import ProfileColumns
from profiles.record_columns import clear_row

LEAST_COEFFICIENT = 0.01
"""A history entry that counts less in the context than this learns nothing (step 3)."""

LEAST_Q = 1e-12
"""Floor of a draw's probability: only an item never seen, in an empty table, comes near it."""

LARGEST_SUM = 1e38
"""A user's sum of squares stops here: a record holds no infinity."""

FOLDED, LEARNED, CLIPPED, RESET = range(4)
"""Places in the counters that `fold_events` fills."""

FINE, DIVERGED, BAD_INPUT = 0, 1, 2


class Constants(NamedTuple):
    """`FoldConfig` as the kernel takes it."""

    n_recent: int
    n_uniform: int
    rate: float
    sum_start: float
    l2: float
    recency: float
    sharpness: float
    context_scale: float
    half_life_ms: float
    retention_ms: int
    long_term_from: int
    max_norm: float
    learn: bool


class Batch(NamedTuple):
    """The columns of `Interactions`."""

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


class Scratch(NamedTuple):
    """Working memory of one call. x: user vector; gradient: G; the rest by history or J."""

    x: NDArray[np.float32]  # (K,)
    gradient: NDArray[np.float32]  # (K,)
    history_row: NDArray[np.int64]  # (H,) -1: the item is not in the table
    coefficient: NDArray[np.float32]  # (H,)
    candidate: NDArray[np.int64]  # (1 + n_recent + n_uniform,)
    share: NDArray[np.float32]  # the same: z, then q, then g


@compiled
def _context(
    users: ProfileColumns, items: ItemColumns, user: Integer, c: Constants, s: Scratch
) -> None:
    """Fill s.x = p + sum_a c_a e_{h_a}, with s.history_row and s.coefficient.

    One attention head with a recency bias: an entry counts less the older it is, and the more it
    points elsewhere than the newest one that the table knows.
    """
    K = len(s.x)
    D = items.vectors
    for k in range(K):
        s.x[k] = users.long_term[user, k]
    n = np.int64(users.n_history[user])
    newest: Integer = np.int64(-1)
    newest_norm = np.float32(0)
    total = np.float32(0)
    recency = np.float32(1)
    for a in range(n):
        row = index_get(items.index_keys, items.index_values, users.history_hash[user, a])
        s.history_row[a] = row
        s.coefficient[a] = 0
        if row >= 0:
            if newest < 0:
                newest = row
            dot = np.float32(0)
            norm = np.float32(0)
            for k in range(K):
                dot += D[row, k] * D[newest, k]
                norm += D[row, k] * D[row, k]
            if row == newest:
                newest_norm = norm
            cosine = dot / np.sqrt(norm * newest_norm + np.float32(1e-20))
            r = (
                users.history_weight[user, a]
                * recency
                * np.exp(np.float32(c.sharpness) * (cosine - np.float32(1)))
            )
            s.coefficient[a] = r
            total += r
        recency *= np.float32(c.recency)
    if newest < 0:
        return
    scale = np.float32(c.context_scale) / np.sqrt(total)
    for a in range(n):
        row = s.history_row[a]
        if row >= 0:
            coefficient = s.coefficient[a] * scale
            s.coefficient[a] = coefficient
            for k in range(K):
                s.x[k] += coefficient * D[row, k]


@compiled
def _draw(items: ItemColumns, item: Integer, seed: Integer, c: Constants, s: Scratch) -> Integer:
    """Fill s.candidate with `item`, then its negatives other than it; returns how many."""
    n_seen = items.state[N_SEEN]
    n_ring = items.state[RING_N]
    s.candidate[0] = item
    n = 1
    if n_ring > 0:
        for number in range(c.n_recent):
            row = np.int64(items.ring[draw_below(seed, number, n_ring)])
            if row != item:
                s.candidate[n] = row
                n += 1
    if n_seen > 0:
        for number in range(c.n_recent, c.n_recent + c.n_uniform):
            row = np.int64(items.seen[draw_below(seed, number, n_seen)])
            if row != item:
                s.candidate[n] = row
                n += 1
    return n


@compiled
def _softmax(items: ItemColumns, n: Integer, c: Constants, s: Scratch) -> Real:
    """s.share = q over the n candidates; returns the loss, -log q of the first.

    A candidate's score is lowered by the log of the probability with which one draw finds it. That
    is exact here: the ring knows how often it holds each row.
    """
    K = len(s.x)
    D = items.vectors
    n_draws = c.n_recent + c.n_uniform
    of_ring = np.float32(0)
    of_seen = np.float32(0)
    if n_draws > 0 and items.state[RING_N] > 0:
        of_ring = np.float32(c.n_recent / n_draws / items.state[RING_N])
        of_seen = np.float32(c.n_uniform / n_draws / items.state[N_SEEN])
    largest = np.float32(-np.inf)
    for j in range(n):
        row = s.candidate[j]
        z = np.float32(0)
        for k in range(K):
            z += s.x[k] * D[row, k]
        if c.n_recent > 0:  # without the ring all draws are alike and the correction is a constant
            q = of_ring * np.float32(items.ring_count[row]) + of_seen
            z -= np.log(max(q, np.float32(LEAST_Q)))
        s.share[j] = z
        largest = max(largest, z)
    total = np.float32(0)
    first = s.share[0] - largest
    for j in range(n):
        s.share[j] = np.exp(s.share[j] - largest)
        total += s.share[j]
    for j in range(n):
        s.share[j] /= total
    return np.float64(np.log(total) - first)


@compiled
def _step(
    items: ItemColumns, row: Integer, factor: Real, towards: NDArray[np.float32], square: Real,
    c: Constants,
) -> None:  # fmt: skip
    """One AdaGrad step of an item row along factor * towards, whose square is factor^2 * square."""
    K = len(towards)
    D = items.vectors
    g = np.float32(factor)
    items.sums[row] += g * g * np.float32(square) / np.float32(K)
    step = np.float32(c.rate) / np.sqrt(np.float32(c.sum_start) + items.sums[row])
    keep = np.float32(1) - step * np.float32(c.l2)
    move = step * g
    for k in range(K):
        D[row, k] = keep * D[row, k] - move * towards[k]
    items.changed[row] = 3


@compiled
def _learn(
    users: ProfileColumns, items: ItemColumns, user: Integer, item: Integer, weight: Real,
    seed: Integer, c: Constants, s: Scratch, counters: NDArray[np.int64],
) -> Real:  # fmt: skip
    """Steps 1 to 3 for one positive; s holds the context from before it. Returns the loss.

    The long-term vector learns from the user's `long_term_from`-th learned event on; the history
    has an entry for each of those before.
    A loss that is not finite says that a vector was not.
    """
    K = len(s.x)
    n = _draw(items, item, seed, c, s)
    if n == 1:
        return 0.0
    x_square = np.float32(0)
    for k in range(K):
        x_square += s.x[k] * s.x[k]
    if x_square > np.float32(c.max_norm * c.max_norm):
        shorter = np.float32(c.max_norm) / np.sqrt(x_square)
        for k in range(K):
            s.x[k] *= shorter
        x_square = np.float32(c.max_norm * c.max_norm)
        counters[CLIPPED] += 1
    loss = _softmax(items, n, c, s)
    D = items.vectors
    for k in range(K):
        s.gradient[k] = 0
    for j in range(n):
        g = np.float32(weight) * s.share[j]
        if j == 0:
            g -= np.float32(weight)
        s.share[j] = g
        row = s.candidate[j]
        for k in range(K):
            s.gradient[k] += g * D[row, k]
    g_square = np.float32(0)
    for k in range(K):
        g_square += s.gradient[k] * s.gradient[k]
    if not np.isfinite(g_square + x_square):
        return np.nan
    for j in range(n):
        _step(items, s.candidate[j], s.share[j], s.x, x_square, c)
    for a in range(users.n_history[user]):
        if s.history_row[a] >= 0 and s.coefficient[a] >= np.float32(LEAST_COEFFICIENT):
            _step(items, s.history_row[a], s.coefficient[a], s.gradient, g_square, c)
    if users.n_history[user] < min(c.long_term_from - 1, users.history_hash.shape[1]):
        return np.float64(weight) * loss
    total: Real = users.long_term_sum[user] + g_square / np.float32(K)
    users.long_term_sum[user] = min(total, np.float32(LARGEST_SUM))
    step = np.float32(c.rate) / np.sqrt(np.float32(c.sum_start) + users.long_term_sum[user])
    for k in range(K):
        # What a record keeps of it: else the result depended on when the profile was evicted.
        users.long_term[user, k] = nearest_half(users.long_term[user, k] - step * s.gradient[k])
    return np.float64(weight) * loss


@compiled
def _count(items: ItemColumns, item: Integer, weight: Real, c: Constants) -> None:
    """Step 6: popularity, the list of seen items, and the ring of recent positives."""
    clock = items.state[CLOCK_MS]
    items.counts[item] = np.float64(weight) + decayed(
        items.counts[item], items.count_ms[item], clock, c.half_life_ms
    )
    items.count_ms[item] = clock
    if items.seen_at[item] < 0:
        items.seen_at[item] = items.state[N_SEEN]
        items.seen[items.state[N_SEEN]] = item
        items.state[N_SEEN] += 1
    items.n_positive[item] += 1
    place = items.state[RING_NEXT]
    if items.state[RING_N] == len(items.ring):
        items.ring_count[items.ring[place]] -= 1
    else:
        items.state[RING_N] += 1
    items.ring[place] = item
    items.ring_count[item] += 1
    items.state[RING_NEXT] = (place + 1) % len(items.ring)
    items.state[N_LEARNED] += 1
    items.changed[item] = 3


@compiled
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


@compiled
def _take_query(users: ProfileColumns, user: Integer, batch: Batch, b: Integer) -> None:
    """The tokens of event b become the pending ones."""
    first = batch.token_start[b]
    n_tokens = min(np.int64(batch.token_start[b + 1] - first), users.pending.shape[1])
    for token in range(n_tokens):
        users.pending[user, token] = batch.tokens[first + token]
    users.n_pending[user] = n_tokens
    users.pending_ms[user] = batch.time_ms[b]


@compiled
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
    users: ProfileColumns, items: ItemColumns, batch: Batch, partition: Integer, c: Constants,
    watermark_ms: Integer, last_event: NDArray[np.int32], n_users: Integer, n_items: Integer,
    counters: NDArray[np.int64], last_of_user: NDArray[np.int32],
) -> tuple[Integer, Integer, Real, Integer, Integer]:  # fmt: skip
    """Fold a batch in place.

    last_event: int32, at least `n_users` long, scratch. counters: int64 (4,), see FOLDED.
    last_of_user: int32 (B,), filled with the number of each changed user's last event.
    Returns (state, number of the event it is about, loss, changed users, watermark).
    """
    B = len(batch.user_row)
    K = users.vector.shape[1]
    n_candidates = 1 + c.n_recent + c.n_uniform
    s = Scratch(
        np.zeros(K, np.float32),
        np.zeros(K, np.float32),
        np.zeros(users.history_hash.shape[1], np.int64),
        np.zeros(users.history_hash.shape[1], np.float32),
        np.zeros(n_candidates, np.int64),
        np.zeros(n_candidates, np.float32),
    )
    loss = 0.0
    n_changed = 0
    if not _check(batch, n_users, n_items, users.n_by_kind.shape[1]):
        return BAD_INPUT, 0, loss, 0, watermark_ms
    for b in range(B):
        last_event[batch.user_row[b]] = b
    for b in range(B):
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
        if item_hash == np.uint64(0):
            _take_query(users, user, batch, b)
        elif batch.positive[b] != 0:
            if batch.token_start[b] < batch.token_start[b + 1]:  # the query that led to it
                _take_query(users, user, batch, b)
            repeat = users.n_history[user] > 0 and users.history_hash[user, 0] == item_hash
            item = np.int64(batch.item_row[b])
            if c.learn and not repeat and item >= 0:
                _context(users, items, user, c, s)
                seed = event_seed(partition, batch.offset[b])
                event_loss = _learn(users, items, user, item, batch.weight[b], seed, c, s, counters)
                if not np.isfinite(event_loss):
                    return DIVERGED, b, loss, n_changed, watermark_ms
                loss += event_loss
                counters[LEARNED] += 1
                _count(items, item, batch.weight[b], c)
            if not repeat:
                begins = begins_session(users, user, batch.session[b], time_ms)
                note_session(users, user, batch.session[b], begins)
            touch(users, user, item_hash, time_ms, repeat)
            _remember(users, user, batch, b, repeat)
            users.n_pending[user] = 0
            users.pending_ms[user] = 0
        elif batch.kind[b] == RETURN:
            give_back(users, user, item_hash)
        if last_event[user] == b:
            last_of_user[n_changed] = b
            n_changed += 1
            if c.learn:
                _context(users, items, user, c, s)
                square = np.float32(0)
                for k in range(K):
                    square += s.x[k] * s.x[k]
                    users.vector[user, k] = s.x[k]
                if not np.isfinite(square):
                    return DIVERGED, b, loss, n_changed, watermark_ms
                users.stamp[user] = items.state[N_LEARNED]
    return FINE, 0, loss, n_changed, watermark_ms
