"""What the catalogue says reaches the item table: groups, tokens, what can be ranked; bounds."""

from __future__ import annotations

import numpy as np
import pytest

from profiles.facets import BRAND, LEAF, PARENT, PRICE, describe
from profiles.fold import fold_batch
from profiles.groups import GroupTable
from profiles.item_columns import CHANGED_BY_OTHERS, N_RANKABLE
from profiles.item_snapshot import ITEMS
from profiles.items import ItemTable
from profiles.record import facts_of
from profiles.reference import OneInteraction, columns_of
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.tokens import TokenTable, n_tokens, read_item
from profiles.view import ItemView

SHAPE = ModelShape(n_factors=32, history=3)
CONFIG = FoldConfig(shape=SHAPE, n_ring=5)
LAMP = describe("Red lamp", ["home", "lamps"], "Alder", 20.0)
RUG = describe("Red rug", ["home", "rugs"], None, 90.0)


def table(**fields: int) -> ItemTable:
    return ItemTable(SHAPE, CONFIG, **fields)


def click(items: ItemTable, *item_ids: str) -> None:
    profiles = ProfileTable(SHAPE)
    profiles.load(["u"], [None])
    stream = [OneInteraction("u", item, 1 + b, 1_000 * b) for b, item in enumerate(item_ids)]
    fold_batch(profiles, items, columns_of(stream, 0, profiles, items), CONFIG, 0)


def rankable(items: ItemTable) -> set[str]:
    n = int(items.columns.state[N_RANKABLE])
    rows = items.columns.rankable[:n].tolist()
    assert [items.columns.rankable_at[row] for row in rows] == list(range(n))
    assert np.count_nonzero(items.columns.rankable_at[: len(items)] >= 0) == n
    return {items.ids[row] for row in rows}


def test_items_share_the_groups_and_tokens_that_their_entries_share() -> None:
    items = table(capacity=1)
    items.describe({"lamp": LAMP, "rug": RUG})
    lamp, rug = items.intern(["lamp", "rug"])
    facets = items.columns.facets
    assert facets[lamp, PARENT] == facets[rug, PARENT] >= 0
    assert facets[lamp, LEAF] != facets[rug, LEAF]
    assert (facets[lamp, BRAND] >= 0, facets[rug, BRAND]) == (True, -1)
    assert items.groups.columns.facet[facets[lamp, PRICE]] == PRICE
    text = items.columns.text
    assert (n_tokens(text, lamp), n_tokens(text, rug)) == (len(LAMP.tokens), len(RUG.tokens))
    shared = set(text[lamp, :6].tolist()) & set(text[rug, :5].tolist())
    assert len(shared) == 2  # "home" and "red"


def test_a_later_entry_takes_the_place_of_the_first() -> None:
    items = table()
    items.describe({"lamp": LAMP})
    items.describe({"lamp": RUG, "rug": RUG})
    lamp, rug = items.intern(["lamp", "rug"])
    for column in (items.columns.facets, items.columns.text):
        assert column[lamp].tolist() == column[rug].tolist()


def test_an_entry_makes_its_item_rankable_until_it_goes() -> None:
    items = table()
    items.describe({"a": LAMP, "b": describe(), "c": RUG})
    assert rankable(items) == {"a", "b", "c"}
    items.describe({"a": None, "never heard of": None})
    assert rankable(items) == {"b", "c"}
    assert items.row("never heard of") is None
    assert items.columns.facets[0].tolist() == [-1] * 4
    items.describe({"a": LAMP, "b": None, "c": None})
    assert rankable(items) == {"a"}


def test_an_item_that_lost_its_entry_is_not_rankable_until_it_has_another() -> None:
    items = table()
    items.describe({"had": LAMP, "not had": describe()})
    click(items, "had", "no entry ever")
    items.describe({"had": None, "not had": None})
    click(items, "had", "not had", "no entry ever")
    assert rankable(items) == {"no entry ever"}
    assert items.descriptions() == {}
    saved = items.snapshot(full=True)
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    click(again, "had", "not had")
    assert rankable(again) == {"no entry ever"}
    other = table()
    other.share()
    click(other, "had", "not had")
    other.rebase(again)
    assert rankable(other) == {"no entry ever"}
    items.describe({"had": describe()})
    assert rankable(items) == {"had", "no entry ever"}


def test_a_view_knows_what_is_rankable_also_when_that_changes() -> None:
    items, view = table(), ItemView(SHAPE, CONFIG, capacity=1)

    def listed() -> set[str]:
        view.apply(items.take_delta())
        return {view.ids[row] for row in np.flatnonzero(view.rankable).tolist()}

    items.intern(["given back"])
    assert listed() == set()
    items.describe({"a": LAMP, "b": RUG})
    assert listed() == {"a", "b"}
    click(items, "b", "c")
    items.describe({"a": None, "b": None})
    assert listed() == {"c"}
    items.describe({"a": RUG})
    assert listed() == {"a", "c"}


