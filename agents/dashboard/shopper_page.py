"""One shopper: search box, profile, list with reasons, and a button that sends an event.

Whom this browser looks at, what it typed and the list it compares with live in its `ShopperPage`.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec
from nicegui import events, ui

from agents.dashboard.markup import Html, clock, join, millis, number, table, tag
from agents.dashboard.shopper import (
    ClickLost,
    ListedItem,
    Move,
    ReasonLine,
    SentEvent,
    ShopperDesk,
    ShopperState,
    gone_between,
    moves_between,
)
from profiles.errors import ProfilesError
from streams.errors import StreamsError
from streams.events import Recommendation

MAX_ID = 256
"""Characters of an id, as in the events' schema."""

SELDOM = 10
"""Refreshes between two looks at what the scorer has emitted: every five seconds."""

CHOSEN = """(event) => {
    const button = event.target.closest("[data-choice]");
    if (button) emit(button.dataset.choice);
}"""
"""Clicks on buttons inside plain HTML, told by what the button stands for."""

MOVE_TONES = {"▲": "up", "▼": "down", "n": "new"}


class ListRow:
    """One place of the list; the same elements whatever item stands there."""

    def __init__(self, page: ShopperPage, number: int) -> None:
        self.item: ListedItem | None = None
        with ui.element("li").classes("entry") as self._row:
            ui.label(str(number)).classes("rank")
            self._move = ui.html("", sanitize=False).classes("move")
            self._what = ui.html("", sanitize=False).classes("what")
            self._score = ui.label("").classes("score")
            button = ui.button(on_click=lambda: page.send_row(self)).props("flat dense no-caps")
            button.bind_text_from(page.kind, "value")
        self._row.set_visibility(False)

    def show(self, item: ListedItem | None, move: Move | None) -> None:
        """Show an item, and how it stands against the list before; None empties the place."""
        self.item = item
        self._row.set_visibility(item is not None)
        if item is None:
            return
        text = "" if move is None else move.text
        tone = MOVE_TONES.get(text[:1], "")
        self._move.set_content(tag("span", text, class_=tone) if text else "")
        self._what.set_content(
            join(
                [
                    tag("span", item.title, class_="title"),
                    tag("span", item.subtitle, class_="sub"),
                    reasons_line(item.reasons),
                ]
            )
        )
        self._score.set_text(f"{item.score:.2f}")


