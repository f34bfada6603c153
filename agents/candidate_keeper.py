"""Keeps the candidates of large catalogues up, in a thread, while events move the items."""

from __future__ import annotations

import asyncio
import time

import structlog
from mode import Service

from profiles.candidates import Candidates

logger = structlog.get_logger(__name__)

PAUSE_S = 0.25
"""Between two refreshes: about what lies between two looks of the view."""

SHARE = 4
"""A refresh is followed by so many times its own length of rest: it takes a fifth of a core."""

MOST_REST_S = 5.0
"""The longest rest: new cells for a million items take 20 s, and candidates must not age for four
times that."""


class CandidateKeeper(Service):
    """Refreshes the candidates for as long as it runs; until the first time, every item is scored.

    Only a small catalogue is ready at once: cells for a million items take some 20 s.
    """

    def __init__(self, candidates: Candidates) -> None:
        super().__init__()
        self._candidates = candidates

    @Service.task
    async def _keep(self) -> None:
        while not self.should_stop:
            started = time.monotonic()
            try:
                await asyncio.to_thread(self._candidates.refresh, started)
            except Exception:  # what is there goes on serving, or every item is scored
                logger.exception("candidates not refreshed")
            took_s = time.monotonic() - started
            await self.sleep(min(MOST_REST_S, max(PAUSE_S, SHARE * took_s)))

    async def on_stop(self) -> None:
        """Cut a refresh short: a thread can't be cancelled, and new cells take 20 s."""
        self._candidates.stop()
