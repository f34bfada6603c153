"""The item table: interning, snapshots of changed chunks, and views that follow by deltas."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from profiles import items as items_module
from profiles.errors import SnapshotBroken
from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.hashing import HashIndex
from profiles.item_columns import ONCE
from profiles.item_snapshot import ITEMS
from profiles.items import ItemTable, ItemView
from profiles.reference import OneInteraction, columns_of
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.terms import POPM

SHAPE = ModelShape(n_factors=4, history=3)
CONFIG = FoldConfig(shape=SHAPE, n_ring=5)


def fold_clicks(table: ItemTable, clicks: list[tuple[str, str]], first_offset: int = 0) -> None:
    """Fold (user, item) clicks, a second apart, for fresh users."""
    profiles = ProfileTable(SHAPE)
    users = list(dict.fromkeys(user for user, _ in clicks))
    profiles.load(users, [None] * len(users))
    stream = [
        OneInteraction(user, item, offset, 1000 * (offset + 1))
        for offset, (user, item) in enumerate(clicks, first_offset)
    ]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)


def many_clicks(n: int, n_items: int) -> list[tuple[str, str]]:
    return [(f"u{b % 3}", f"i{b * 7 % n_items}") for b in range(n)]


def test_a_start_vector_depends_on_the_id_alone() -> None:
    one, other = ItemTable(SHAPE, CONFIG, capacity=1), ItemTable(SHAPE, CONFIG)
    one.intern(["a", "b", "c", "b"])
    assert other.intern(["c", "a", "c"]).tolist() == [0, 1, 0]
    for item in "ac":
        left, right = one.row(item), other.row(item)
        assert one.columns.vectors[left].tolist() == other.columns.vectors[right].tolist()


def test_start_vectors_have_the_stated_spread() -> None:
    table = ItemTable(ModelShape(n_factors=64), CONFIG)
    rows = table.intern([f"i{number}" for number in range(2000)])
    vectors = table.columns.vectors[rows]
    assert abs(vectors.mean()) < 0.002
    assert abs(vectors.std() - 0.2) < 0.002


def test_a_snapshot_restores_everything_that_learning_needs() -> None:
    table = ItemTable(SHAPE, CONFIG)
    fold_clicks(table, many_clicks(40, 9))
    saved = table.snapshot()
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    n = len(table)
    assert again.ids == table.ids
    for name in table.columns._fields:
        if name not in ("changed", *ONCE):
            left, right = getattr(again.columns, name)[:n], getattr(table.columns, name)[:n]
            assert left.tobytes() == right.tobytes(), name
    for name in ("n", "forward_sum", "backward_sum", "rows", "forward", "backward"):
        left, right = getattr(again.lists, name)[:n], getattr(table.lists, name)[:n]
        assert left.tobytes() == right.tobytes(), name
    for ours, theirs in zip(again.blend, table.blend, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert again.columns.ring.tolist() == table.columns.ring.tolist()
    assert again.columns.state.tolist() == table.columns.state.tolist()


def test_a_snapshot_holds_groups_tokens_and_queries() -> None:
    table = ItemTable(SHAPE, CONFIG)
    lamps = {f"i{n}": describe(f"lamp {n}", ["home", "lamps"], "alder", 9.0) for n in range(6)}
    table.describe(lamps)
    profiles = ProfileTable(SHAPE)
    profiles.load(["u"], [None])
    stream = [OneInteraction("u", f"i{b % 5}", b, b, tokens=(7, 8)) for b in range(30)]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)
    saved = table.snapshot()
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    for name in ("groups", "tokens", "queries"):
        left, right = getattr(again, name), getattr(table, name)
        assert len(left) == len(right) > 0
        for field in left.columns._fields:
            if field not in ("changed", "index_keys", "index_values"):
                ours, theirs = getattr(left.columns, field), getattr(right.columns, field)
                n = len(left) if len(ours) >= len(left) else len(ours)
                assert ours[:n].tobytes() == theirs[:n].tobytes(), (name, field)
    assert again.descriptions() == table.descriptions()
    assert table.snapshot().chunks == {}


def test_a_snapshot_of_format_1_is_read_and_its_items_can_be_ranked() -> None:
    table = ItemTable(SHAPE, CONFIG)
    fold_clicks(table, many_clicks(40, 9))
    saved, n = table.snapshot(), len(table)
    header = msgspec.msgpack.encode([1, *msgspec.msgpack.decode(saved.header)[1:7]])
    names = ("vectors", "sums", "counts", "count_ms", "n_positive", "seen_at")
    old = [table.ids, *(getattr(table.columns, name)[:n].tobytes() for name in names)]
    again = ItemTable.restore(SHAPE, CONFIG, header, {0: msgspec.msgpack.encode(old)})
    assert again.columns.vectors[:n].tobytes() == table.columns.vectors[:n].tobytes()
    assert again.columns.rankable[:n].tolist() == table.columns.seen[:n].tolist()
    assert (again.columns.first_number[:n] > 0).all()
    assert again.columns.short_count.sum() == again.columns.ring_count.sum()
    assert again.snapshot(full=True).n_chunks == 1


def test_a_snapshot_holds_only_the_chunks_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "ITEMS", replace(ITEMS, rows=4))
    table = ItemTable(SHAPE, CONFIG)
    table.intern([f"i{number}" for number in range(10)])
    first = table.snapshot()
    assert (sorted(first.chunks), first.n_chunks) == ([0, 1, 2], 3)
    assert table.snapshot().chunks == {}
    fold_clicks(table, [("u", "i5"), ("u", "i6")])
    second = table.snapshot()
    assert sorted(second.chunks) == [1]
    merged = first.chunks | second.chunks
    again = ItemTable.restore(SHAPE, CONFIG, second.header, merged)
    assert again.columns.vectors[:10].tobytes() == table.columns.vectors[:10].tobytes()
    table.mark_unsaved()
    assert sorted(table.snapshot().chunks) == [0, 1, 2]


def test_a_shorter_or_longer_ring_keeps_the_newest_positives() -> None:
    table = ItemTable(SHAPE, CONFIG)
    clicks = [("u", item) for item in "abcdefgh"]
    fold_clicks(table, clicks)
    saved = table.snapshot()
    for n_ring, expected in ((3, "fgh"), (9, "defgh")):
        config = FoldConfig(shape=SHAPE, n_ring=n_ring)
        again = ItemTable.restore(SHAPE, config, saved.header, saved.chunks)
        held = [again.ids[row] for row in again.columns.ring[: len(expected)]]
        assert "".join(held) == expected
        assert again.columns.ring_count.sum() == len(expected)


def test_a_snapshot_that_does_not_fit_is_refused_by_chunk() -> None:
    table = ItemTable(SHAPE, CONFIG)
    fold_clicks(table, many_clicks(20, 5))
    saved = table.snapshot()
    with pytest.raises(SnapshotBroken, match="lacks chunk 0"):
        ItemTable.restore(SHAPE, CONFIG, saved.header, {})
    with pytest.raises(SnapshotBroken, match="chunk 0"):
        ItemTable.restore(SHAPE, CONFIG, saved.header, {0: saved.chunks[0][:-3]})
    with pytest.raises(SnapshotBroken, match="header"):
        ItemTable.restore(SHAPE, CONFIG, b"\xff", saved.chunks)
    with pytest.raises(SnapshotBroken, match="generation"):
        ItemTable.restore(ModelShape(n_factors=5), CONFIG, saved.header, saved.chunks)
    newer = msgspec.msgpack.encode([9, *msgspec.msgpack.decode(saved.header)[1:]])
    with pytest.raises(SnapshotBroken, match="upgrade"):
        ItemTable.restore(SHAPE, CONFIG, newer, saved.chunks)
    table.intern(["new"])
    later = table.snapshot()
    with pytest.raises(SnapshotBroken, match="chunk 0"):
        ItemTable.restore(SHAPE, CONFIG, later.header, saved.chunks)


def test_an_empty_table_survives_its_snapshot() -> None:
    saved = ItemTable(SHAPE, CONFIG).snapshot(full=True)
    assert (saved.chunks, saved.n_chunks) == ({}, 0)
    assert len(ItemTable.restore(SHAPE, CONFIG, saved.header, {})) == 0
    assert msgspec.msgpack.decode(saved.header)[0] == items_module.SNAPSHOT_VERSION


def test_a_view_follows_by_deltas() -> None:
    table, view = ItemTable(SHAPE, CONFIG, capacity=1), ItemView(SHAPE, CONFIG, capacity=1)
    for start in range(0, 60, 20):
        fold_clicks(table, many_clicks(start + 20, 30)[start:], first_offset=start)
        view.apply(table.take_delta())
        assert view.ids == table.ids
        assert view.vectors.tobytes() == table.columns.vectors[: len(table)].tobytes()
        assert view.n_positive.tolist() == table.columns.n_positive[: len(table)].tolist()
    assert len(table.take_delta()) == 0
    assert view.row("i3") == table.row("i3")
    assert view.rows(["i3", "?"]).tolist() == [table.row("i3"), -1]
    assert view.rows_of_hashes([int(table.hashes[4]), 12345]).tolist() == [4, -1]


def test_a_view_keeps_what_it_was_given() -> None:
    """The writer goes on while readers read: a delta is a copy."""
    table, view = ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    fold_clicks(table, many_clicks(20, 5))
    view.apply(table.take_delta())
    before = view.vectors.copy()
    fold_clicks(table, many_clicks(20, 5), first_offset=20)
    assert (view.vectors == before).all()


def test_a_view_starts_over_with_the_first_delta_of_another_table() -> None:
    view = ItemView(SHAPE, CONFIG)
    for item in ("a", "b"):
        table = ItemTable(SHAPE, CONFIG)
        fold_clicks(table, [("u", item)])
        view.apply(table.take_delta())
    assert (view.ids, view.n_restarts) == (["b"], 1)
    table.intern(["c"])
    table.take_delta()
    table.intern(["d"])
    with pytest.raises(ValueError, match="delta"):
        view.apply(table.take_delta())


def test_popularity_halves_in_event_time() -> None:
    config = FoldConfig(shape=SHAPE, popularity_half_life_s=1.0)
    table, view = ItemTable(SHAPE, config), ItemView(SHAPE, config)
    profiles = ProfileTable(SHAPE)
    profiles.load(["u"], [None])
    stream = [OneInteraction("u", item, b, 1000 * b) for b, item in enumerate("aba", 1)]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), config, 0)
    view.apply(table.take_delta())
    expected = {"a": 1 + 0.25, "b": 0.5}
    for item, count in expected.items():
        row = view.row(item)
        assert row is not None
        assert view.base.terms[POPM, row] == pytest.approx(np.log(count + 0.1), rel=1e-6)


def test_an_index_keeps_nothing_of_an_empty_append() -> None:
    index = HashIndex()
    index.append(np.zeros(0, np.uint64))
    assert index._in_order == []