class ShopperPage:
    """One browser's view of one shopper."""

    def __init__(self, desk: ShopperDesk) -> None:
        self._desk = desk
        self._user = ""
        self._shown: ShopperState | None = None
        self._before: tuple[ListedItem, ...] | None = None  # the list before our last event
        self._is_looking = False
        self._is_sending = False
        self._ticks = 0

    def build(self) -> None:
        """Make the elements; `choose` and `refresh` fill them."""
        with ui.element("section").classes("card find"):
            with ui.element("div").classes("line"):
                self._box = ui.input("Shopper (user id)").props(
                    f"outlined dense maxlength={MAX_ID} clearable"
                )
                self._box.on("keydown.enter", lambda: self.choose(self._box.value or ""))
                ui.button("Show", on_click=lambda: self.choose(self._box.value or "")).props(
                    "unelevated no-caps"
                )
            self._recent = ui.html("", sanitize=False).classes("chips")
            self._recent.on("click", self._choose_recent, js_handler=CHOSEN)
        self._notice = ui.html("", sanitize=False)
        with ui.element("div").classes("two shopper") as self._body:
            with ui.element("section").classes("card"):
                self._profile = ui.html("", sanitize=False)
            with ui.element("section").classes("card"):
                ui.html(
                    tag("h2", "Recommendations", tag("small", "as of now, with reasons")),
                    sanitize=False,
                )
                self._build_sending()
                self._result = ui.html("", sanitize=False).classes("result")
                with ui.element("ol").classes("list"):
                    self._rows = [ListRow(self, n + 1) for n in range(self._desk.n_items)]
                self._gone = ui.html("", sanitize=False).classes("gone")
                self._pushed = ui.html("", sanitize=False).classes("pushed")
        self._body.set_visibility(False)

    def _build_sending(self) -> None:
        with ui.element("div").classes("line send"):
            self.kind = ui.select(list(self._desk.kinds), value="click", label="Event").props(
                "outlined dense options-dense"
            )
            self._item = ui.input("Item: title or id").props(
                f"outlined dense maxlength={MAX_ID} clearable debounce=200 autocomplete=off"
            )
            self._item.on_value_change(self._find_items)
            self._item.on("keydown.enter", self._send_typed)
            self._button = ui.button("Send", on_click=self._send_typed).props("unelevated no-caps")
        self._found = ui.html("", sanitize=False).classes("found")
        self._found.on("click", self._choose_item, js_handler=CHOSEN)

    def choose(self, user_id: str) -> None:
        """Show another shopper."""
        user_id = user_id.strip()[:MAX_ID]
        if user_id == self._user:
            return
        self._user = user_id
        self._before = self._shown = None
        self._box.set_value(user_id)
        self._result.set_content("")
        self._gone.set_content("")
        self._pushed.set_content("")
        self._ticks = 0
        self._notice.set_content("")
        self._body.set_visibility(False)
        ui.navigate.history.replace(f"/shopper?user={quote(user_id, safe='')}")

    async def refresh(self) -> None:
        """Look again; a look that takes longer than the timer is not doubled."""
        if self._is_looking:
            return
        self._is_looking = True
        try:
            if self._ticks % SELDOM == 0:
                await self._show_emitted()
            self._ticks += 1
            user_id = self._user
            if user_id and not self._is_sending:
                state = await self._desk.look(user_id)
                if user_id == self._user and not self._is_sending:
                    self._show(state)
                    self._notice.set_content("")
        except (ProfilesError, StreamsError) as error:
            self._notice.set_content(tag("p", str(error), class_="notice bad"))
        finally:
            self._is_looking = False

    async def send_row(self, row: ListRow) -> None:
        """Send the chosen kind of event for the item in a place of the list."""
        if row.item is not None:
            await self._send(row.item.item_id)

    async def _send_typed(self) -> None:
        """Send for what stands in the item box: an id, or the first item found by title."""
        text = (self._item.value or "").strip()
        if not text:
            self._tell("Choose an item first: type part of its title, or its id.")
            return
        found = await self._desk.find_items(text, 1)
        await self._send(found[0][0] if found else text)

    async def _send(self, item_id: str) -> None:
        if self._is_sending or not self._user:
            return
        user_id = self._user
        self._is_sending = True
        self._button.props("loading")
        try:
            sent = await self._desk.send(user_id, str(self.kind.value), item_id)
        except (ClickLost, ProfilesError, StreamsError, msgspec.ValidationError) as error:
            self._tell(str(error))
        else:
            if user_id == self._user:
                self._before = sent.before.items
                self._show(sent.after)
                self._result.set_content(result_of(sent))
        finally:
            self._is_sending = False
            self._button.props(remove="loading")

    async def _find_items(self) -> None:
        text = self._item.value or ""
        found = await self._desk.find_items(text)
        if text != (self._item.value or ""):
            return  # typed on meanwhile
        is_chosen = any(item_id == text for item_id, _ in found)
        self._found.set_content("" if is_chosen else choices(found))

    def _choose_item(self, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, str):
            self._item.set_value(event.args[:MAX_ID])
            self._found.set_content("")

    def _choose_recent(self, event: events.GenericEventArguments) -> None:
        if isinstance(event.args, str):
            self.choose(event.args)

    async def _show_emitted(self) -> None:
        """What the scorer has pushed: to whom lately, and last to this shopper."""
        user_id = self._user
        users = await self._desk.recent_users()
        self._recent.set_content(
            join([tag("span", "lately active: ", class_="hint"), choices([(u, u) for u in users])])
            if users
            else tag("span", "Nobody has got a list yet.", class_="hint")
        )
        pushed = await self._desk.last_pushed(user_id) if user_id else None
        if user_id == self._user:
            self._pushed.set_content("" if pushed is None else pushed_line(pushed))

    def _show(self, state: ShopperState) -> None:
        self._body.set_visibility(True)
        if state == self._shown:
            return
        self._shown = state
        self._profile.set_content(profile_of(state))
        before = self._before
        moves = {} if before is None else moves_between(before, state.items)
        for number_of_row, row in enumerate(self._rows):
            item = state.items[number_of_row] if number_of_row < len(state.items) else None
            row.show(item, moves.get(item.item_id) if item else None)
        gone = [] if before is None else gone_between(before, state.items)
        self._gone.set_content(
            join(["Left the list: ", ", ".join(item.title for item in gone)]) if gone else ""
        )

    def _tell(self, text: str) -> None:
        self._result.set_content(tag("p", text, class_="notice bad"))


