"""Keeps the candidates of large catalogues up, in a thread, while events move the items."""

from __future__ import annotations

import asyncio
import time

from mode import Service

from profiles.candidates import Candidates

PAUSE_S = 0.25
"""Between two refreshes: about what lies between two looks of the view."""

SHARE = 4
"""A refresh is followed by so many times its own length of rest: it takes a fifth of a core."""


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
            await asyncio.to_thread(self._candidates.refresh, started)
            took_s = time.monotonic() - started
            await self.sleep(max(PAUSE_S, SHARE * took_s))
