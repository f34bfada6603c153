"""The cache of profiles: what is missing, what is dropped, and that growing keeps rows."""

from __future__ import annotations

import pytest

from profiles.profile import Profile
from profiles.record import encode_profile
from profiles.shape import ModelShape
from profiles.table import ProfileTable

SHAPE = ModelShape(n_factors=2)


def record(offset: int) -> bytes:
    return encode_profile(Profile(last_offset=offset, n_by_kind={0: 1}), SHAPE)


def test_missing_names_each_user_once_in_the_order_of_mention() -> None:
    table = ProfileTable(SHAPE)
    table.load(["b"], [None])
    assert table.missing(["c", "b", "a", "c"]) == ["c", "a"]


def test_growing_keeps_every_profile() -> None:
    table = ProfileTable(SHAPE, capacity=1)
    for number in range(100):
        table.load([f"u{number}"], [record(number)])
    assert [table.profile(f"u{number}").last_offset for number in range(100)] == list(range(100))


def test_a_row_given_to_another_user_starts_fresh() -> None:
    table = ProfileTable(SHAPE)
    table.load(["old"], [record(9)])
    table.drop(["old", "never seen"])
    table.load(["new"], [None])
    assert table.rows(["new"]).tolist() == [0]
    assert table.profile("new").n_events == 0
    with pytest.raises(KeyError):
        table.rows(["old"])


def test_eviction_drops_the_users_that_were_used_longest_ago() -> None:
    table = ProfileTable(SHAPE)
    for user in "abcd":
        table.load([user], [record(1)])
    table.rows(["a"])
    assert table.evict_to(2) == 2
    assert table.missing("abcd") == ["b", "c"]
    assert table.evict_to(2) == 0


def test_who_is_looked_for_is_not_the_first_to_be_dropped() -> None:
    table = ProfileTable(SHAPE)
    for user in "abcd":
        table.load([user], [record(1)])
    assert table.missing("ax") == ["x"]
    table.evict_to(2)
    assert table.missing("abcd") == ["b", "c"]


def test_clear_forgets_everyone() -> None:
    table = ProfileTable(SHAPE)
    table.load(["a"], [record(1)])
    table.clear()
    assert len(table) == 0
    assert "a" not in table
    with pytest.raises(KeyError):
        table.rows(["a"])