def choices(options: Sequence[tuple[str, str]]) -> Html:
    """Buttons to choose from: (what it stands for, what it says)."""
    return join(
        tag(
            "button",
            says,
            tag("small", stands_for) if says != stands_for else "",
            type="button",
            data_choice=stands_for,
        )
        for stands_for, says in options
    )


def reasons_line(reasons: Sequence[ReasonLine]) -> Html:
    """Why an item is listed: the past events behind it."""
    if not reasons:
        return tag("span", "popular now", class_="why")
    return tag(
        "span",
        "because of ",
        join(
            tag("span", f"{reason.kind} ", tag("i", reason.title), f" {reason.share:.0%}")
            for reason in reasons
        ),
        class_="why",
    )


def result_of(sent: SentEvent) -> Html:
    """What one event of ours did, in people's words."""
    return tag(
        "p",
        tag("b", "New list after ", millis(sent.list_ms), data_list_ms=f"{sent.list_ms:.1f}"),
        f" ({sent.kind} “{sent.title}”; Kafka had it after ",
        millis(sent.ack_ms),
        f", partition {sent.partition}, offset {sent.offset}). ",
        sent.summary,
        class_="notice good",
    )


def pushed_line(pushed: Recommendation) -> Html:
    """The list that the scorer emitted last for this shopper."""
    stamps = pushed.stamps
    fresh_ms = None if stamps.appended_ms is None else stamps.emitted_ms - stamps.appended_ms
    return join(
        [
            "The scorer last pushed a list at ",
            clock(stamps.emitted_ms),
            f" UTC: {len(pushed.items)} items, profile at offset ",
            number(pushed.profile_offset),
            ", ",
            millis(fresh_ms),
            " after the event was appended.",
        ]
    )


def profile_of(state: ShopperState) -> Html:
    """Counts, times and history of a shopper."""
    title = tag("h2", "Profile", tag("small", f"{state.user_id} · partition {state.partition}"))
    if not state.known:
        return join(
            [
                title,
                tag(
                    "p",
                    "No event of this shopper was folded yet. The list is what is popular; "
                    "send a click to begin a profile.",
                    class_="empty",
                ),
            ]
        )
    counts = tag(
        "div",
        *(tag("span", tag("b", number(n)), f" {kind}", class_="count") for kind, n in state.counts),
        class_="counts",
    )
    times = tag(
        "dl",
        *(
            tag("div", tag("dt", name), tag("dd", value))
            for name, value in (
                ("First event", clock(state.first_ms)),
                ("Last event", clock(state.last_ms)),
                ("Last offset", number(state.last_offset)),
                ("Embedding", "yes" if state.has_vector else "not yet"),
            )
        ),
    )
    if not state.history:
        return join([title, counts, times, tag("p", "No positive event yet.", class_="empty")])
    rows = [
        [past.kind, past.title, tag("span", clock(past.time_ms), class_="time")]
        for past in state.history
    ]
    history = table(["Event", "Item", "When (UTC)"], rows, class_="history")
    return join([title, counts, times, tag("h3", "History, newest first"), history])
