"""Nothing that a shop or a sender wrote becomes HTML."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agents.dashboard.dead_letters import line_of, readable
from agents.dashboard.dead_letters_page import lines_table
from agents.dashboard.markup import chart, nice_ceiling, table, tag
from agents.dashboard.overview_page import MOST_PARTITIONS, partitions_table
from agents.dashboard.shopper import ListedItem, gone_between, moves_between
from agents.dashboard.state import PartitionState
from streams.batch import Reject
from streams.dead_letters import dead_letter


class Message:
    """A record of Kafka's."""

    def __init__(self, value: bytes | None, key: bytes | None = b"u", offset: int = 5) -> None:
        self.topic, self.partition, self.offset = "shop.events", 3, offset
        self.timestamp = 1_700_000_000_000
        self.key, self.value = key, value
        self.headers: list[tuple[str, bytes]] = []


def set_aside(value: bytes | None, detail: str = "no event") -> Message:
    """The message as it stands in the dead-letter topic."""
    letter = dead_letter(Reject(Message(value), "invalid_json", detail), "shop.events")
    message = Message(letter.value, letter.key, offset=0)
    message.headers = letter.headers
    return message


def test_a_dead_letter_names_reason_and_original_position() -> None:
    line = line_of(set_aside(b"{oops"))
    assert (line.code, line.detail) == ("invalid_json", "no event")
    assert line.source == "shop.events / 3 / 5"
    assert line.appended_ms == 1_700_000_000_000
    assert line.text == "{oops"


def test_a_message_that_is_no_dead_letter_is_shown_as_it_is() -> None:
    line = line_of(Message(b"\x00\xff"))
    assert (line.code, line.source) == ("unknown", "position not given")
    assert line.text == "\\x00\\xff"


@given(st.binary(max_size=300), st.text(max_size=50))
def test_bytes_of_any_kind_are_shown_as_text(value: bytes, detail: str) -> None:
    shown = readable(value)
    assert shown.isprintable()
    html = lines_table([line_of(set_aside(value, detail))])
    for dangerous in ("<script", "<img", "onerror=", "javascript:"):
        assert dangerous not in html.replace("&lt;", "")
    assert html.count("<td") == 6


def test_markup_in_values_and_attributes_is_escaped() -> None:
    html = table(["<i>"], [["<script>alert(1)</script>"]]) + tag("a", href='"><b>')
    assert "<script" not in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_a_chart_breaks_its_line_where_nothing_was_measured() -> None:
    assert chart([1.0, None, 2.0, 3.0], "ms", 10, "label").count("<polyline") == 2
    assert "now unknown" in chart([None, None], "ms", 10, "label")


@given(st.floats(min_value=0, max_value=1e12))
def test_a_scale_holds_its_largest_value_and_wastes_little(value: float) -> None:
    top = nice_ceiling(value)
    assert value <= top <= max(1.0, 2.6 * value)


def test_of_very_many_partitions_those_with_faults_come_first() -> None:
    partitions = [PartitionState(p, "running", 0, p, 0, 0, 0) for p in range(MOST_PARTITIONS + 9)]
    partitions[5] = PartitionState(5, "stopped", 0, 0, 0, 0, 0, fault="diverged")
    html = partitions_table(partitions)
    assert html.count("<tr>") == MOST_PARTITIONS + 1
    assert html.index("diverged") < html.index(">72<")


def listed(*item_ids: str) -> list[ListedItem]:
    return [ListedItem(n + 1, item_id, item_id, "", 1.0) for n, item_id in enumerate(item_ids)]


def test_moves_say_who_rose_fell_came_and_went() -> None:
    before, after = listed("a", "b", "c"), listed("c", "d", "b")
    moves = {item_id: move.text for item_id, move in moves_between(before, after).items()}
    assert moves == {"c": "▲ 2", "d": "new", "b": "▼ 1"}
    assert [item.item_id for item in gone_between(before, after)] == ["a"]
