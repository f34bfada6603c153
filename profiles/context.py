"""What a user's profile says before the next event: vector, history's rows, pending words; compiled.

x = p + sum_a c_a e_{h_a} + (2/sqrt n) sum Q (docs/model.md). The fold and the lists are made from
this one function; it changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import index_get
from profiles.jit import Integer, Real, compiled
from profiles.model import Model
from profiles.profile import ProfileColumns
from profiles.queries import add_words, query_rows
from profiles.tokens import read_item

MOST_WORDS = 255
"""Words of a pending query that any shape allows (`ModelShape.n_tokens`)."""


class Context(NamedTuple):
    """Of one user (H history, K factors)."""

    x: NDArray[np.float32]  # (K,)
    history: NDArray[np.int64]  # (H,) rows of items, newest first; -1: the table doesn't have it
    coefficient: NDArray[np.float32]  # (H,) c_a, 0 of an entry without a row
    vectors: NDArray[np.float32]  # (H, K) effective vectors of the history's items
    words: NDArray[np.int64]  # (MOST_WORDS + 1,) rows of pending words, then of the whole query


def context_for(n_history: int, n_factors: int) -> Context:
    """Zeros, to be written over."""
    return Context(
        np.zeros(n_factors, np.float32),
        np.zeros(n_history, np.int64),
        np.zeros(n_history, np.float32),
        np.zeros((n_history, n_factors), np.float32),
        np.zeros(MOST_WORDS + 1, np.int64),
    )


@compiled
def write_context(
    users: ProfileColumns, user: Integer, model: Model, recency: Real, sharpness: Real,
    context_scale: Real, s: Context,
) -> None:  # fmt: skip
    """Write the context of one user.

    One attention head with a recency bias: an entry counts less the older it is, and the more it
    points elsewhere than the newest one that the table knows.
    """
    items = model.items
    K = len(s.x)
    E = s.vectors
    for k in range(K):
        s.x[k] = users.long_term[user, k]
    n = np.int64(users.n_history[user])
    newest: Integer = np.int64(-1)
    newest_norm = np.float32(0)
    total = np.float32(0)
    nearness = np.float32(1)
    for a in range(n):
        row = index_get(items.index_keys, items.index_values, users.history_hash[user, a])
        s.history[a] = row
        s.coefficient[a] = 0
        if row >= 0:
            read_item(items.vectors, items.text, model.tokens, row, E[a])
            if newest < 0:
                newest = np.int64(a)
            dot = np.float32(0)
            norm = np.float32(0)
            for k in range(K):
                dot += E[a, k] * E[newest, k]
                norm += E[a, k] * E[a, k]
            if a == newest:
                newest_norm = norm
            cosine = dot / np.sqrt(norm * newest_norm + np.float32(1e-20))
            s.coefficient[a] = (
                users.history_weight[user, a]
                * nearness
                * np.exp(np.float32(sharpness) * (cosine - np.float32(1)))
            )
            total += s.coefficient[a]
        nearness *= np.float32(recency)
    if newest >= 0:
        scale = np.float32(context_scale) / np.sqrt(total)
        for a in range(n):
            if s.history[a] >= 0:
                s.coefficient[a] *= scale
                for k in range(K):
                    s.x[k] += s.coefficient[a] * E[a, k]
    n_words = np.int64(users.n_pending[user])
    query_rows(model.queries, users.pending[user], n_words, s.words)
    add_words(model.queries, s.words, n_words, s.x)
