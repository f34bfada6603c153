"""The overview: totals, two charts, agents, partitions."""

from __future__ import annotations

from collections.abc import Sequence

from nicegui import ui

from agents.dashboard.markup import Html, badge, chart, h, join, millis, number, table, tag
from agents.dashboard.quality import quality_table
from agents.dashboard.state import (
    HISTORY,
    AgentState,
    DashboardState,
    PartitionState,
    Totals,
)

MOST_PARTITIONS = 64
"""Rows of the partitions table; beyond it those that need a look come first."""


class OverviewPage:
    """One browser's overview."""

    def build(self) -> None:
        """Make the elements; `show` fills them."""
        self._tiles = _block("tiles")
        with ui.element("div").classes("two"):
            with ui.element("section").classes("card"):
                ui.html(_title("Events folded per second", "last two minutes"), sanitize=False)
                self._rates = _block()
            with ui.element("section").classes("card"):
                ui.html(
                    _title("Freshness, ms", "median from an event's append to the new list"),
                    sanitize=False,
                )
                self._freshness = _block()
        with ui.element("section").classes("card"):
            ui.html(_title("Agents"), sanitize=False)
            self._agents = _block("wide")
        with ui.element("section").classes("card"):
            ui.html(_title("Partitions"), sanitize=False)
            self._partitions = _block("wide")
        with ui.element("section").classes("card"):
            ui.html(_title("Quality", "events ranked before they are learned"), sanitize=False)
            self._quality = _block("wide")

    def show(self, state: DashboardState) -> None:
        """Fill in a state; what has not changed is not sent."""
        self._tiles.set_content(tiles(state.totals, state.uptime_s))
        self._rates.set_content(chart(state.rates, "events/s", HISTORY, "Events folded per second"))
        self._freshness.set_content(
            chart(state.freshness, "ms", HISTORY, "Median freshness in milliseconds")
        )
        self._agents.set_content(agents_table(state.agents))
        self._partitions.set_content(partitions_table(state.partitions))
        self._quality.set_content(quality_table(state.quality))


def _block(classes: str = "") -> ui.html:
    # Everything is escaped in `markup`; the browser's sanitiser would only cost time.
    return ui.html("", sanitize=False).classes(classes)


def _title(text: str, note: str = "") -> Html:
    return tag("h2", text, tag("small", note)) if note else tag("h2", text)


def tiles(totals: Totals, uptime_s: float) -> Html:
    """The figures that people look at first."""
    figures: list[tuple[str, object, object]] = [
        ("Events/s", number(totals.rate_per_s), f"{totals.n_events:,} since start"),
        ("Lag", number(totals.lag), "events not yet folded"),
        ("Freshness p50", millis(totals.p50_ms), join(["p99 ", millis(totals.p99_ms)])),
        ("Lists/s", number(totals.lists_per_s), f"{totals.n_lists:,} since start"),
        ("Items", number(totals.n_items), f"catalogue: {totals.n_catalogue:,}"),
        ("Profiles in memory", number(totals.n_profiles), join(["up ", millis(uptime_s * 1_000)])),
        ("Dead letters", number(totals.n_dead_letters), "since start"),
    ]
    return join(
        tag(
            "div",
            tag("span", name, class_="what"),
            tag("span", value, class_="value"),
            tag("span", note, class_="note"),
            class_="tile",
            data_tile=name,
        )
        for name, value, note in figures
    )


def agents_table(agents: Sequence[AgentState]) -> Html:
    """One row for each agent of this worker."""
    head = ["Agent", "State", "Per second", "Lag", "p50", "p99", "Commits", "Errors", "Fenced", ""]
    rows = [
        [
            tag("b", agent.name),
            badge(agent.state),
            number(agent.rate_per_s),
            number(agent.lag),
            millis(agent.p50_ms),
            millis(agent.p99_ms),
            number(agent.commits),
            number(agent.errors),
            number(agent.fenced),
            tag(
                "small",
                "; ".join(
                    filter(None, [agent.detail, agent.measures and f"p50/p99: {agent.measures}"])
                ),
            ),
        ]
        for agent in agents
    ]
    return table(head, rows, numeric=range(2, 9))


def partitions_table(partitions: Sequence[PartitionState]) -> Html:
    """One row for each partition; of very many, those that need a look."""
    if not partitions:
        return tag("p", "No partition is assigned to this worker.", class_="empty")
    shown = list(partitions)
    note = h("")
    if len(shown) > MOST_PARTITIONS:
        shown.sort(key=lambda one: (one.fault is None, one.state == "running", -(one.lag or 0)))
        shown = shown[:MOST_PARTITIONS]
        note = tag("p", f"{len(shown)} of {len(partitions)}: faults and the longest lag first.")
    head = [
        "Partition",
        "State",
        "Next offset",
        "Lag",
        "Profiles in memory",
        "Events folded",
        "Dead letters",
        "Fault",
    ]
    rows = [
        [
            one.partition,
            badge(one.state),
            number(one.next_offset),
            number(one.lag),
            number(one.n_cached),
            number(one.n_events),
            number(one.n_dead_letters),
            tag("span", one.fault, class_="fault") if one.fault else "",
        ]
        for one in shown
    ]
    return join([table(head, rows, numeric=range(2, 7)), note])
