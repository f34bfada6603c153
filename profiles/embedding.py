"""The embedding: a user's vector folded from recent items, and one event's gradient step.

Compiled parts of `kernel`, which says when; docs/model.md has the mathematics. An item's vector is
read with its text (`tokens.read_item`), and a step goes to its own row and to its tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.half import nearest_half
from profiles.hashing import index_get
from profiles.item_columns import N_LEARNED, N_SEEN, RING_N, ItemColumns
from profiles.jit import Integer, Real, compiled, compiled_inner
from profiles.model import Model
from profiles.negatives import draw_below
from profiles.profile import ProfileColumns
from profiles.queries import add_words, query_rows, words_step
from profiles.scratch import Constants, Scratch
from profiles.tokens import TEXT_DRAWS, Tokens, read_item, text_step

LEAST_COEFFICIENT = 0.01
"""A history entry that counts less in the context than this learns nothing (step 3)."""

LEAST_Q = 1e-12
"""Floor of a draw's probability: only an item never seen, in an empty table, comes near it."""

LEAST_REST = 1e-3
"""What others are taken to have of q at least when one item is pushed away: a bound of the step."""

LARGEST_SUM = 1e38
"""A user's sum of squares stops here: a record holds no infinity."""


@compiled
def fill_context(
    users: ProfileColumns, model: Model, user: Integer, c: Constants, s: Scratch
) -> None:
    """s.x = p + sum_a c_a e_{h_a} + (2/sqrt n) sum_w Q_w, and what it is made of.

    One attention head with a recency bias: an entry counts less the older it is, and the more it
    points elsewhere than the newest one that the table knows.
    """
    items = model.items
    K = len(s.x)
    for k in range(K):
        s.x[k] = users.long_term[user, k]
    n_words = np.int64(users.n_pending[user])
    if n_words > 0:
        query_rows(model.queries, users.pending[user], n_words, s.query_row)
        add_words(model.queries, s.query_row, n_words, s.x)
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
            read_item(items.vectors, items.text, model.tokens, row, s.history_e[a])
            if newest < 0:
                newest = a
            dot = np.float32(0)
            norm = np.float32(0)
            for k in range(K):
                dot += s.history_e[a, k] * s.history_e[newest, k]
                norm += s.history_e[a, k] * s.history_e[a, k]
            if a == newest:
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
        if s.history_row[a] >= 0:
            coefficient = s.coefficient[a] * scale
            s.coefficient[a] = coefficient
            for k in range(K):
                s.x[k] += coefficient * s.history_e[a, k]


@compiled_inner
def _draw(model: Model, item: Integer, seed: Integer, c: Constants, s: Scratch) -> Integer:
    """Fill s.candidate, s.e and s.to_text with `item`, then its negatives other than it; how many.

    Only a few draws move tokens, each for several: they cost more than all the rest.
    """
    items = model.items
    n_seen = items.state[N_SEEN]
    n_ring = items.state[RING_N]
    stands_for = np.float32((c.n_recent + c.n_uniform) / (2 * TEXT_DRAWS))
    s.candidate[0] = item
    s.to_text[0] = 1
    n = 1
    for number in range(c.n_recent + c.n_uniform):
        recent = number < c.n_recent
        bound = n_ring if recent else n_seen
        if bound > 0:
            place = draw_below(seed, number, bound)
            row = np.int64(items.ring[place] if recent else items.seen[place])
            if row != item:
                nth = number if recent else number - c.n_recent
                s.candidate[n] = row
                s.to_text[n] = stands_for if nth < TEXT_DRAWS else np.float32(0)
                n += 1
    for j in range(n):
        read_item(items.vectors, items.text, model.tokens, s.candidate[j], s.e[j])
    return n


@compiled_inner
def _softmax(items: ItemColumns, n: Integer, c: Constants, s: Scratch) -> Real:
    """s.share = q over the n candidates; returns the loss, -log q of the first.

    A candidate's score is lowered by the log of the probability with which one draw finds it. That
    is exact here: the ring knows how often it holds each row.
    """
    n_draws = c.n_recent + c.n_uniform
    of_ring = np.float32(0)
    of_seen = np.float32(0)
    if n_draws > 0 and items.state[RING_N] > 0:
        of_ring = np.float32(c.n_recent / n_draws / items.state[RING_N])
        of_seen = np.float32(c.n_uniform / n_draws / items.state[N_SEEN])
    largest = np.float32(-np.inf)
    for j in range(n):
        z = np.float32(0)
        for k in range(len(s.x)):
            z += s.x[k] * s.e[j, k]
        if c.n_recent > 0:  # without the ring all draws are alike and the correction is a constant
            q = of_ring * np.float32(items.ring_count[s.candidate[j]]) + of_seen
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


