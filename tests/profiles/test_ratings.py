"""The rating head: what reviews with stars teach, what they can't, and where it is kept."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest

from profiles.fold import FoldReport, fold_batch
from profiles.hashing import user_hash
from profiles.items import ItemTable
from profiles.ratings import (
    ITEM_DAMPING,
    MEAN,
    MOST_SCALE,
    N_RATERS,
    N_RATINGS,
    SCALE,
    USER_DAMPING,
    Ratings,
    new_ratings,
)
from profiles.reference import OneInteraction, columns_of
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable

SHAPE = ModelShape(n_factors=8, history=3)
CONFIG = FoldConfig(shape=SHAPE, n_ring=7)
MATRIX = {("u0", "a"): 4.0, ("u0", "b"): 3.0, ("u1", "a"): 5.0, ("u1", "b"): 4.0}
"""The article's matrix of ratings: two users, two items."""


def review(number: int, user: str, item: str, stars: float | None) -> OneInteraction:
    return OneInteraction(user, item, number, 60_000 * number, kind=3, rating=stars)


def fold(table: ItemTable, stream: Sequence[OneInteraction]) -> FoldReport:
    """Fold a stream of users who have no profile yet."""
    profiles = ProfileTable(SHAPE)
    users = list(dict.fromkeys(one.user for one in stream))
    profiles.load(users, [None] * len(users))
    return fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)


def rounds_of(cells: Sequence[tuple[str, str]], n: int) -> list[OneInteraction]:
    """Each cell of the matrix rated n times, in turn."""
    return [
        review(number, *cells[number % len(cells)], MATRIX[cells[number % len(cells)]])
        for number in range(n * len(cells))
    ]


def bias_of(ratings: Ratings, user: str) -> float:
    place = user_hash(user) % N_RATERS
    held = int(ratings.key[place]) == user_hash(user)
    return float(ratings.sum[place] / (ratings.n[place] + USER_DAMPING)) if held else 0.0


def expected_of(table: ItemTable, row: int) -> float:
    """Of somebody who says nothing out of the ordinary."""
    columns = table.columns
    bias = columns.rating_sum[row] / (columns.rating_n[row] + ITEM_DAMPING)
    return float(table.ratings.state[MEAN] + bias)


def test_the_articles_matrix_is_learned_until_nothing_is_left_to_explain() -> None:
    """To 0.15 stars after 150 ratings of each cell; at first it is off by one and more."""
    report = fold(ItemTable(SHAPE, CONFIG), rounds_of(list(MATRIX), 150))
    assert abs(report.rating_errors[:4]).max() > 0.9
    assert abs(report.rating_errors[-4:]).max() < 0.15


@pytest.mark.parametrize("held_out", list(MATRIX))
def test_a_cell_of_the_articles_matrix_that_was_held_out_is_recovered(
    held_out: tuple[str, str],
) -> None:
    """Three cells known, each rated 150 times; the fourth within 0.25 stars of what it is, when
    its user gives it for the first time. A mean of the known ones would be off by 1/3 to 4/3."""
    known = [cell for cell in MATRIX if cell != held_out]
    stream = rounds_of(known, 150)
    stream.append(review(len(stream), *held_out, MATRIX[held_out]))
    report = fold(ItemTable(SHAPE, CONFIG), stream)
    assert abs(report.rating_errors[-4:-1]).max() < 0.15
    assert abs(report.rating_errors[-1]) < 0.25


def test_what_is_expected_is_taken_down_before_the_rating_is_learned() -> None:
    table = ItemTable(SHAPE, CONFIG)
    report = fold(table, [review(0, "u", "a", 5.0), review(1, "v", "a", 1.0)])
    assert report.rating_errors[0] == 5 - 3
    # The first rating made the mean 5, and a bias of the item: a sum of 2 over 1 + 3.
    assert report.rating_errors[1] == 1 - 5
    assert table.ratings.state[[MEAN, N_RATINGS]].tolist() == [3, 2]


