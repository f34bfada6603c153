"""Rows of full tables: what many items have gets one, and what comes once can't keep it out."""

from __future__ import annotations

import numpy as np

from profiles.facets import Description
from profiles.gate import OFTEN, FrequencyGate
from profiles.groups import GroupTable
from profiles.item_columns import UNKNOWN
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.tokens import TokenTable
from profiles.view import ItemView

SHAPE = ModelShape(n_factors=4, history=3)
CONFIG = FoldConfig(shape=SHAPE, n_ring=5)
MOST = 512
WORD, GROUP = 2**62 + 1, 2**62 + 2
"""New ones, that no item of the long tail has."""


def small_table() -> ItemTable:
    """With room for `MOST` tokens and as many groups."""
    table = ItemTable(SHAPE, CONFIG, capacity=1)
    table.tokens = TokenTable(SHAPE.n_factors, capacity=1, most=MOST)
    table.groups = GroupTable(capacity=1, most=MOST)
    return table


def one_off(number: int) -> Description:
    """Words and a brand of one item, and a category of all."""
    return Description((7, 0, 10**6 + number, 0), (9, *range(10 + 2 * number, 12 + 2 * number)))


def long_tail(first: int, n: int) -> dict[str, Description]:
    return {f"i{number}": one_off(number) for number in range(first, first + n)}


def with_new(first: int, n: int, every: int) -> dict[str, Description]:
    """The same, with a new word and brand on every so-many-th item."""
    said = long_tail(first, n)
    for number in range(first, first + n, every):
        said[f"i{number}"] = Description((7, 0, GROUP, 0), (9, WORD))
    return said


def tell(table: ItemTable, said: dict[str, Description], at_once: int = 40) -> None:
    names = list(said)
    for first in range(0, len(names), at_once):
        table.describe({name: said[name] for name in names[first : first + at_once]})


def hashes_of(table: ItemTable) -> tuple[list[int], list[int]]:
    groups, tokens = table.groups.columns.hash, table.tokens.columns.hash
    return groups[: len(table.groups)].tolist(), tokens[: len(table.tokens)].tolist()


def test_after_ten_tables_of_one_off_words_what_a_hundred_items_use_gets_a_row() -> None:
    """One in fifty of the next 5,000 items has it; nobody's row is doubled or lost on the way."""
    table = small_table()
    tell(table, long_tail(0, 5 * MOST))
    assert table.tokens.is_full
    assert WORD not in hashes_of(table)[1]
    tell(table, with_new(5 * MOST, 5_000, every=50))
    groups, tokens = hashes_of(table)
    assert WORD in tokens
    assert GROUP in groups
    assert 9 in tokens
    assert 7 in groups
    row = int(table.tokens.rows_of(np.array([WORD], np.uint64))[0])
    n_with_it = int((table.columns.text[: len(table)] == row).sum())
    assert n_with_it >= 100 - 2 * OFTEN
    for hashes in (groups, tokens):
        kept = [key for key in hashes if key]
        assert len(hashes) == MOST
        assert len(kept) == len(set(kept))


def test_an_item_whose_word_lost_its_row_names_no_other_words_row() -> None:
    table = small_table()
    said = long_tail(0, 5 * MOST) | with_new(5 * MOST, 2_000, every=5)
    tell(table, said)
    known = set(hashes_of(table)[1]) - {0}
    n_lost = 0
    for item_id, entry in table.descriptions().items():
        assert set(entry.tokens) <= set(said[item_id].tokens) & known
        n_lost += 9 in entry.tokens and len(entry.tokens) < len(said[item_id].tokens)
    assert n_lost > 0
    text = table.columns.text[: len(table)]
    assert (np.diff((text == UNKNOWN).astype(int), axis=1) >= 0).all()  # none behind the last


