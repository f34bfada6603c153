"""The rating head: how many stars a user would give an item.

The article's R ~ U V^T with what every rating has in common taken out: r = mu + b_i + b_u +
s (x . e - m). x and e are the ranking's, and are not moved: a rating teaches the head alone, one
stochastic gradient step each, before the review teaches anything else (docs/model.md). A bias with
n ratings behind it learns at rate 1/(n + damping), which is kept as a sum of what was left to
explain, so that the sums of several workers add up. An item's are columns of the item table, a
user's in a table of `N_RATERS` places here: a record has no room for it.

Size: 20 bytes a place, 0.7 MB, and 8 bytes an item.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.item_columns import ItemColumns
from profiles.jit import Integer, Real, compiled_inner

N_RATERS = 32_768
"""Places for users who rate, each by the hash of its user; a power of two. Of two users with one
place the one who rates more often keeps it, the other has a bias of 0."""

LEAST_RATING, MOST_RATING = 0.0, 5.0

START_RATING = 3.0
"""Guessed of a shop without ratings: what a review without one counts as."""

ITEM_DAMPING, USER_DAMPING = 3.0, 3.0
"""Ratings of nothing out of the ordinary that an item or user begins with (docs/ablations.md)."""

MOST_RATINGS = 200.0
"""A bias weighs so many ratings at most: older ones fade."""

FIRST_RATINGS, LEAST_RATE = 200.0, 0.0005
"""s learns at 1/(n + FIRST_RATINGS); it, the means and the spread never slower than LEAST_RATE."""

SPREAD_DAMPING = 0.05
"""Added to the spread of x . e."""

MOST_DOT, MOST_SCALE = 100.0, 5.0
"""Bounds of x . e and of s, not reached on honest data."""

MEAN, SCALE, DOT_MEAN, DOT_SPREAD, N_RATINGS = range(5)
"""Places in `Ratings.state`: mu, s, m, the spread of x . e around m, and ratings learned."""


class Ratings(NamedTuple):
    """What kernels work on (P places)."""

    state: NDArray[np.float64]  # (5,)
    key: NDArray[np.uint64]  # (P,) hash of the user, 0: free
    sum: NDArray[np.float32]  # (P,) what the user's ratings left to explain
    n: NDArray[np.float32]  # (P,) how many there are, faded


def new_ratings(n_raters: int = N_RATERS) -> Ratings:
    """Of a shop that nobody has rated anything in. n_raters: a power of two."""
    state = np.zeros(5, np.float64)
    state[MEAN] = START_RATING
    return Ratings(
        state=state,
        key=np.zeros(n_raters, np.uint64),
        sum=np.zeros(n_raters, np.float32),
        n=np.zeros(n_raters, np.float32),
    )


def ratings_arrays(ratings: Ratings) -> dict[str, bytes]:
    """What a snapshot holds of them: nothing without ratings, else the state and places in use."""
    if not ratings.state[N_RATINGS]:
        return {}
    used = np.flatnonzero(ratings.key)
    return {"state": ratings.state.tobytes()} | {
        name: getattr(ratings, name)[used].tobytes() for name in ("key", "sum", "n")
    }


def put_ratings(ratings: Ratings, arrays: dict[str, bytes]) -> None:
    """The inverse, into new ones; none in a snapshot from before there were any.

    Raises ValueError and KeyError for arrays that are not of one snapshot.
    """
    if not arrays:
        return
    ratings.state[:] = np.frombuffer(arrays["state"], np.float64)
    key = np.frombuffer(arrays["key"], np.uint64)
    places = (key & np.uint64(len(ratings.key) - 1)).astype(np.int64)
    ratings.key[places] = key
    for name in ("sum", "n"):
        getattr(ratings, name)[places] = np.frombuffer(arrays[name], np.float32)


def keep_bounds(sums: NDArray[np.float32], n: NDArray[np.float32], rows: NDArray[np.int32]) -> None:
    """After others' differences were added: no item's bias goes beyond the stars there are.

    Workers that fade a bias in the same moment take away more ratings together than it has; the
    sum would be left without its count, and each worker's cut of it would be told to all.
    """
    most = MOST_RATING * (n[rows] + ITEM_DAMPING)
    sums[rows] = np.where(n[rows] > 0, np.clip(sums[rows], -most, most), 0)


@compiled_inner
def _step(sums: NDArray[np.float32], n: NDArray[np.float32], row: Integer, rest: Real,
          damping: Real) -> None:  # fmt: skip
    """A bias, sum / (n + damping), learns what one rating leaves to explain without it."""
    more: Real = n[row] + np.float32(1)
    most = np.float32(MOST_RATING) * (more + np.float32(damping))
    total: Real = min(max(sums[row] + np.float32(rest), -most), most)
    if more > np.float32(MOST_RATINGS):
        total *= np.float32(MOST_RATINGS) / more
        more = np.float32(MOST_RATINGS)
    sums[row] = total
    n[row] = more


@compiled_inner
def learn_rating(
    ratings: Ratings, items: ItemColumns, item: Integer, rater: Integer, dot: Real, rating: Real
) -> tuple[Real, bool]:
    """One step of everything that one rating teaches. dot: x . e_i; rater: hash of the user.

    Returns the rating less the one that was expected, and whether something was cut to its bounds:
    the rating, s, or x . e, which is 0 when it is no number. mu learns by the error like the rest:
    a mean of all ratings would follow one account that rates without end.
    """
    state = ratings.state
    stars = min(max(np.float64(rating), LEAST_RATING), MOST_RATING)
    z = np.float64(dot) if np.isfinite(dot) else 0.0
    bounded = min(max(z, -MOST_DOT), MOST_DOT)
    clipped = stars != rating or bounded != dot
    away = bounded - state[DOT_MEAN]
    place = np.int64(rater & np.uint64(len(ratings.key) - 1))
    known = ratings.key[place] == rater
    of_item = np.float64(items.rating_sum[item]) / (np.float64(items.rating_n[item]) + ITEM_DAMPING)
    of_user = 0.0
    if known:
        of_user = np.float64(ratings.sum[place]) / (np.float64(ratings.n[place]) + USER_DAMPING)
    guess = state[MEAN] + of_item + of_user + state[SCALE] * away
    expected = min(max(guess, LEAST_RATING), MOST_RATING)
    error = stars - expected

    n = state[N_RATINGS]
    rate = max(1.0 / (n + 1.0), LEAST_RATE)
    state[MEAN] = min(max(state[MEAN] + rate * error, LEAST_RATING), MOST_RATING)
    state[DOT_SPREAD] += rate * (away * away - state[DOT_SPREAD])
    state[DOT_MEAN] += rate * away
    step = max(1.0 / (n + FIRST_RATINGS), LEAST_RATE) * error * away
    scale = state[SCALE] + step / (state[DOT_SPREAD] + SPREAD_DAMPING)
    state[SCALE] = min(max(scale, -MOST_SCALE), MOST_SCALE)
    clipped = clipped or state[SCALE] != scale
    state[N_RATINGS] += 1.0

    _step(items.rating_sum, items.rating_n, item, error + of_item, ITEM_DAMPING)
    items.changed[item] = 3
    if known:
        _step(ratings.sum, ratings.n, place, error + of_user, USER_DAMPING)
    elif ratings.n[place] > np.float32(1):  # somebody else's, who rates more often: for now
        left = ratings.n[place] - np.float32(1)
        ratings.sum[place] *= left / ratings.n[place]
        ratings.n[place] = left
    else:
        ratings.key[place] = rater
        ratings.sum[place] = error
        ratings.n[place] = 1
    return error, clipped
