"""Which past events speak for which items of many users' lists: compiled, for whole batches.

The same numbers as `scoring.context_of` and `scoring.explain` give for one profile, which tests
hold this to; a scorer that makes a thousand lists a second can't afford those.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import index_get
from profiles.jit import compiled
from profiles.profile import ProfileColumns
from profiles.scoring import NO_ROW
from profiles.table import ProfileTable
from profiles.view import ItemView


class Reasons(NamedTuple):
    """The best reasons of B lists of n items, R each.

    history: int32 (B, n, R), places in the user's history, -1 where there are fewer.
    shares: float32 (B, n, R), in (0, 1], falling; 0 where there are fewer.
    """

    history: NDArray[np.int32]
    shares: NDArray[np.float32]


def history_rows(
    profiles: ProfileTable, rows: NDArray[np.int32], view: ItemView
) -> NDArray[np.int32]:
    """int32 (B, H): the view's row of each history entry, newest first; NO_ROW if it has none."""
    found = np.full((len(rows), profiles.shape.history), NO_ROW, np.int32)
    keys, values = view.index
    _find_history(profiles.columns, rows, keys, values, len(view), found)
    return found


def reasons(
    profiles: ProfileTable,
    rows: NDArray[np.int32],
    view: ItemView,
    found: NDArray[np.int32],
    ranked: NDArray[np.int32],
    n_reasons: int,
) -> Reasons:
    """For each item of each list the `n_reasons` events with the largest shares.

    rows: int32 (B,), of the users in `profiles`. found: of `history_rows`. ranked: int32 (B, n),
    rows of the view, NO_ROW at the end of a short list.
    """
    shape = (*ranked.shape, n_reasons)
    result = Reasons(np.full(shape, -1, np.int32), np.zeros(shape, np.float32))
    config = view.config
    _explain_all(
        profiles.columns,
        rows,
        view.vectors,
        found,
        ranked,
        np.float32(config.recency),
        np.float32(config.sharpness),
        np.float32(config.context_scale),
        result.history,
        result.shares,
    )
    return result


@compiled
def _find_history(
    users: ProfileColumns,
    rows: NDArray[np.int32],
    keys: NDArray[np.uint64],
    values: NDArray[np.int32],
    n_items: int,
    found: NDArray[np.int32],
) -> None:
    for b in range(len(rows)):
        user = rows[b]
        for a in range(users.n_history[user]):
            row = index_get(keys, values, users.history_hash[user, a])
            if 0 <= row < n_items:
                found[b, a] = row


@compiled
def _explain_all(
    users: ProfileColumns,
    rows: NDArray[np.int32],
    vectors: NDArray[np.float32],
    found: NDArray[np.int32],
    ranked: NDArray[np.int32],
    recency: np.float32,
    sharpness: np.float32,
    context_scale: np.float32,
    best: NDArray[np.int32],
    shares: NDArray[np.float32],
) -> None:
    n_lists, n_ranked, n_reasons = best.shape
    n_factors = vectors.shape[1]
    coefficient = np.zeros(found.shape[1], np.float32)
    part = np.zeros(found.shape[1], np.float32)
    for b in range(n_lists):
        user = rows[b]
        n_history = users.n_history[user]
        if not _attend(
            users,
            user,
            vectors,
            found[b],
            n_history,
            recency,
            sharpness,
            context_scale,
            coefficient,
        ):
            continue
        for i in range(n_ranked):
            item = ranked[b, i]
            if item < 0:
                break
            total = np.float32(0)
            for k in range(n_factors):
                total += vectors[item, k] * users.long_term[user, k]
            total = max(total, np.float32(0))
            for a in range(n_history):
                part[a] = np.float32(0)
                past = found[b, a]
                if past >= 0:
                    dot = np.float32(0)
                    for k in range(n_factors):
                        dot += vectors[item, k] * vectors[past, k]
                    part[a] = max(dot * coefficient[a], np.float32(0))
                    total += part[a]
            for r in range(n_reasons):
                largest = 0
                for a in range(1, n_history):
                    if part[a] > part[largest]:
                        largest = a
                if part[largest] <= 0:
                    break
                best[b, i, r] = largest
                shares[b, i, r] = part[largest] / max(total, np.float32(1e-12))
                part[largest] = np.float32(0)


@compiled
def _attend(
    users: ProfileColumns,
    user: int,
    vectors: NDArray[np.float32],
    found: NDArray[np.int32],
    n_history: int,
    recency: np.float32,
    sharpness: np.float32,
    context_scale: np.float32,
    coefficient: NDArray[np.float32],
) -> bool:
    """The coefficients of a history (docs/model.md); False when no entry has a vector."""
    newest = -1
    newest_norm = np.float32(0)
    total = np.float32(0)
    age = np.float32(1)
    for a in range(n_history):
        coefficient[a] = np.float32(0)
        row = found[a]
        if row >= 0:
            if newest < 0:
                newest = row
            dot = np.float32(0)
            norm = np.float32(0)
            for k in range(vectors.shape[1]):
                dot += vectors[row, k] * vectors[newest, k]
                norm += vectors[row, k] * vectors[row, k]
            if newest == row:
                newest_norm = norm
            cosine = dot / max(np.sqrt(norm * newest_norm), np.float32(1e-10))
            coefficient[a] = (
                users.history_weight[user, a] * age * np.exp(sharpness * (cosine - np.float32(1)))
            )
            total += coefficient[a]
        age *= recency
    if newest < 0 or total <= 0:
        return False
    scale = context_scale / np.sqrt(total)
    for a in range(n_history):
        coefficient[a] *= scale
    return True