def test_a_row_that_never_learned_starts_nearer_to_its_tokens() -> None:
    items = table()
    rows = items.intern([f"i{number}" for number in range(200)])
    before = items.columns.vectors[rows].copy()
    items.describe(dict.fromkeys(items.ids, LAMP))
    assert items.columns.vectors[rows].std() == pytest.approx(0.05, abs=0.003)
    later = table()
    later.describe({"i7": LAMP})
    assert later.columns.vectors[0].tolist() == items.columns.vectors[7].tolist()
    e = np.zeros(32, np.float32)
    read_item(items.columns.vectors, items.columns.text, items.tokens.columns, 7, e)
    own = items.columns.vectors[7]
    tokens = items.tokens.columns.vectors[items.columns.text[7, : len(LAMP.tokens)]]
    assert e == pytest.approx(own + 2 * tokens.mean(0), abs=1e-5)
    items.describe(dict.fromkeys(items.ids))
    assert (items.columns.vectors[rows] == before).all()


def test_a_row_that_learned_keeps_what_it_learned() -> None:
    items = table()
    click(items, "a", "b", "c")
    before = items.columns.vectors[:3].copy()
    items.describe({"a": LAMP, "b": RUG})
    learned = items.columns.sums[:3] > 0
    assert learned.any()
    assert (items.columns.vectors[:3][learned] == before[learned]).all()


def test_readers_hear_of_an_entry_and_others_need_not() -> None:
    items = table()
    items.share()
    items.describe({"a": LAMP})
    assert items.columns.changed[0] & CHANGED_BY_OTHERS
    assert items.take_delta().model.items.rows.tolist() == [0]
    assert items.take_changes(10, 0) is None
    click(items, "b", "a")
    assert items.take_delta().model.items.rows.tolist() == [0, 1]
    changes = items.take_changes(10, 0)
    assert changes is not None
    assert set(changes.new_ids.values()) == {"a", "b"}


def test_snapshots_of_changed_chunks_alone_name_the_rankable_items() -> None:
    items = table()
    names = [f"i{number}" for number in range(ITEMS.rows + 1)]
    items.describe(dict.fromkeys(names, LAMP))
    first = items.snapshot()
    items.describe({"i0": None})  # the last, of another chunk, takes its place
    second = items.snapshot()
    again = ItemTable.restore(SHAPE, CONFIG, second.header, first.chunks | second.chunks)
    assert rankable(again) == set(names[1:])
    assert again.descriptions() == dict.fromkeys(names[1:], LAMP)


def test_what_was_said_can_be_said_to_another_table() -> None:
    items, other = table(), table(capacity=1)
    entries = {"lamp": LAMP, "rug": RUG, "plain": describe()}
    items.intern(["not described"])
    items.describe(entries | {"gone": LAMP})
    items.describe({"gone": None})
    assert items.descriptions() == entries
    other.describe(items.descriptions())
    assert (rankable(other), other.descriptions()) == (set(entries), entries)


def test_a_table_is_told_only_what_another_one_was_told_since() -> None:
    now, before = table(), table()
    for items in (now, before):
        items.intern(["no entry"] if items is now else ["x", "no entry"])
        items.describe({"same": LAMP, "other": LAMP, "deleted": RUG, "plain": describe()})
    before.describe({"never said": LAMP, "older": None, "back": RUG, "deleted before": RUG})
    before.describe({"back": None, "deleted before": None})
    click(now, "deleted", "deleted before")
    now.describe({"other": RUG, "deleted": None, "new": RUG, "back": LAMP, "deleted before": None})
    saved = before.snapshot(full=True)
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    again.take_delta()
    again.describe_as(now)
    assert again.descriptions() == now.descriptions()
    assert rankable(again) == {"same", "other", "plain", "new", "back"}
    told = {again.ids[row] for row in again.take_delta().model.items.rows}
    assert {"same", "plain", "no entry", "deleted before"}.isdisjoint(told)
    click(again, "deleted", "never said")
    assert rankable(again) == {"same", "other", "plain", "new", "back"}


def test_facts_do_not_depend_on_what_the_catalogue_says() -> None:
    clicks = [
        OneInteraction("uvw"[b % 3], "abcdefgh"[b * b % 8], b, 1_000 * b) for b in range(1, 41)
    ]
    records, vectors = [], []
    for said in ({}, dict.fromkeys("abcd", LAMP), dict.fromkeys("efgh", RUG)):
        items, profiles = table(), ProfileTable(SHAPE)
        items.describe(said)
        profiles.load(list("uvw"), [None] * 3)
        fold_batch(profiles, items, columns_of(clicks, 0, profiles, items), CONFIG, 0)
        records.append(list(map(facts_of, profiles.pack(profiles.rows("uvw")))))
        vectors.append(items.columns.vectors[items.intern(list("abcdefgh"))])
    assert records[0] == records[1] == records[2]
    assert (vectors[0] != vectors[1]).any()


def test_where_all_rows_are_used_an_item_keeps_the_tokens_that_have_one() -> None:
    items = table()
    items.groups, items.tokens = GroupTable(most=3), TokenTable(32, most=6)
    items.describe({"lamp": LAMP, "rug": RUG})
    assert (len(items.groups), len(items.tokens)) == (3, 6)
    text = items.columns.text
    assert (n_tokens(text, 0), n_tokens(text, 1)) == (6, 2)
    assert (text[1, 2:] == -1).all()
    facets = items.columns.facets[:2]
    assert (facets[:, [LEAF, PARENT]] >= 0).all()
    assert (facets[:, [BRAND, PRICE]] == -1).all()
