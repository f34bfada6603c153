"""Each part of a mapping does to a line what its description says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streams.errors import MappingError
from streams.events import INTERACTIONS, Click, Event, Item
from streams.mappings.compiled import LineMapper, LineRejected
from streams.mappings.mapping import parse_mapping

KINDS: dict[str, type[Event]] = {str(kind.__struct_config__.tag): kind for kind in INTERACTIONS}
COLUMNS = ["user", "page", "at", "extra"]


def mapper(text: str, columns: list[str] | None = None, file_format: str = "csv") -> LineMapper:
    named = parse_mapping(f'format = "{file_format}"\nheader = []\n{text}', "mine")
    return LineMapper(named, COLUMNS if columns is None else columns, KINDS, "f00d")


def click(fields: str = "", ts: str = '"at"', more: str = "") -> LineMapper:
    return mapper(
        f'{more}\n[[events]]\ntype = {{ value = "click" }}\nuser_id = "user"\n'
        f'item_id = "page"\nts = {ts}\n{fields}'
    )


def only(events: list[Event]) -> Any:
    (event,) = events
    return event


def test_a_line_becomes_an_event_with_the_file_and_line_as_its_id() -> None:
    event = only(click().map_line(["u", "p", "1000", ""], 7))
    assert event == Click(user_id="u", item_id="p", ts=1000, event_id="f00d:7")


def test_ids_stay_texts_whatever_they_look_like() -> None:
    event = only(click().map_line(["007", "null", "1", ""], 1))
    assert (event.user_id, event.item_id) == ("007", "null")


@pytest.mark.parametrize(
    ("ts", "cell", "expected_ms"),
    [
        ('{ column = "at", unit = "s" }', "1.5", 1_500),
        ('{ column = "at", unit = "us" }', "1500000", 1_500),
        ('{ column = "at", format = "iso" }', "1970-01-01T00:00:02Z", 2_000),
        ('{ column = "at", format = "iso", zone = "Europe/Berlin" }', "1970-01-01 01:00:03", 3_000),
        ('{ column = "at", format = "%d.%m.%Y %H:%M" }', "02.01.1970 00:00", 86_400_000),
    ],
)
def test_times_are_read_in_their_unit_format_and_zone(ts: str, cell: str, expected_ms: int) -> None:
    assert only(click(ts=ts).map_line(["u", "p", cell, ""], 1)).ts == expected_ms


@pytest.mark.parametrize("cell", ["noon", "", "-5", "99999999999999999", "1e3x"])
def test_a_time_that_is_none_rejects_the_line(cell: str) -> None:
    with pytest.raises(LineRejected, match="_ts"):
        click().map_line(["u", "p", cell, ""], 1)


@pytest.mark.parametrize("cell", ["nan", "inf", "-1", "1e10", "dear"])
def test_a_price_out_of_bounds_rejects_the_line(cell: str) -> None:
    with pytest.raises(LineRejected, match="invalid_price"):
        click('price = "extra"').map_line(["u", "p", "1", cell], 1)


def test_the_first_alternative_that_is_not_empty_counts() -> None:
    choice = click('session_id = ["extra", { column = "user", prefix = "s-" }]')
    assert only(choice.map_line(["u", "p", "1", "x"], 1)).session_id == "x"
    assert only(choice.map_line(["u", "p", "1", ""], 1)).session_id == "s-u"


def test_a_kind_is_translated_and_an_unknown_one_rejects() -> None:
    kinds = mapper(
        '[[events]]\ntype = { column = "extra", translate = { view = "click" } }\n'
        'user_id = "user"\nitem_id = "page"\nts = "at"'
    )
    assert isinstance(only(kinds.map_line(["u", "p", "1", "view"], 1)), Click)
    with pytest.raises(LineRejected, match="unknown_type"):
        kinds.map_line(["u", "p", "1", "stare"], 1)


@pytest.mark.parametrize(
    ("condition", "rejected", "kept"),
    [
        ("empty = true", "", "x"),
        ("empty = false", "x", ""),
        ('equals = "bot"', "bot", "human"),
        ('one_of = ["bot", "spider"]', "spider", "human"),
        ("matches = '^b'", "bot", "robot"),
        ("matches = '^b'\nnegate = true", "robot", "bot"),
        ("above = 5", "5.5", "5"),
        ("below = -1", "-2", "-1"),
    ],
)
def test_a_condition_rejects_under_its_reason(condition: str, rejected: str, kept: str) -> None:
    rule = click(more=f'[[reject]]\nreason = "because"\ncolumn = "extra"\n{condition}')
    assert rule.map_line(["u", "p", "1", kept], 1)
    with pytest.raises(LineRejected, match="because"):
        rule.map_line(["u", "p", "1", rejected], 1)


def test_a_search_on_several_lines_counts_once() -> None:
    searches = mapper(
        '[[events]]\ntype = { value = "search" }\nonce = ["user", "at"]\nsuffix = "s"\n'
        'user_id = "user"\nquery = "extra"\nts = "at"\n'
    )
    assert only(searches.map_line(["u", "p", "1", "tea"], 1)).event_id == "f00d:1s"
    assert searches.map_line(["u", "q", "1", "tea"], 2) == []
    assert searches.n_repeated == 1


def test_a_rejected_line_does_not_use_up_its_search() -> None:
    both = mapper(
        '[[events]]\ntype = { value = "search" }\nonce = ["user"]\nsuffix = "s"\n'
        'user_id = "user"\nquery = "extra"\nts = "at"\n'
        '[[events]]\ntype = { value = "click" }\nuser_id = "user"\nitem_id = "page"\nts = "at"\n'
    )
    with pytest.raises(LineRejected, match="missing_item_id"):
        both.map_line(["u", "", "1", "tea"], 1)
    assert len(both.map_line(["u", "p", "1", "tea"], 2)) == 2


def test_a_line_that_fits_no_event_is_rejected() -> None:
    with pytest.raises(LineRejected, match="no_event"):
        click('when = [{ column = "extra", equals = "x" }]').map_line(["u", "p", "1", "y"], 1)


def test_an_item_is_given_again_when_it_changes() -> None:
    items = mapper(
        '[item]\nitem_id = "page"\nprice = "extra"\ncategory = { column = "user", split = "." }'
    )
    assert items.map_item(["a.b", "p", "", "2"]) == Item(
        item_id="p", price=2.0, category=["a", "b"]
    )
    assert items.map_item(["a.b", "p", "", "2"]) is None
    assert items.map_item(["a.b", "p", "", "3"]) is not None


def test_an_item_with_refresh_first_is_given_once() -> None:
    items = mapper('[item]\nitem_id = "page"\nprice = "extra"\nrefresh = "first"')
    assert items.map_item(["", "p", "", "2"]) is not None
    assert items.map_item(["", "p", "", "3"]) is None


def test_json_columns_reach_into_nested_objects() -> None:
    nested = mapper(
        '[[events]]\ntype = { value = "click" }\nuser_id = "who.id"\nitem_id = "what"\nts = "at"',
        file_format="jsonl",
    )
    row = {"who": {"id": "u"}, "what": "p", "at": 5}
    assert only(nested.map_line(row, 1)) == Click(user_id="u", item_id="p", ts=5, event_id="f00d:1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[item]\nitem_id = "pag"', "no column 'pag'"),
        ("[item]\nitem_id = {}", "exactly one of column and value"),
        ("[item]\nitem_id = []", "names no column"),
        ('[item]\nitem_id = "page"\nwhen = [{ column = "page" }]', "exactly one of"),
        ('[item]\nitem_id = "page"\nwhen = [{ column = "page", matches = "(" }]', "no pattern"),
        ('[item]\nitem_id = { column = "page", unit = "s" }', "for ts only"),
        ('[[events]]\ntype = "page"\nuser_id = "user"', "the field ts is missing"),
        ('[[events]]\ntype = "page"\nuser_id = "user"\nts = "at"\npice = "at"', "events.pice"),
        (
            '[[events]]\ntype = "page"\nuser_id = "user"\n'
            'ts = { column = "at", format = "iso", zone = "Mars" }',
            "no time zone 'Mars'",
        ),
    ],
)
def test_a_mapping_that_cannot_work_says_why(text: str, message: str) -> None:
    with pytest.raises(MappingError, match=message.replace("(", r"\(")):
        mapper(text)


def test_the_mapping_in_the_documentation_works() -> None:
    page = (Path(__file__).parents[3] / "docs" / "mappings.md").read_text("utf-8")
    text = page.split("```toml\n")[1].split("```")[0]
    columns = ["listener", "track", "action", "at", "stars", "title", "genre"]
    example = LineMapper(parse_mapping(text, "docs"), columns, KINDS, "f00d")
    row = ["7", "t1", "liked", "01.01.1970 01:00:05", "", "Song", "rock/indie"]
    review = only(example.map_line(row, 2))
    assert (review.user_id, review.rating, review.ts) == ("l-7", 5.0, 5_000)
    assert example.map_item(row) == Item(item_id="t1", title="Song", category=["rock", "indie"])
    with pytest.raises(LineRejected, match="robot"):
        example.map_line(["bot-1", *row[1:]], 3)
