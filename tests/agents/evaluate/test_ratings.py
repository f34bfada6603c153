"""Ratings expected before they are learned: which are asked, and that biases are found."""

from __future__ import annotations

import numpy as np
import pytest

from agents.evaluate.ratings import rate, rated
from agents.evaluate.stream import Stream, stream_of
from profiles.interactions import Kinds
from profiles.shape import FoldConfig
from streams.events import Click, Event, Review

BASE_MS = 1_750_000_000_000


def a_stream(stars_of: np.ndarray, n: int, spread: float) -> Stream:
    """n reviews of 20 users and as many items, each after a click; of each user and item the stars
    are as in the matrix, give or take. Every fifth has none."""
    draw = np.random.default_rng(3)
    events: list[Event] = []
    for number in range(n):
        user, item = draw.integers(20, size=2).tolist()
        stars = float(np.clip(stars_of[user, item] + draw.normal(0, spread), 0, 5))
        named = {"user_id": f"u{user}", "item_id": f"i{item}"}
        events.append(Click(ts=BASE_MS + 2_000 * number, **named))
        rating = None if number % 5 == 4 else stars
        events.append(Review(ts=BASE_MS + 2_000 * number + 1, rating=rating, **named))
    return stream_of("made up", events)


def test_a_head_with_biases_is_nearer_than_means_where_users_and_items_have_some() -> None:
    draw = np.random.default_rng(1)
    stars = 3 + draw.normal(0, 0.7, (20, 1)) + draw.normal(0, 0.7, (1, 20))
    figures = {
        model.name: model for model in rate(a_stream(stars, 1_500, 0.2), FoldConfig(), Kinds())
    }
    assert {model.n for model in figures.values()} == {600}
    assert figures["FOLD"].rmse < 0.5 * figures["item mean"].rmse
    assert figures["item mean"].rmse < 0.9 * figures["global mean"].rmse
    assert figures["FOLD"].rmse < figures["river BiasedMF"].rmse + 0.05
    assert 0 < figures["FOLD"].mae <= figures["FOLD"].rmse


def test_the_global_mean_is_that_of_the_ratings_before() -> None:
    events: list[Event] = [
        Review(user_id="u", item_id=f"i{n}", ts=BASE_MS + n, rating=stars)
        for n, stars in enumerate((5.0, 1.0, 4.0, 3.0))
    ]
    found = {model.name: model for model in rate(stream_of("four", events), FoldConfig(), Kinds())}
    # Of the second half: 4 where 3 is the mean so far, 3 where it is 10/3.
    assert found["global mean"].mae == pytest.approx((1 + 1 / 3) / 2, abs=1e-4)
    assert found["item mean"].mae == found["global mean"].mae


def test_a_stream_without_stars_has_no_figures_of_ratings() -> None:
    events: list[Event] = [
        Click(user_id="u", item_id="a", ts=BASE_MS),
        Review(user_id="u", item_id="b", ts=BASE_MS + 1),
    ]
    stream = stream_of("none", events)
    assert len(rated(stream).stars) == 0
    assert rate(stream, FoldConfig(), Kinds()) == []