def test_below_its_cap_a_table_takes_what_comes_first_as_it_comes() -> None:
    """One mention is enough, and nothing is counted."""
    table = small_table()
    tell(table, long_tail(0, MOST // 2 - 1))
    assert len(table.tokens) == 1 + 2 * (MOST // 2 - 1)
    assert table.tokens._gate is None
    assert table.groups._gate is None


def test_the_same_catalogue_gives_the_same_rows_however_it_is_cut() -> None:
    """As far as rows given up at once allow: each cut is made twice."""
    said = long_tail(0, 5 * MOST) | with_new(5 * MOST, 2_000, every=10)
    for at_once in (1, 40, 500):
        one, two = small_table(), small_table()
        tell(one, said, at_once)
        tell(two, said, at_once)
        assert hashes_of(one) == hashes_of(two)
        assert one.columns.text[: len(one)].tolist() == two.columns.text[: len(two)].tolist()
        assert WORD in hashes_of(one)[1]


def test_an_entry_that_is_written_again_and_again_does_not_make_its_words_frequent() -> None:
    table = small_table()
    tell(table, long_tail(0, 5 * MOST))
    for _ in range(3 * OFTEN):
        tell(table, {"again": Description((7, 0, GROUP, 0), (9, WORD))})
    groups, tokens = hashes_of(table)
    assert WORD not in tokens
    assert GROUP not in groups


def test_a_snapshot_keeps_rows_that_were_given_up_free() -> None:
    table = small_table()
    tell(table, long_tail(0, 5 * MOST) | with_new(5 * MOST, 500, every=5))
    assert table.tokens.n_free > 0
    saved = table.snapshot()
    again = ItemTable.restore(SHAPE, CONFIG, saved.header, saved.chunks)
    assert hashes_of(again) == hashes_of(table)
    assert again.tokens.n_free == table.tokens.n_free
    assert again.descriptions() == table.descriptions()
    assert again.tokens.rows_of(np.zeros(1, np.uint64)).tolist() == [-1]


def test_a_new_token_in_an_old_row_starts_as_in_any_table() -> None:
    """Its vector comes from its hash; what the old one learned, and moves to a group, are gone."""
    table = small_table()
    tell(table, long_tail(0, 5 * MOST))
    table.tokens.columns.sums[:MOST] = 3
    table.groups.columns.counts[:MOST] = 2
    table.groups.columns.totals[:] = 2 * MOST
    table.groups.columns.weight[:MOST, 0] = 1
    table.groups.columns.to[:MOST, 0] = np.arange(MOST)
    table.groups.columns.n[:MOST] = 1
    table.share()
    tell(table, with_new(5 * MOST, 500, every=5))
    row = int(table.tokens.rows_of(np.array([WORD], np.uint64))[0])
    fresh = TokenTable(SHAPE.n_factors)
    fresh.intern(np.array([WORD], np.uint64))
    assert table.tokens.columns.vectors[row].tolist() == fresh.columns.vectors[0].tolist()
    assert table.tokens.columns.sums[row] == 0
    assert table.tokens.sharing is not None
    public = table.tokens.sharing.public["vectors"]
    assert public[row].tolist() == fresh.columns.vectors[0].tolist()
    group = int(table.groups.rows_of(np.array([GROUP], np.uint64))[0])
    columns = table.groups.columns
    assert columns.counts[group] == columns.n[group] == 0
    assert not columns.weight[:MOST][columns.to[:MOST] == group].any()
    assert 0 < columns.totals[2] < 2 * MOST


def test_a_view_follows_rows_that_change_hands() -> None:
    table, view = small_table(), ItemView(SHAPE, CONFIG)
    for first in range(0, 10 * MOST, 1_000):
        tell(table, with_new(first, 1_000, every=20))
        view.apply(table.take_delta())
    n, model = len(table), view.model
    assert model.items.text[:n].tolist() == table.columns.text[:n].tolist()
    assert model.items.facets[:n].tolist() == table.columns.facets[:n].tolist()
    for mine, theirs in ((model.tokens, table.tokens), (model.groups, table.groups)):
        assert mine.hash[:MOST].tolist() == theirs.columns.hash[:MOST].tolist()
    assert model.tokens.vectors[:MOST].tobytes() == table.tokens.columns.vectors[:MOST].tobytes()


def test_the_sketch_forgets_what_is_not_seen_any_more() -> None:
    gate = FrequencyGate(64)
    word = np.array([5], np.uint64)
    for item in range(1, OFTEN):
        assert not len(gate.often(word, np.array([item], np.uint64)))
    others = np.arange(1_000, 1_000 + 640, dtype=np.uint64)
    gate.often(others, others)
    assert not len(gate.often(word, np.array([OFTEN], np.uint64)))
