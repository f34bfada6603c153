"""What a catalogue entry says of an item, as hashes."""

from __future__ import annotations

import pytest

from agents.describe import description_of
from profiles.facets import BRAND, LEAF, MOST_TOKENS, NOTHING, PARENT, PRICE, describe, price_band
from streams.events import Item


def test_nothing_said_gives_nothing() -> None:
    assert describe() == NOTHING
    assert describe("", [], "", 0.0) == NOTHING
    assert description_of(Item(item_id="a")) == NOTHING


def test_an_item_is_described_by_all_that_its_entry_says() -> None:
    item = Item(item_id="a", title="Red Lamp", category=["home", "lamps"], brand="Dune", price=8.0)
    assert description_of(item) == describe("Red Lamp", ["home", "lamps"], "Dune", 8.0)


def test_each_facet_is_hashed_in_a_space_of_its_own() -> None:
    one = describe("lamp", ["lamp"], "lamp")
    assert len({one.groups[LEAF], one.groups[BRAND], *one.tokens}) == 5
    below = describe(category=["lamp", "red"])
    assert below.groups[PARENT] not in one.groups  # a leaf and a parent of one name are two groups
    assert one.tokens[0] in below.tokens  # but the path's token is one


def test_items_of_one_branch_share_the_tokens_of_its_path() -> None:
    one, other = describe(category=["a", "b", "c"]), describe(category=["a", "b", "d"])
    assert len(set(one.tokens) & set(other.tokens)) == 2
    assert one.groups[PARENT] == other.groups[PARENT]
    assert not set(one.tokens) & set(describe(category=["b", "a"]).tokens)


def test_upper_and_lower_case_are_one() -> None:
    assert describe("LAMP", ["Home"], "DUNE") == describe("lamp", ["home"], "dune")


def test_a_word_counts_once_and_there_are_never_too_many() -> None:
    assert describe("lamp lamp lamp") == describe("lamp")
    words = " ".join(f"w{number}" for number in range(100))
    many = describe(words, [f"c{number}" for number in range(16)], "b", 5.0)
    assert len(many.tokens) == len(set(many.tokens)) == MOST_TOKENS
    assert set(describe(brand="b", price=5.0).tokens) < set(many.tokens)
    assert describe("w0").tokens[0] in many.tokens  # a long path leaves room for the title


@pytest.mark.parametrize("price", [0.001, 0.99, 5.0, 1e9])
def test_a_price_band_is_half_an_octave(price: float) -> None:
    band = int(price_band(price))
    assert 2 ** (band / 2) <= price * (1 + 1e-9)
    assert price < 2 ** ((band + 1) / 2) * (1 + 1e-9)
    assert int(price_band(2 * price)) == band + 2
    assert describe(price=price).groups[PRICE] != 0
