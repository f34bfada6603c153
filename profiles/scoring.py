"""Scores and exact top-k over the whole item table, and which past events speak for an item.

score(user, item) = x . e_item + popularity_weight * log(decayed count + .1). A user without history
has x = 0 and gets the popular items. More terms of the blend (neighbour lists, own counts) are
added in `scores`, the one place where a score is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.errors import DivergedError
from profiles.jit import compiled
from profiles.profile import Profile
from profiles.view import ItemView

NO_ROW = -1
"""Fills the end of a list that is shorter than asked for."""

SCORES_AT_ONCE = 1 << 22
"""Scores in memory at a time, 16 MB: many users at a large catalogue are taken in blocks."""


def user_matrix(profiles: Sequence[Profile | None], n_factors: int) -> NDArray[np.float32]:
    """float32 (B, K): the stored user vectors; zeros for a user who has none yet."""
    X = np.zeros((len(profiles), n_factors), np.float32)
    for b, profile in enumerate(profiles):
        if profile is not None and profile.vector is not None:
            X[b] = profile.vector
    return X


def scores(view: ItemView, X: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 (B, I): the score of every item for every user vector, X: float32 (B, K)."""
    result = X @ view.vectors.T
    result += np.float32(view.config.popularity_weight) * view.log_popularity
    return result


def top_k(
    view: ItemView,
    X: NDArray[np.float32],
    exclude: Sequence[NDArray[np.int32]] | None,
    n: int,
    allowed: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The best `n` items of each user, exactly: rows int32 (B, n), scores float32 (B, n).

    X: float32 (B, K). exclude: for each user the rows to leave out (-1 is passed over), or None.
    allowed: bool (I,), items that may be shown, or None for all.
    Equal scores are ordered by row. A list with fewer than n items ends in NO_ROW, -inf.
    Raises DivergedError for a user vector that is not finite, ValueError for a wrong shape.
    """
    if X.ndim != 2 or X.shape[1] != view.shape.n_factors:
        raise ValueError(f"user vectors of shape {X.shape}, not (B, {view.shape.n_factors})")
    if not np.isfinite(X).all():
        raise DivergedError("a user vector to score is not finite")
    if exclude is not None and len(exclude) != len(X):
        raise ValueError(f"{len(X)} users, {len(exclude)} lists of excluded rows")
    if allowed is not None and len(allowed) != len(view):
        raise ValueError(f"a mask of {len(allowed)} items for a view of {len(view)}")
    rows = np.full((len(X), n), NO_ROW, np.int32)
    best = np.full((len(X), n), -np.inf, np.float32)
    everything = np.ones(0, np.bool_)
    at_once = max(1, SCORES_AT_ONCE // max(1, len(view)))
    for first in range(0, len(X), at_once):
        S = scores(view, X[first : first + at_once])
        for b in range(len(S)):
            if exclude is not None and len(exclude[first + b]):
                out = exclude[first + b]
                S[b, out[(out >= 0) & (out < len(view))]] = -np.inf
        _pick_best(
            S,
            everything if allowed is None else allowed,
            rows[first : first + at_once],
            best[first : first + at_once],
        )
    return rows, best


def rank_rows(
    view: ItemView, x: NDArray[np.float32], rows: NDArray[np.int32]
) -> NDArray[np.float32]:
    """float32 (N,): the score of the given items for one user, x: (K,); -inf for row -1."""
    known = rows >= 0
    result = np.full(len(rows), -np.inf, np.float32)
    picked = rows[known]
    weight = np.float32(view.config.popularity_weight)
    result[known] = view.vectors[picked] @ x + weight * view.log_popularity[picked]
    return result


@dataclass(frozen=True, slots=True)
class Context:
    """How a profile's history makes its vector: x = long_term + sum_a coefficients_a e_{rows_a}.

    rows: int32 (H,), -1 for an item the view does not have. coefficients: float32 (H,).
    """

    rows: NDArray[np.int32]
    coefficients: NDArray[np.float32]
    long_term: NDArray[np.float32] | None


def context_of(profile: Profile, view: ItemView) -> Context:
    """The attention weights of a profile's history over today's item vectors (docs/model.md)."""
    config = view.config
    rows = view.rows_of_hashes([entry.item_hash for entry in profile.history])
    coefficients = np.zeros(len(rows), np.float32)
    known = np.flatnonzero(rows >= 0)
    if len(known):
        E = view.vectors[rows[known]]
        norms = np.sqrt((E * E).sum(axis=1))
        cosines = E @ E[0] / np.maximum(norms * norms[0], 1e-10)
        weights = np.array([profile.history[a].weight for a in known], np.float32)
        r = weights * config.recency**known * np.exp(config.sharpness * (cosines - 1))
        coefficients[known] = config.context_scale * r / np.sqrt(r.sum())
    return Context(rows, coefficients, profile.long_term)


def fold_vector(profile: Profile, view: ItemView) -> NDArray[np.float32]:
    """float32 (K,): the user vector made anew from today's item vectors.

    The stored one is from the user's last event; for a user who was away it has aged.
    """
    context = context_of(profile, view)
    x = np.zeros(view.shape.n_factors, np.float32)
    if context.long_term is not None:
        x += context.long_term
    known = context.rows >= 0
    x += context.coefficients[known] @ view.vectors[context.rows[known]]
    return x


def explain(context: Context, view: ItemView, item_rows: NDArray[np.int32]) -> NDArray[np.float32]:
    """float32 (N, H): the share of each history entry in what speaks for each item, in [0, 1].

    A share is the entry's part c_a e_{h_a} . e_item of x . e_item, over the sum of all positive
    parts, the long-term vector's included; what speaks against an item has share 0. A row sums to 1
    when the long-term vector says nothing.
    """
    E = view.vectors[item_rows]
    known = context.rows >= 0
    parts = np.zeros((len(item_rows), len(context.rows)), np.float32)
    parts[:, known] = E @ view.vectors[context.rows[known]].T * context.coefficients[known]
    parts = np.maximum(parts, 0)
    total = parts.sum(axis=1)
    if context.long_term is not None:
        total += np.maximum(E @ context.long_term, 0)
    shares: NDArray[np.float32] = parts / np.maximum(total, 1e-12)[:, None]
    return shares


@compiled
def _pick_best(
    S: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    rows: NDArray[np.int32],
    best: NDArray[np.float32],
) -> None:
    """The largest finite scores of each row of S, largest first, ties by row, into rows and best.

    allowed: of length I, or empty for all. One pass: most scores lose against the worst of the
    list so far and cost one comparison.
    """
    n = rows.shape[1]
    for b in range(S.shape[0]):
        n_found = 0
        for j in range(S.shape[1]):
            score = S[b, j]
            if n_found == n and score <= best[b, n - 1]:
                continue
            if score == -np.inf or (len(allowed) and not allowed[j]):
                continue
            place = n_found if n_found < n else n - 1
            while place > 0 and score > best[b, place - 1]:
                best[b, place] = best[b, place - 1]
                rows[b, place] = rows[b, place - 1]
                place -= 1
            best[b, place] = score
            rows[b, place] = j
            n_found = min(n_found + 1, n)
