"""The pages: mounting NiceGUI on the worker's application, and the frame around each page.

Every browser gets elements of its own; what they show comes from the shared, finished
`DashboardState`, and nothing that one browser types is kept anywhere but in its own page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI
from nicegui import core, ui

from agents.dashboard.dead_letters_page import DeadLettersPage
from agents.dashboard.markup import h, join, tag
from agents.dashboard.overview_page import OverviewPage
from agents.dashboard.recent import RecentMessages
from agents.dashboard.shopper import ShopperDesk
from agents.dashboard.shopper_page import ShopperPage
from agents.dashboard.state import DashboardState

if TYPE_CHECKING:
    from agents.http.server import HttpServer

REFRESH_S = 0.5
"""Between two refreshes of a page: as often as there is a new state."""

LINKS = (("/", "Overview"), ("/shopper", "Shopper"), ("/dead-letters", "Dead letters"))

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M2 3h12v2H2zm0 4h8v2H2zm'
    '0 4h4v2H2z" fill="#3b6fd4"/></svg>'
)


class Pages:
    """All pages of one worker."""

    def __init__(self, server: HttpServer, dead_letters: RecentMessages) -> None:
        self._server = server
        self._dead_letters = dead_letters
        self._desk = ShopperDesk(server.worker)
        self._style = f"<style>{(Path(__file__).parent / 'style.css').read_text('utf-8')}</style>"

    async def close(self) -> None:
        """Close what the pages opened."""
        await self._desk.close()

    def mount(self, app: FastAPI) -> None:
        """Put the pages behind the application's own routes.

        NiceGUI is one for each process: a second worker in it takes the pages over.
        """
        core.app.user_middleware.clear()
        core.app.middleware_stack = None

        @ui.page("/", title="foldstream: overview")
        def overview() -> None:
            page = OverviewPage()
            self._frame("/", page.build)
            ui.timer(REFRESH_S, lambda: page.show(self._server.snapshot))

        @ui.page("/shopper", title="foldstream: shopper")
        async def shopper(user: str = "") -> None:
            page = ShopperPage(self._desk)
            self._frame("/shopper", page.build)
            page.choose(user)
            ui.timer(REFRESH_S, page.refresh)

        @ui.page("/dead-letters", title="foldstream: dead letters")
        def dead_letters() -> None:
            page = DeadLettersPage(self._dead_letters)
            self._frame("/dead-letters", page.build)
            ui.timer(0.1, page.refresh, once=True)
            ui.timer(3.0, page.refresh)

        ui.run_with(
            app,
            title="foldstream",
            favicon=ICON,
            dark=None,
            tailwind=False,
            reconnect_timeout=5.0,
            show_welcome_message=False,
        )

    def _frame(self, here: str, build: Callable[[], None]) -> None:
        """Head line with links and the worker's health, then the page's own elements."""
        ui.add_head_html(self._style)
        with ui.element("header").classes("top"):
            links = join(
                tag("a", name, href=path, aria_current="page" if path == here else None)
                for path, name in LINKS
            )
            ui.html(
                tag("div", tag("span", "fold", tag("b", "stream")), class_="name")
                + tag("nav", links),
                sanitize=False,
            ).classes("bar")
            health = ui.html("", sanitize=False).classes("health")
        with ui.element("main").classes("page"):
            build()

        def show_health() -> None:
            health.set_content(health_of(self._server.snapshot))

        show_health()
        ui.timer(REFRESH_S, show_health)


def health_of(state: DashboardState) -> str:
    """Ready or not, and the first cause; all of them as the hint."""
    if not state.causes:
        return tag("span", "ready", class_="badge good") + tag("span", state.instance)
    causes = [f"{cause.part}: {cause.cause}" for cause in state.causes]
    more = f" (+{len(causes) - 1})" if len(causes) > 1 else ""
    return tag("span", "not ready", class_="badge bad") + tag(
        "span", h(causes[0] + more), title="\n".join(causes)
    )