def test_reviews_without_stars_and_events_without_reviews_teach_the_head_nothing() -> None:
    """And a batch with ratings leaves the ranking's vectors, to the bit, as one without."""
    rated, unrated, clicks = (ItemTable(SHAPE, CONFIG) for _ in range(3))
    cells = [(f"u{n % 3}", f"i{n % 5}") for n in range(60)]
    fold(rated, [review(n, *cell, float(n % 6)) for n, cell in enumerate(cells)])
    report = fold(unrated, [review(n, *cell, None) for n, cell in enumerate(cells)])
    fold(clicks, [OneInteraction(*cell, n, 60_000 * n) for n, cell in enumerate(cells)])
    assert len(report.rating_errors) == 0
    for table in (unrated, clicks):
        assert not table.columns.rating_n.any()
        assert table.ratings.state.tobytes() == new_ratings().state.tobytes()
        for name in ("vectors", "sums", "counts", "fast", "n_positive"):
            ours, theirs = getattr(table.columns, name), getattr(rated.columns, name)
            assert ours.tobytes() == theirs.tobytes(), name
        assert table.blend.theta.tobytes() == rated.blend.theta.tobytes()
    assert rated.columns.rating_n[:5].all()


@pytest.mark.parametrize("stars", [1e30, -1e30, 5.01, -0.01])
def test_a_rating_out_of_bounds_is_cut_and_counted(stars: float) -> None:
    table = ItemTable(SHAPE, CONFIG)
    report = fold(table, [review(n, "u", f"i{n % 2}", stars) for n in range(300)])
    assert report.n_clipped == 300
    assert table.ratings.state[MEAN] == (5 if stars > 0 else 0)
    assert np.isfinite(table.columns.rating_sum).all()
    assert abs(table.ratings.state[SCALE]) <= MOST_SCALE


@pytest.mark.parametrize("stars", [np.nan, np.inf, -np.inf])
def test_a_rating_that_is_no_number_is_none(stars: float) -> None:
    table = ItemTable(SHAPE, CONFIG)
    report = fold(table, [review(0, "u", "a", 4.0), review(1, "u", "b", stars)])
    assert len(report.rating_errors) == 1
    assert table.ratings.state[N_RATINGS] == 1


def test_one_account_alone_drags_neither_an_item_nor_the_shop() -> None:
    """What it always says becomes its own bias: an item with 400 honest ratings is expected to
    get at most a third of the way less, after 5,000 that say four stars less."""
    table = ItemTable(SHAPE, CONFIG)
    fold(table, [review(n, f"u{n}", "a", float(4 + n % 2)) for n in range(400)])
    honest = expected_of(table, 0)
    fold(table, [review(1_000 + n, "fake", "a", 0.5) for n in range(5_000)])
    assert honest == pytest.approx(4.5, abs=0.1)
    assert expected_of(table, 0) > honest - 4 / 3
    assert bias_of(table.ratings, "fake") < -2.5


def test_who_rates_more_often_keeps_the_place_of_two() -> None:
    first = "u0"
    place = user_hash(first) % N_RATERS
    numbers = range(1, 400_000)
    second = next(f"u{n}" for n in numbers if user_hash(f"u{n}") % N_RATERS == place)
    table = ItemTable(SHAPE, CONFIG)
    fold(table, [review(n, first, f"i{n}", 5.0) for n in range(4)])
    assert table.ratings.n[place] == 4
    fold(table, [review(10, second, "i0", 1.0), review(11, second, "i1", 1.0)])
    assert table.ratings.key[place] == user_hash(first)
    assert table.ratings.n[place] == 2
    fold(table, [review(20 + n, second, f"i{n}", 1.0) for n in range(3)])
    assert table.ratings.key[place] == user_hash(second)
    assert bias_of(table.ratings, second) < 0
    assert bias_of(table.ratings, first) == 0


