"""Events become the fold's columns: kinds, rows, tokens, and times that can't lie ahead."""

from __future__ import annotations

import numpy as np

from agents.translate import Translator
from profiles.hashing import item_hash, session_hash, token_hash
from profiles.interactions import FIRST_OWN_CODE, NO_ITEM, Interactions, Kind, Kinds
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from streams.codec import EventCodec
from streams.events import Click, Event, Return, Review, Search

SHAPE = ModelShape(n_factors=4)
KINDS = Kinds([Kind("favourite", FIRST_OWN_CODE, 0.5, True)])


def translate(events: list[Event], appended_ms: int = 10_000) -> tuple[Interactions, ItemTable]:
    profiles, items = ProfileTable(SHAPE), ItemTable(SHAPE, FoldConfig(shape=SHAPE))
    users = [event.user_id for event in events]
    profiles.load(distinct := list(dict.fromkeys(users)), [None] * len(distinct))
    columns = Translator(KINDS, n_tokens=3).translate(
        2, events, list(range(len(events))), [appended_ms] * len(events), profiles, items
    )
    return columns, items


def kind_names(columns: Interactions) -> list[str]:
    return [KINDS.name(code) for code in columns.kind.tolist()]


def test_items_get_one_row_each_and_searches_none() -> None:
    columns, items = translate(
        [
            Click(user_id="u", ts=1, item_id="a"),
            Search(user_id="u", ts=2, query="a"),
            Click(user_id="v", ts=3, item_id="b"),
            Click(user_id="u", ts=4, item_id="a"),
        ]
    )
    assert columns.item_row.tolist() == [0, NO_ITEM, 1, 0]
    assert columns.item_hash.tolist() == [item_hash("a"), 0, item_hash("b"), item_hash("a")]
    assert items.ids == ["a", "b"]
    assert columns.partition == 2
    assert columns.user_row[0] == columns.user_row[1] == columns.user_row[3]


def test_a_review_speaks_for_its_item_from_three_stars_on_or_without_any() -> None:
    columns, _ = translate(
        [
            Review(user_id="u", ts=1, item_id="a", rating=rating)
            for rating in (None, 3.0, 5.0, 2.9, 0.0)
        ]
    )
    assert kind_names(columns) == ["review"] * 3 + ["bad_review"] * 2
    assert columns.positive.tolist() == [1, 1, 1, 0, 0]


def test_returns_and_searches_teach_nothing() -> None:
    columns, _ = translate(
        [Return(user_id="u", ts=1, item_id="a"), Search(user_id="u", ts=1, query="x")]
    )
    assert columns.positive.tolist() == [0, 0]


def test_a_clock_ahead_of_the_log_is_set_back_and_a_late_event_keeps_its_time() -> None:
    columns, _ = translate(
        [Click(user_id="u", ts=99_999, item_id="a"), Click(user_id="u", ts=5, item_id="a")]
    )
    assert columns.time_ms.tolist() == [10_000, 5]


def test_a_query_becomes_its_first_words_whatever_their_case() -> None:
    columns, _ = translate(
        [
            Click(user_id="u", ts=1, item_id="a"),
            Search(user_id="u", ts=1, query="Red STRASSE, straße red"),
            Search(user_id="u", ts=1, query="!?"),
        ]
    )
    assert columns.token_start.tolist() == [0, 0, 3, 3]
    wanted = [token_hash("red"), token_hash("strasse"), token_hash("strasse")]
    np.testing.assert_array_equal(columns.tokens, np.array(wanted, np.uint64))


def test_a_query_that_led_to_a_positive_event_is_that_events() -> None:
    columns, _ = translate(
        [
            Click(user_id="u", ts=1, item_id="a", query="Tea light"),
            Return(user_id="u", ts=2, item_id="a", query="tea"),
            Review(user_id="u", ts=3, item_id="a", rating=1, query="tea"),
            Click(user_id="u", ts=4, item_id="b"),
        ]
    )
    assert columns.token_start.tolist() == [0, 2, 2, 2, 2]
    assert columns.tokens.tolist() == [token_hash("tea"), token_hash("light")]


def test_events_of_one_session_have_its_hash_and_those_without_none() -> None:
    columns, _ = translate(
        [
            Click(user_id="u", ts=1, item_id="a", session_id="s1"),
            Search(user_id="u", ts=2, query="a", session_id="s1"),
            Click(user_id="u", ts=3, item_id="a"),
        ]
    )
    assert columns.session is not None
    assert columns.session.tolist() == [session_hash("s1"), session_hash("s1"), 0]
    columns, _ = translate([Click(user_id="u", ts=1, item_id="a")])
    assert columns.session is not None
    assert columns.session.tolist() == [0]


def test_a_shops_own_kind_has_its_own_weight() -> None:
    raw = b'{"type":"favourite","user_id":"u","item_id":"a","ts":1}'
    event = EventCodec(["favourite"]).decode(raw, b"u", ()).event
    columns, _ = translate([event])
    assert kind_names(columns) == ["favourite"]
    assert columns.weight.tolist() == [0.5]
