"""The compiled reasons are those of the slow, obvious ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.items import ItemTable
from profiles.reasons import Reasons, reasons
from profiles.reference import OneInteraction, columns_of
from profiles.serving import NO_ROW, Scorer, Users
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.view import ItemView

SHAPE = ModelShape(n_factors=8, history=5)
CONFIG = FoldConfig(shape=SHAPE)
USERS = [f"u{number}" for number in range(7)]


def a_shop() -> tuple[ProfileTable, ItemView]:
    """Seven users with histories of length 0 to 5 over thirty items, a third of them with texts."""
    profiles, table, view = ProfileTable(SHAPE), ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    profiles.load(USERS, [None] * len(USERS))
    table.describe({f"i{number}": describe(f"lamp {number % 4}") for number in range(0, 30, 3)})
    stream = [
        OneInteraction(f"u{1 + b % 6}", f"i{b * b % 30}", b, 1000 * b)
        for b in range(200)
        if b % 6 or b < 3
    ]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)
    view.apply(table.take_delta())
    return profiles, view


def seen(profiles: ProfileTable, view: ItemView, user_ids: list[str]) -> Users:
    rows = profiles.rows(user_ids)
    times, sessions = np.full(len(rows), 10**6), np.zeros(len(rows), np.uint32)
    return Scorer(CONFIG).users(view.model, profiles.columns, rows, times, sessions)


def why(profiles: ProfileTable, view: ItemView, users: Users, ranked: list[int]) -> Reasons:
    lists = np.array([ranked] * len(users.row), np.int32)
    return reasons(profiles.columns, users, view.model, lists, 3)


def vectors(view: ItemView) -> NDArray[np.float64]:
    """The items' effective vectors."""
    E = view.vectors.astype(float)
    for row, words in enumerate(view.model.items.text[: len(view)]):
        if (words >= 0).any():
            E[row] += 2 * view.model.tokens.vectors[words[words >= 0]].mean(axis=0)
    return E


def test_a_user_is_seen_with_the_attention_of_the_model() -> None:
    profiles, view = a_shop()
    E = vectors(view)
    users = seen(profiles, view, USERS)
    for b, person in enumerate(map(profiles.profile, USERS)):
        rows = view.rows_of_hashes([entry.item_hash for entry in person.history])
        assert users.history[b, : len(rows)].tolist() == rows.tolist()
        if not len(rows):
            continue
        past = E[rows]
        norms = np.linalg.norm(past, axis=1)
        cosines = past @ past[0] / (norms * norms[0])
        r = CONFIG.recency ** np.arange(len(rows)) * np.exp(CONFIG.sharpness * (cosines - 1))
        expected = CONFIG.context_scale * r / np.sqrt(r.sum())
        np.testing.assert_allclose(users.coefficient[b, : len(rows)], expected, rtol=1e-4)
        long_term = 0 if person.long_term is None else person.long_term
        np.testing.assert_allclose(users.x[b], long_term + expected @ past, rtol=1e-4, atol=1e-5)


def test_reasons_are_the_largest_shares_of_what_speaks_for_an_item() -> None:
    profiles, view = a_shop()
    E = vectors(view)
    users = seen(profiles, view, USERS)
    ranked = list(range(len(view)))
    found = why(profiles, view, users, ranked)
    n_reasons = 0
    for b, person in enumerate(map(profiles.profile, USERS)):
        H = len(person.history)
        for i, item in enumerate(ranked):
            parts = np.maximum(users.coefficient[b, :H] * (E[users.history[b, :H]] @ E[item]), 0)
            of_long_term = 0.0 if person.long_term is None else float(person.long_term @ E[item])
            shares = parts / max(parts.sum() + max(of_long_term, 0), 1e-12)
            expected = np.sort(shares)[::-1][:3]
            n = int((expected > 0).sum())
            np.testing.assert_allclose(found.shares[b, i, :n], expected[:n], rtol=1e-3, atol=1e-6)
            for r, a in enumerate(found.history[b, i].tolist()):
                assert (a >= 0) == (r < n)
                if a >= 0:
                    n_reasons += 1
                    np.testing.assert_allclose(shares[a], found.shares[b, i, r], rtol=1e-3)
    assert n_reasons > 40  # or the test compared nothing


def test_a_user_without_history_has_no_reasons() -> None:
    profiles, view = a_shop()
    users = seen(profiles, view, ["u0"])
    assert (users.history == NO_ROW).all()
    assert (why(profiles, view, users, [0, 1, 2]).history == -1).all()


def test_an_item_that_the_view_lacks_is_no_reason() -> None:
    profiles, _ = a_shop()
    other = ItemView(SHAPE, CONFIG)
    table = ItemTable(SHAPE, CONFIG)
    table.intern(["i0", "i1"])
    other.apply(table.take_delta())
    users = seen(profiles, other, ["u3"])
    assert set(users.history[0].tolist()) <= {NO_ROW, 0, 1}
    found = why(profiles, other, users, [0, 1]).history
    assert all(users.history[0, a] != NO_ROW for a in found[found >= 0].tolist())
