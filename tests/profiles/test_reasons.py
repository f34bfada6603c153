"""The compiled reasons are those of the slow, obvious ones."""

from __future__ import annotations

import numpy as np

from profiles.fold import fold_batch
from profiles.items import ItemTable
from profiles.reasons import history_rows, reasons
from profiles.reference import OneInteraction, columns_of
from profiles.scoring import NO_ROW, context_of, explain, top_k, user_matrix
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.view import ItemView

SHAPE = ModelShape(n_factors=8, history=5)
CONFIG = FoldConfig(shape=SHAPE)
USERS = [f"u{number}" for number in range(7)]


def a_shop() -> tuple[ProfileTable, ItemView]:
    """Seven users with histories of length 0 to 5 over thirty items."""
    profiles, table, view = ProfileTable(SHAPE), ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    profiles.load(USERS, [None] * len(USERS))
    stream = [
        OneInteraction(f"u{1 + b % 6}", f"i{b * b % 30}", b, 1000 * b)
        for b in range(200)
        if b % 6 or b < 3
    ]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)
    view.apply(table.take_delta())
    return profiles, view


def test_reasons_are_the_largest_shares_of_the_explanation() -> None:
    profiles, view = a_shop()
    rows = profiles.rows(USERS)
    found = history_rows(profiles, rows, view)
    people = [profiles.profile(user) for user in USERS]
    ranked, _ = top_k(view, user_matrix(people, SHAPE.n_factors), None, 10)
    why = reasons(profiles, rows, view, found, ranked, 3)
    n_reasons = 0
    for b, person in enumerate(people):
        context = context_of(person, view)
        assert found[b, : len(context.rows)].tolist() == context.rows.tolist()
        shares = explain(context, view, ranked[b])
        for i in range(10):
            expected = np.sort(shares[i])[::-1][:3]
            expected = expected[expected > 0]
            np.testing.assert_allclose(why.shares[b, i, : len(expected)], expected, rtol=1e-4)
            for r, a in enumerate(why.history[b, i].tolist()):
                if a >= 0:
                    n_reasons += 1
                    np.testing.assert_allclose(why.shares[b, i, r], shares[i, a], rtol=1e-4)
                else:
                    assert why.shares[b, i, r] == 0
    assert n_reasons > 40  # or the test compared nothing


def test_a_user_without_history_has_no_reasons() -> None:
    profiles, view = a_shop()
    rows = profiles.rows(["u0"])
    found = history_rows(profiles, rows, view)
    assert (found == NO_ROW).all()
    ranked = np.arange(5, dtype=np.int32)[None]
    assert (reasons(profiles, rows, view, found, ranked, 3).history == -1).all()


def test_an_item_that_the_view_lacks_is_no_reason() -> None:
    profiles, _ = a_shop()
    other = ItemView(SHAPE, CONFIG)
    table = ItemTable(SHAPE, CONFIG)
    table.intern(["i0", "i1"])
    other.apply(table.take_delta())
    rows = profiles.rows(["u3"])
    found = history_rows(profiles, rows, other)
    assert set(found[0].tolist()) <= {NO_ROW, 0, 1}
    why = reasons(profiles, rows, other, found, np.array([[0, 1]], np.int32), 3)
    assert all(found[0, a] != NO_ROW for a in why.history[why.history >= 0].tolist())
