"""Scores, exact top-k, and reasons."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import DivergedError
from profiles.fold import fold_batch
from profiles.items import ItemTable, ItemView
from profiles.profile import Profile
from profiles.reference import OneInteraction, columns_of
from profiles.scoring import (
    NO_ROW,
    context_of,
    explain,
    fold_vector,
    rank_rows,
    scores,
    top_k,
    user_matrix,
)
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable

SHAPE = ModelShape(n_factors=4, history=3)
CONFIG = FoldConfig(shape=SHAPE)


def a_shop(n_clicks: int = 60, n_items: int = 12) -> tuple[ProfileTable, ItemView]:
    profiles, table, view = ProfileTable(SHAPE), ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    profiles.load(["u0", "u1", "u2"], [None] * 3)
    stream = [
        OneInteraction(f"u{b % 3}", f"i{b * b % n_items}", b, 1000 * b) for b in range(n_clicks)
    ]
    table.intern([f"i{number}" for number in range(n_items)])
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)
    view.apply(table.take_delta())
    return profiles, view


def test_the_stored_vector_is_the_folded_one_when_nothing_came_after() -> None:
    profiles, view = a_shop()
    profile = profiles.profile("u2")  # the stream's last event is u2's
    assert profile.vector is not None
    np.testing.assert_allclose(fold_vector(profile, view), profile.vector, rtol=1e-5, atol=1e-6)


@given(
    seed=st.integers(0, 1000), n=st.integers(1, 15), out=st.lists(st.integers(-1, 11), max_size=12)
)
@settings(deadline=None)
def test_top_k_is_the_head_of_the_full_order(seed: int, n: int, out: list[int]) -> None:
    _, view = a_shop()
    generator = np.random.default_rng(seed)
    X = np.round(generator.normal(size=(3, 4))).astype(np.float32)
    allowed = generator.random(12) < 0.8
    rows, best = top_k(view, X, [np.array(out, np.int32)] * 3, n, allowed)
    S = scores(view, X)
    for b in range(3):
        may = [row for row in range(12) if allowed[row] and row not in out]
        expected = sorted(may, key=lambda row: (-S[b, row], row))[:n]
        assert rows[b, : len(expected)].tolist() == expected
        assert best[b, : len(expected)].tolist() == S[b, expected].tolist()
        assert (rows[b, len(expected) :] == NO_ROW).all()
        assert np.isneginf(best[b, len(expected) :]).all()


def test_equal_scores_are_ordered_by_row() -> None:
    table, view = ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    table.intern([f"i{number}" for number in range(50)])
    view.apply(table.take_delta())
    rows, _ = top_k(view, np.zeros((1, 4), np.float32), None, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_user_without_history_gets_the_popular_items() -> None:
    _, view = a_shop()
    X = user_matrix([None, Profile()], 4)
    rows, _ = top_k(view, X, None, 3)
    popular = np.argsort(-view.log_popularity, kind="stable")[:3]
    assert rows.tolist() == [popular.tolist()] * 2


def test_an_empty_catalogue_gives_empty_lists() -> None:
    rows, _ = top_k(ItemView(SHAPE, CONFIG), np.zeros((1, 4), np.float32), None, 2)
    assert rows.tolist() == [[NO_ROW, NO_ROW]]


def test_a_vector_that_is_not_finite_is_refused() -> None:
    _, view = a_shop()
    with pytest.raises(DivergedError):
        top_k(view, np.full((1, 4), np.nan, np.float32), None, 2)
    with pytest.raises(ValueError, match="shape"):
        top_k(view, np.zeros((1, 5), np.float32), None, 2)
    with pytest.raises(ValueError, match="excluded"):
        top_k(view, np.zeros((1, 4), np.float32), [], 2)


def test_given_candidates_get_the_score_of_the_full_list() -> None:
    profiles, view = a_shop()
    X = user_matrix([profiles.profile("u1")], 4)
    ranked = rank_rows(view, X[0], np.array([3, -1, 5], np.int32))
    np.testing.assert_allclose(ranked[[0, 2]], scores(view, X)[0, [3, 5]], rtol=1e-5, atol=1e-6)
    assert np.isneginf(ranked[1])


def test_shares_are_parts_of_the_inner_product() -> None:
    profiles, view = a_shop()
    profile = profiles.profile("u2")
    context = context_of(profile, view)
    everything = np.arange(len(view), dtype=np.int32)
    shares = explain(context, view, everything)
    assert shares.shape == (len(view), len(profile.history))
    assert ((shares >= 0) & (shares <= 1 + 1e-6)).all()
    assert (shares.sum(axis=1) <= 1 + 1e-5).all()
    assert profile.long_term is not None
    x = fold_vector(profile, view)
    parts = context.coefficients[:, None] * (view.vectors[context.rows] @ view.vectors.T)
    np.testing.assert_allclose(
        parts.sum(axis=0) + view.vectors @ profile.long_term,
        view.vectors @ x,
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_item_that_left_the_table_is_no_reason() -> None:
    profiles, view = a_shop()
    profile = profiles.profile("u0")
    profile.history[1].item_hash = 99
    context = context_of(profile, view)
    assert context.rows[1] == -1
    shares = explain(context, view, np.array([0, 1], np.int32))
    assert (shares[:, 1] == 0).all()