def test_a_snapshot_holds_the_head_and_one_of_before_has_none() -> None:
    """The next ratings are expected alike to the bit; without the new fields, as in a new shop."""
    table = ItemTable(SHAPE, CONFIG, capacity=1)
    cells = [(f"u{n % 7}", f"i{n % 5}") for n in range(60)]
    fold(table, [review(n, *cell, float(n % 6)) for n, cell in enumerate(cells)])
    saved = table.snapshot()
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    more = [review(100 + n, f"u{n % 9}", f"i{n % 6}", float(n % 4)) for n in range(30)]
    expected = fold(table, more).rating_errors
    assert fold(again, more).rating_errors.tolist() == expected.tolist()
    for ours, theirs in zip(again.ratings, table.ratings, strict=True):
        assert ours.tobytes() == theirs.tobytes()

    header = msgspec.msgpack.encode(msgspec.msgpack.decode(saved.header)[:12])
    chunks = {}
    for number, data in saved.chunks.items():
        ids, items, *others = msgspec.msgpack.decode(data)
        del items["rating_sum"], items["rating_n"]
        chunks[number] = msgspec.msgpack.encode([ids, items, *others])
    before = ItemTable.restore(SHAPE, CONFIG, header, chunks)
    assert before.columns.vectors.any()
    assert not before.columns.rating_sum.any()
    assert before.ratings.state.tobytes() == new_ratings().state.tobytes()


def test_a_snapshot_without_ratings_has_no_bytes_of_them() -> None:
    table = ItemTable(SHAPE, CONFIG)
    fold(table, [OneInteraction("u", "a", 0, 0), OneInteraction("u", "b", 1, 0)])
    assert msgspec.msgpack.decode(table.snapshot().header)[12] == {}


def test_what_two_workers_learn_of_an_item_adds_up() -> None:
    """Of sums, in whatever order: as many ratings behind the bias as both have learned."""
    one, two = ItemTable(SHAPE, CONFIG), ItemTable(SHAPE, CONFIG)
    for number, table in enumerate((one, two)):
        table.intern(["a", "b"])
        table.share()
        stars = 5.0 - 3 * number
        fold(table, [review(n, f"{number}-{n}", "a", stars) for n in range(20)])
    for sender, receiver in ((one, two), (two, one)):
        sender.take_delta()
        changes = sender.take_changes(100, 0)
        assert changes is not None
        receiver.add_changes(changes)
    # What one had sent is public to it; what it was given on top is the other's alone.
    assert two.columns.rating_n[0] == 40
    assert one.columns.rating_n[0] == 40
    assert one.columns.rating_sum[0] == pytest.approx(float(two.columns.rating_sum[0]), abs=1e-5)
    assert one.columns.rating_n[1] == 0


def test_a_delta_of_a_shop_without_ratings_has_no_columns_of_them() -> None:
    table = ItemTable(SHAPE, CONFIG)
    table.share()
    fold(table, [OneInteraction("u", "a", 0, 0), OneInteraction("u", "b", 1, 0)])
    table.take_delta()
    changes = table.take_changes(100, 0)
    assert changes is not None
    assert {"vectors", "n_positive"} <= changes.columns.keys()
    assert not {"rating_sum", "rating_n"} & changes.columns.keys()


@pytest.mark.parametrize(("n_workers", "at_first"), [(3, 200), (16, 14)])
def test_workers_who_fade_the_same_ratings_leave_a_bias_where_it_is(
    n_workers: int, at_first: int
) -> None:
    """Each takes away what is too much: together more than there is."""
    tables = [ItemTable(SHAPE, CONFIG) for _ in range(n_workers)]
    for table in tables:
        table.intern(["a"])
        table.share()
    biases = []
    for turn in range(6):
        sent = []
        for number, table in enumerate(tables):
            n = at_first if turn == 0 else 1
            # New users, who know no other item: what is left to explain is the item's.
            fold(table, [review(1_000 * turn + k, f"{turn}-{number}-{k}", "a", 4.0)
                         for k in range(n)])  # fmt: skip
            table.take_delta()
            changes = table.take_changes(100, 0)
            assert changes is not None
            sent.append(changes)
        for number, table in enumerate(tables):
            for sender, changes in enumerate(sent):
                if sender != number:
                    table.add_changes(changes)
        columns = tables[0].columns
        biases.append(float(columns.rating_sum[0] / (columns.rating_n[0] + ITEM_DAMPING)))
    assert all(-0.5 <= bias <= 2 for bias in biases), biases
