"""Groups of items: what is counted, what a user's history makes likelier, and the bounds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from profiles import groups as module
from profiles.facets import LEAF, N_FACETS, Description, describe
from profiles.groups import (
    GroupTable,
    clear_groups,
    count_groups,
    gather_groups,
    group_lift,
    group_scratch,
    group_share,
)
from profiles.reference_catalogue import ReferenceGroups


class Shop:
    """Items with their groups; the compiled counts and the plain ones side by side."""

    def __init__(self, items: list[Description], most: int = 100) -> None:
        self.items = items
        self.table = GroupTable(capacity=2, most=most)
        self.plain = ReferenceGroups()
        self.facets = np.full((len(items), N_FACETS), -1, np.int32)
        for facet in range(N_FACETS):
            hashes = np.array([item.groups[facet] for item in items], np.uint64)
            self.facets[:, facet] = self.table.intern(hashes, facet)

    def count(self, history: list[int], item: int, weight: float = 1.0) -> None:
        rows = np.array(history, np.int64)
        count_groups(self.table.columns, self.facets, rows, len(rows), item, weight)
        self.plain.count([self.items[row] for row in history], self.items[item], weight)

    def terms(self, history: list[int], item: int) -> NDArray[np.float64]:
        """(2, N_FACETS): lifts and shares, and the scratch is zero again after it."""
        columns = self.table.columns
        scratch = group_scratch(len(columns.hash))
        rows = np.array(history, np.int64)
        gather_groups(columns, self.facets, rows, len(rows), scratch)
        found = [
            [float(term(columns, group, scratch)) for group in self.facets[item]]
            for term in (group_lift, group_share)
        ]
        clear_groups(columns, self.facets, rows, len(rows), scratch)
        assert not any(column.any() for column in scratch)
        return np.array(found)

    def expected(self, history: list[int], item: int) -> NDArray[np.float64]:
        past = [self.items[row] for row in history]
        groups = enumerate(self.items[item].groups)
        terms = [
            (self.plain.lift(f, group, past), self.plain.share(f, group, past))
            for f, group in groups
        ]
        return np.array(terms).T


def some_items(n: int) -> list[Description]:
    """Some without a brand, some of one category alone, some of which nothing is known."""
    return [
        describe(
            category=[f"c{number % 3}", f"d{number % 5}"][: number % 4],
            brand=f"b{number % 7}" if number % 3 else None,
            price=1.5 ** (number % 6),
        )
        for number in range(n)
    ]


def test_the_compiled_terms_are_those_of_the_plain_counts() -> None:
    shop = Shop(some_items(40))
    draws = np.random.default_rng(1)
    for _ in range(400):
        history = draws.integers(0, 40, draws.integers(0, 10)).tolist()
        item = int(draws.integers(0, 40))
        assert shop.terms(history, item) == pytest.approx(shop.expected(history, item), abs=2e-5)
        shop.count(history, item, float(draws.choice([0.5, 1.0])))


def test_a_full_list_gives_its_smallest_place_to_the_newcomer() -> None:
    shop = Shop([describe(category=[f"c{number}"]) for number in range(100)])
    for item in [*range(1, 70), 5, 80]:
        shop.count([0], item)
    for item in (1, 5, 69, 80, 99):
        assert shop.terms([0], item) == pytest.approx(shop.expected([0], item), abs=1e-5)


def test_what_follows_a_group_is_likelier_after_it() -> None:
    lamps, bulbs, rugs = (describe(category=["home", name]) for name in ("lamps", "bulbs", "rugs"))
    shop = Shop([lamps, bulbs, rugs])
    for _ in range(20):
        shop.count([], 0)
        shop.count([0], 1)
        shop.count([], 2)
    assert shop.terms([0], 1)[0, LEAF] > 0.5 > 0 > shop.terms([0], 2)[0, LEAF]


def test_an_item_that_is_not_known_here_says_nothing() -> None:
    shop = Shop([describe(category=["a"]), describe(category=["b"]), describe()])
    shop.count([0], 1)
    assert not shop.terms([-1, -1], 1).any()
    assert not shop.terms([2], 1).any()
    assert not shop.terms([0], 2).any()


def test_old_habits_fade() -> None:
    shop = Shop([describe(category=["a"]), describe(category=["b"])])
    for _ in range(5):
        shop.count([0], 1, 4_500.0)
    assert shop.table.columns.out.max() < 20_000
    assert shop.terms([0], 1) == pytest.approx(shop.expected([0], 1), abs=1e-5)


def test_counts_of_a_facet_never_outgrow_their_float() -> None:
    shop = Shop([describe(category=["a"]), describe(brand="b"), describe(category=["c"])])
    columns = shop.table.columns
    shop.count([], 0, 1e5)
    shop.count([], 1, 1e5)
    shop.count([], 2, 1e5)
    a, b, c = (int(shop.facets[row].max()) for row in range(3))
    assert columns.counts[[a, b, c]].tolist() == [5e4, 1e5, 5e4]
    assert columns.totals[LEAF] == 1e5 <= module.MOST_EVENTS


def test_there_are_never_more_groups_than_stated() -> None:
    table = GroupTable(capacity=1, most=3)
    hashes = np.array([7, 0, 8, 7, 9, 10], np.uint64)
    assert table.intern(hashes[:2], LEAF).tolist() == [0, -1]
    assert table.intern(hashes, LEAF).tolist() == [0, -1, 1, 0, 2, -1]
    assert len(table) == 3
    assert len(table.columns.hash) == 3