@compiled_inner
def _step(
    items: ItemColumns, tokens: Tokens, row: Integer, factor: Real, to_text: Real,
    towards: NDArray[np.float32], square: Real, c: Constants,
) -> None:  # fmt: skip
    """One AdaGrad step of an item along factor * towards, whose square is factor^2 * square.

    to_text: how many times the gradient counts for the item's tokens. The sum fades a little at
    each touch, so that an item of old goes on learning; several who fade what they share may
    together take more than there is.
    """
    K = len(towards)
    D = items.vectors
    g = np.float32(factor)
    before: Real = max(items.sums[row], np.float32(0))
    more = g * g * np.float32(square) / np.float32(K)
    items.sums[row] = np.float32(c.sum_kept) * before + more
    step = np.float32(c.rate) / np.sqrt(np.float32(c.sum_start) + items.sums[row])
    keep = np.float32(1) - step * np.float32(c.l2)
    move = step * g
    for k in range(K):
        D[row, k] = keep * D[row, k] - move * towards[k]
    items.changed[row] = 3
    if to_text > 0 and items.text[row, 0] >= 0:
        text_step(
            tokens, items.text, row, g * np.float32(to_text), towards, square, c.rate, c.sum_start
        )


@compiled_inner
def _pull(n: Integer, weight: Real, s: Scratch) -> None:
    """s.share, q of the n candidates, becomes g of a positive, whose loss is -w log q_0."""
    for j in range(n):
        s.share[j] *= np.float32(weight)
    s.share[0] -= np.float32(weight)


@compiled_inner
def _push_away(n: Integer, weight: Real, s: Scratch) -> Real:
    """s.share becomes g of an item that was given back, whose loss -w log(1 - q_0) is returned.

    It falls by w q_0, next to nothing once it is far down; the others share what it loses.
    """
    q = s.share[0]
    rest = max(np.float32(1) - q, np.float32(LEAST_REST))
    for j in range(n):
        s.share[j] *= -np.float32(weight) * q / rest
    s.share[0] = np.float32(weight) * q
    return -np.float64(weight) * np.log(np.float64(rest))


@compiled_inner
def learn_embedding(
    users: ProfileColumns, model: Model, user: Integer, item: Integer, weight: Real, away: bool,
    seed: Integer, c: Constants, s: Scratch,
) -> tuple[Real, bool]:  # fmt: skip
    """Steps 1 to 3 for one positive; s holds the context from before it. Returns the weighted loss,
    and whether the user vector was cut to `max_norm`.

    away: the item was given back, or reviewed badly: it and what led to it part.

    The long-term vector learns from the user's `long_term_from`-th learned event on; the history
    has an entry for each of those before.
    A loss that is not finite says that a vector was not.
    """
    items = model.items
    K = len(s.x)
    clipped = False
    n = _draw(model, item, seed, c, s)
    if n == 1:
        return 0.0, clipped
    x_square = np.float32(0)
    for k in range(K):
        x_square += s.x[k] * s.x[k]
    if x_square > np.float32(c.max_norm * c.max_norm):
        shorter = np.float32(c.max_norm) / np.sqrt(x_square)
        for k in range(K):
            s.x[k] *= shorter
        x_square = np.float32(c.max_norm * c.max_norm)
        clipped = True
    loss = np.float64(weight) * _softmax(items, n, c, s)
    if away:
        loss = _push_away(n, weight, s)
    else:
        _pull(n, weight, s)
    for k in range(K):
        s.gradient[k] = 0
    for j in range(n):
        for k in range(K):
            s.gradient[k] += s.share[j] * s.e[j, k]
    g_square = np.float32(0)
    for k in range(K):
        g_square += s.gradient[k] * s.gradient[k]
    if not np.isfinite(g_square + x_square):
        return np.nan, clipped
    n_history = np.int64(users.n_history[user])
    for place in range(n + n_history):
        of_history = place >= n
        a = place - n if of_history else np.int64(0)
        row = s.history_row[a] if of_history else s.candidate[place]
        if of_history and (row < 0 or s.coefficient[a] < np.float32(LEAST_COEFFICIENT)):
            continue
        _step(
            items,
            model.tokens,
            row,
            s.coefficient[a] if of_history else s.share[place],
            np.float32(1) if of_history else s.to_text[place],
            s.gradient if of_history else s.x,
            g_square if of_history else x_square,
            c,
        )
    n_words = np.int64(users.n_pending[user])
    if n_words > 0 and not away:  # the query asked for something else
        number = items.state[N_LEARNED] + 1
        words_step(model.queries, users.pending[user], n_words, s.gradient, g_square, number)
    n_least = c.long_term_from if away else c.long_term_from - 1
    if n_history < min(n_least, users.history_hash.shape[1]):
        return loss, clipped
    total: Real = users.long_term_sum[user] + g_square / np.float32(K)
    users.long_term_sum[user] = min(total, np.float32(LARGEST_SUM))
    step = np.float32(c.rate) / np.sqrt(np.float32(c.sum_start) + users.long_term_sum[user])
    for k in range(K):
        # What a record keeps of it: else the result depended on when the profile was evicted.
        users.long_term[user, k] = nearest_half(users.long_term[user, k] - step * s.gradient[k])
    return loss, clipped
