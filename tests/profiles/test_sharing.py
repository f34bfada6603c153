"""Tables that add each other's differences: nothing twice, nothing forgotten, rounding kept."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.hashing import HashIndex
from profiles.items import ItemTable
from profiles.sharing import TOKEN_COLUMNS, Sharing, rows_of_hashes
from profiles.tokens import TokenTable
from tests.profiles.shared_tables import (
    CONFIG,
    by_id,
    give,
    learn,
    restored,
    shared_table,
    take,
)


def test_both_tables_end_up_with_the_sum_of_what_each_learned() -> None:
    one, two = shared_table(), shared_table()
    for number in range(200):
        learn(one, f"i{number % 7}", 0.01 * number)
        learn(two, f"i{number % 11}", -0.02 * number)
        if number % 13 == 0:
            give(one, two)
        if number % 5 == 0:
            give(two, one)
    give(one, two)
    give(two, one)
    assert by_id(one, "n_positive") == by_id(two, "n_positive")
    assert sum(by_id(one, "n_positive").values()) == 400  # type: ignore[arg-type]
    for column, tolerance in (("vectors", 2e-3), ("sums", 1e-4), ("counts", 1e-9)):
        mine, others = by_id(one, column), by_id(two, column)
        for item_id in mine:
            assert mine[item_id] == pytest.approx(others[item_id], abs=tolerance)


def test_others_learning_is_not_sent_on() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "a")
    assert give(one, two) == 1
    assert take(two) is None
    learn(two, "b")
    assert give(two, one) == 1


def test_rounding_is_made_up_for_later() -> None:
    one, two = shared_table(), shared_table()
    for _ in range(500):
        learn(one, "a", 0.0371)
        give(one, two)
    # Each message is off by up to 2^-11 of what it moves; 500 of them are not 500 times as far.
    assert one.columns.vectors[0, 0] == pytest.approx(float(two.columns.vectors[0, 0]), abs=1e-4)


def test_the_most_changed_rows_go_first_and_the_rest_stays_pending() -> None:
    one, two = shared_table(), shared_table()
    for number in range(10):
        learn(one, f"i{number}", 0.0)
    give(one, two)
    for number in range(10):
        learn(one, f"i{number}", 0.01 * number)
    assert give(one, two, most=4) == 4
    assert two.columns.n_positive[9] == 2
    assert one.sharing is not None
    assert one.sharing.n_pending == 6
    assert give(one, two) == 6
    assert by_id(one, "n_positive") == by_id(two, "n_positive")


def test_what_has_waited_too_long_goes_whatever_the_limit() -> None:
    one = shared_table()
    for number in range(10):
        learn(one, f"i{number}", 0.0)
    assert take(one, most=0) is None
    assert one.sharing is not None
    changes = one.take_changes(0, one.sharing.round)
    assert changes is not None
    assert len(changes) == 10


def test_a_snapshot_of_what_all_know_leaves_out_what_is_pending() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "a", 0.5)
    give(one, two)
    learn(one, "a", 0.25)
    one.take_delta()
    again = restored(one, public=True)
    assert by_id(again, "n_positive") == by_id(two, "n_positive") == {"a": 1}
    assert by_id(again, "vectors") == by_id(two, "vectors")
    # What goes out later is in the next one, though the kernel did not touch the row again.
    give(one, two)
    saved = one.snapshot(public=True)
    again = ItemTable.restore(CONFIG.shape, CONFIG, saved.header, saved.chunks)
    assert by_id(again, "n_positive") == {"a": 2}


def test_another_base_takes_the_place_of_what_was_public_and_pending_stays() -> None:
    one, base = shared_table(), ItemTable(CONFIG.shape, CONFIG)
    learn(one, "a", 0.5)
    give(one)
    learn(one, "a", 0.25)  # pending
    learn(one, "mine", 0.25)
    learn(base, "theirs", 1.0)
    learn(base, "a", 2.0)
    start = ItemTable(CONFIG.shape, CONFIG)
    start.intern(["a"])
    one.rebase(base)
    assert by_id(one, "n_positive") == {"a": 2, "mine": 1, "theirs": 1}
    moved = one.columns.vectors[0] - start.columns.vectors[0]
    assert moved == pytest.approx(np.full(4, 2.25), abs=1e-3)
    two = restored(base)
    two.share()
    give(one, two)
    assert by_id(two, "n_positive") == by_id(one, "n_positive")


def test_counts_decay_on_the_way() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "a", at_ms=0)
    changes = take(one)
    learn(two, "b", at_ms=10_000)  # the receiver's clock is one half-life ahead
    assert changes is not None
    two.add_changes(changes)
    row = two.row("a")
    assert row is not None
    assert two.columns.counts[row] == pytest.approx(0.5)
    assert two.columns.count_ms[row] == 10_000


def test_rows_are_found_by_hash() -> None:
    index = HashIndex(4)
    hashes = np.random.default_rng(1).integers(1, 1 << 63, 1_000).astype(np.uint64)
    index.append(hashes)
    asked = np.concatenate([hashes[::3], np.array([5, 7], np.uint64)])
    found = rows_of_hashes(index.keys, index.values, asked)
    assert found.tolist() == [*range(0, 1_000, 3), -1, -1]


def test_rows_that_another_base_lacks_begin_anew_and_keep_what_is_pending() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "old")
    give(one, two)
    base = restored(one, public=True)
    learn(one, "young", 0.5)
    message = take(one)
    assert message is not None
    two.add_changes(message)
    learn(two, "young", 0.25)
    two.rebase(base)
    assert by_id(two, "n_positive") == {"old": 1, "young": 1}  # its own only
    two.add_changes(message)  # read again, as all that came behind the base
    assert by_id(two, "n_positive") == {"old": 1, "young": 2}
    give(two, one)
    for column in ("vectors", "sums", "counts"):
        for item_id in ("old", "young"):
            mine, theirs = by_id(one, column)[item_id], by_id(two, column)[item_id]
            assert mine == pytest.approx(theirs, abs=1e-3)


def test_sums_that_several_fade_do_not_go_below_zero() -> None:
    one, two = shared_table(), shared_table()
    learn(one, "a", 1.0)
    give(one, two)
    base = restored(one, public=True)
    base.columns.sums[0] = 0.25
    for table in (one, two):
        table.columns.sums[0] = 0.25  # each takes most of what there is
        table.columns.changed[0] = 3
    mine, theirs = take(one), take(two)
    assert mine is not None
    assert theirs is not None
    one.add_changes(theirs)
    two.add_changes(mine)
    for table in (one, two):
        assert table.sharing is not None
        assert table.columns.sums[0] == table.sharing.public["sums"][0] == 0
        table.sharing.public["sums"][0] = 1.0  # pending: -1
        table.rebase(restored(base))
        assert table.columns.sums[0] == 0


def test_rows_for_which_there_is_no_room_are_left_out_of_another_base() -> None:
    full, base = TokenTable(4, capacity=2, most=2), TokenTable(4)
    full.sharing = Sharing(full, TOKEN_COLUMNS, named=False)
    full.intern(np.array([1, 2], np.uint64))
    base.intern(np.array([2, 3, 4], np.uint64))
    base.columns.sums[:3] = [2, 3, 4]
    rows = full.intern(base.hashes[:3])
    assert rows.tolist() == [1, -1, -1]
    full.sharing.rebase(rows, base.columns, full, full.start_vectors(np.array([0], np.int32)))
    assert full.columns.sums.tolist() == [0, 2]
