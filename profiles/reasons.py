"""Which past events speak for which items of many users' lists: compiled, for whole batches.

A share is the event's part c_a e_{h_a} . e_j of x . e_j, over all that speaks for the item there:
the events, the long-term vector, the words of a pending query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.jit import compiled
from profiles.model import Model
from profiles.profile import ProfileColumns
from profiles.serving import Users
from profiles.tokens import read_item


class Reasons(NamedTuple):
    """The best reasons of B lists of n items, R each.

    history: int32 (B, n, R), places in the user's history, -1 where there are fewer.
    shares: float32 (B, n, R), in (0, 1], falling; 0 where there are fewer.
    """

    history: NDArray[np.int32]
    shares: NDArray[np.float32]


def reasons(
    columns: ProfileColumns,
    users: Users,
    model: Model,
    ranked: NDArray[np.int32],
    n_reasons: int,
) -> Reasons:
    """For each item of each list the `n_reasons` events with the largest shares.

    ranked: int32 (B, n), rows of the model, -1 at the end of a short list.
    """
    shape = (*ranked.shape, n_reasons)
    result = Reasons(np.full(shape, -1, np.int32), np.zeros(shape, np.float32))
    H, K = users.history.shape[1], users.x.shape[1]
    spare = _Spare(
        E=np.zeros((H, K), np.float32),
        e=np.zeros(K, np.float32),
        words=np.zeros(K, np.float32),
        part=np.zeros(H, np.float32),
    )
    _explain(columns, users, model, ranked, result.history, result.shares, spare)
    return result


class _Spare(NamedTuple):
    """Working memory."""

    E: NDArray[np.float32]  # (H, K) vectors of the history's items
    e: NDArray[np.float32]  # (K,) of a ranked one
    words: NDArray[np.float32]  # (K,) of the pending query
    part: NDArray[np.float32]  # (H,) what each event says for the ranked item


@compiled
def _explain(
    columns: ProfileColumns,
    users: Users,
    model: Model,
    ranked: NDArray[np.int32],
    best: NDArray[np.int32],
    shares: NDArray[np.float32],
    spare: _Spare,
) -> None:
    n_lists, n_ranked, n_reasons = best.shape
    K = users.x.shape[1]
    items, tokens = model.items, model.tokens
    E, e, words, part = spare.E, spare.e, spare.words, spare.part
    for b in range(n_lists):
        user = users.row[b]
        n_history = np.int64(columns.n_history[user])
        for k in range(K):
            words[k] = users.x[b, k] - columns.long_term[user, k]
        for a in range(n_history):
            past = users.history[b, a]
            if past >= 0:
                read_item(items.vectors, items.text, tokens, past, E[a])
                for k in range(K):
                    words[k] -= users.coefficient[b, a] * E[a, k]
        for i in range(n_ranked):
            if ranked[b, i] < 0:
                break
            read_item(items.vectors, items.text, tokens, np.int64(ranked[b, i]), e)
            of_long_term = np.float32(0)
            of_words = np.float32(0)
            for k in range(K):
                of_long_term += e[k] * columns.long_term[user, k]
                of_words += e[k] * words[k]
            total = max(of_long_term, np.float32(0))
            if columns.n_pending[user] > 0:
                total += max(of_words, np.float32(0))
            for a in range(n_history):
                part[a] = np.float32(0)
                if users.history[b, a] >= 0:
                    dot = np.float32(0)
                    for k in range(K):
                        dot += e[k] * E[a, k]
                    part[a] = max(dot * users.coefficient[b, a], np.float32(0))
                    total += part[a]
            for r in range(min(n_reasons, n_history)):
                largest = 0
                for a in range(1, n_history):
                    if part[a] > part[largest]:
                        largest = a
                if part[largest] <= 0:
                    break
                best[b, i, r] = largest
                shares[b, i, r] = part[largest] / max(total, np.float32(1e-12))
                part[largest] = np.float32(0)
