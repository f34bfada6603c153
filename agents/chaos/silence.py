"""Does a partition stand still while every worker says that it is ready? For how long at most?

A standstill that `/readyz` tells, or that comes with a worker that is gone, is no silent one. What
stays true: an answer that did not come counts as told, so a machine that is busy finds less, never
more.
"""

from __future__ import annotations

import asyncio
import bisect
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple, Self

from agents.chaos.background import ended
from agents.chaos.worker_process import WorkerProcess

LOOK_S = 0.25


class Look(NamedTuple):
    """One question to all workers. ready: each ran and said that it does all of its work."""

    at_s: float
    ready: bool


class Listener:
    """Asks `/readyz` of all workers again and again, from `async with` to its end.

    workers: says whom, at each look; nobody there is not ready. looks: all, in their order.
    """

    def __init__(self, workers: Callable[[], Sequence[WorkerProcess]]) -> None:
        self.looks: list[Look] = []
        self._workers = workers
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._listen(), name="listener")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await ended(self._task)

    async def _listen(self) -> None:
        while True:
            workers = list(self._workers())
            ready = bool(workers) and all(worker.alive() for worker in workers)
            if ready:
                answers = await asyncio.gather(*(w.ask("/readyz", timeout_s=2.0) for w in workers))
                ready = all(status == 200 for status, _ in answers)
            self.looks.append(Look(time.monotonic(), ready))
            await asyncio.sleep(LOOK_S)


def longest_silence(moves: Sequence[float], looks: Sequence[Look]) -> float:
    """The longest time, seconds, without a move and with no look but good ones.

    moves: moments at which a partition moved, rising. What makes sense only while events keep
    coming for it.

    >>> looks = [Look(0, False), Look(1, True), Look(2, True), Look(5, True), Look(6, False)]
    >>> longest_silence([], looks), longest_silence([1.5, 4.0], looks)
    (4, 1.0)
    """
    longest, ready_since = 0.0, None
    for at_s, ready in looks:
        if not ready:
            ready_since = None
            continue
        if ready_since is None:
            ready_since = at_s
        n = bisect.bisect_right(moves, at_s)
        still_since = max(ready_since, moves[n - 1]) if n else ready_since
        longest = max(longest, at_s - still_since)
    return longest
