"""Tables that add each other's differences: nothing twice, nothing forgotten, rounding kept."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.hashing import HashIndex
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.sharing import RowChanges, rows_of_hashes

CONFIG = FoldConfig(shape=ModelShape(n_factors=4), n_ring=8, popularity_half_life_s=10.0)
ALL, NOTHING_OVERDUE = 10**9, -1


def shared_table() -> ItemTable:
    """An empty table that is shared, with room for one row."""
    table = ItemTable(CONFIG.shape, CONFIG, capacity=1)
    table.share()
    return table


def learn(table: ItemTable, item_id: str, by: float = 0.1, at_ms: int = 0) -> None:
    """As the kernel does: move the vector, count, push on the ring."""
    (row,) = table.intern([item_id])
    columns, state = table.columns, table.columns.state
    state[2] = max(state[2], at_ms)
    columns.vectors[row] += np.float32(by)
    columns.sums[row] += np.float32(by * by)
    age_s = (state[2] - columns.count_ms[row]) / 1_000
    columns.counts[row] = 1 + columns.counts[row] * 2.0 ** (-age_s / 10.0)
    columns.count_ms[row] = state[2]
    columns.n_positive[row] += 1
    if columns.seen_at[row] < 0:
        table._see(np.array([row], np.int32))
    place = state[3]
    if state[4] == len(columns.ring):
        columns.ring_count[columns.ring[place]] -= 1
    else:
        state[4] += 1
    columns.ring[place] = row
    columns.ring_count[row] += 1
    state[3] = (place + 1) % len(columns.ring)
    state[0] += 1
    columns.changed[row] = 3


def take(table: ItemTable, most: int = ALL) -> RowChanges | None:
    """One round."""
    table.take_delta()
    assert table.sharing is not None
    changes = table.take_changes(most, NOTHING_OVERDUE)
    table.sharing.end_round()
    return changes


def give(source: ItemTable, *targets: ItemTable, most: int = ALL) -> int:
    """One round from one table to others; returns how many rows went."""
    changes = take(source, most)
    if changes is None:
        return 0
    for target in targets:
        assert target.add_changes(changes) == 0
    return len(changes)


def by_id(table: ItemTable, column: str) -> dict[str, object]:
    """A column's values by item."""
    values = getattr(table.columns, column)[: len(table)].tolist()
    return dict(zip(table.ids, values, strict=True))


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
    saved = one.snapshot(public=True)
    again = ItemTable.restore(CONFIG.shape, CONFIG, saved.header, saved.chunks)
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
    two = ItemTable.restore(CONFIG.shape, CONFIG, *_whole(base))
    two.share()
    give(one, two)
    assert by_id(two, "n_positive") == by_id(one, "n_positive")


def _whole(table: ItemTable) -> tuple[bytes, dict[int, bytes]]:
    saved = table.snapshot(full=True)
    return saved.header, saved.chunks


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


def test_recent_positives_are_drawn_everywhere() -> None:
    one, two = shared_table(), shared_table()
    for number in range(5):
        learn(one, f"i{number}")
    for number in range(12):
        learn(two, f"t{number % 2}")
    changes = take(one)
    n, recent = one.take_recent(100)
    assert (n, len(recent)) == (5, 5)
    assert changes is not None
    two.add_changes(changes)
    two.add_recent(n, recent)
    ring = {two.ids[row] for row in two.columns.ring.tolist()}
    assert {f"i{number}" for number in range(5)} <= ring
    assert two.columns.ring_count[: len(two)].sum() == len(two.columns.ring)
    assert two.n_learned == 17
    n, recent = two.take_recent(100)
    assert n == 12  # its own only
    assert len(recent) == 8  # as many as its ring kept
    assert one.take_recent(100)[0] == 0


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
    base = one.snapshot(full=True, public=True)
    learn(one, "young", 0.5)
    message = take(one)
    assert message is not None
    two.add_changes(message)
    learn(two, "young", 0.25)
    two.rebase(ItemTable.restore(CONFIG.shape, CONFIG, base.header, base.chunks))
    assert by_id(two, "n_positive") == {"old": 1, "young": 1}  # its own only
    two.add_changes(message)  # read again, as all that came behind the base
    assert by_id(two, "n_positive") == {"old": 1, "young": 2}
    give(two, one)
    for column in ("vectors", "sums", "counts"):
        for item_id in ("old", "young"):
            mine, theirs = by_id(one, column)[item_id], by_id(two, column)[item_id]
            assert mine == pytest.approx(theirs, abs=1e-3)
