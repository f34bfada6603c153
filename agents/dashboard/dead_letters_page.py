"""The dead letters set aside last, read from the end of their topic."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from agents.dashboard.dead_letters import DeadLetterLine, line_of
from agents.dashboard.markup import Html, clock, table, tag
from agents.dashboard.recent import RecentMessages
from streams.errors import BrokerAway

SHOWN = 50


class DeadLettersPage:
    """One browser's view of them."""

    def __init__(self, topic: RecentMessages) -> None:
        self._topic = topic
        self._is_reading = False

    def build(self) -> None:
        """Make the elements; `refresh` fills them."""
        with ui.element("section").classes("card"):
            ui.html(
                tag(
                    "h2",
                    "Dead letters",
                    tag("small", f"the last {SHOWN}; times in UTC; original bytes as text"),
                ),
                sanitize=False,
            )
            self._lines = ui.html(tag("p", "Reading …", class_="empty"), sanitize=False).classes(
                "wide"
            )

    async def refresh(self) -> None:
        """Read the topic's end again; a read that takes longer than the timer is not doubled."""
        if self._is_reading:
            return
        self._is_reading = True
        try:
            messages = await self._topic.last(SHOWN)
        except BrokerAway as away:
            self._lines.set_content(tag("p", str(away), class_="notice bad"))
            return
        finally:
            self._is_reading = False
        self._lines.set_content(lines_table([line_of(message) for message in messages[:SHOWN]]))


def lines_table(lines: Sequence[DeadLetterLine]) -> Html:
    """A row for each dead letter, newest first."""
    if not lines:
        return tag("p", "None. Every message so far was an event.", class_="empty")
    rows = [
        [
            tag("span", clock(line.time_ms), class_="time"),
            tag("span", line.code, class_="badge warn"),
            line.detail,
            tag("span", line.source, class_="mono"),
            tag("span", line.key, class_="mono"),
            tag("code", line.text),
        ]
        for line in lines
    ]
    head = ["Set aside", "Code", "Why", "Topic / partition / offset", "Key", "Bytes"]
    return table(head, rows, class_="letters")
