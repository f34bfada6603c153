"""Stops a worker between two chosen steps of the main path, as a crash at that moment would."""

from __future__ import annotations

import asyncio

from agents.chaos.points import POINTS, hook
from tests.builders import InProcess

__all__ = ["POINTS", "Abort", "Fault"]


class Abort(BaseException):
    """The worker is gone from here on. No `Exception`: nothing may have an answer for it."""


class Fault:
    """Ends a worker when it comes to `point` for the `visit`-th time.

    reached: set then. From that moment on every point ends whoever comes to it: a process that is
    gone does nothing more on its other partitions either.
    """

    def __init__(self, running: InProcess, point: str, visit: int) -> None:
        assert point in POINTS
        self.reached = asyncio.Event()
        self._point = point
        self._left = visit
        self._sending = hook(running.worker, self.reach)

    def reach(self, point: str) -> None:
        """Raises Abort at the chosen visit of the chosen point, and everywhere after it."""
        if point == self._point and not self.reached.is_set():
            self._left -= 1
            if self._left == 0:
                self.reached.set()
        if self.reached.is_set():
            raise Abort(point)

    async def settled(self) -> None:
        """See the errors that nobody is left to see."""
        tasks = [task for task in self._sending if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
