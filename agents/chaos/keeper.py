"""Keeps workers running, as an orchestrator does: starts again what ended or stopped living.

What stays true: it decides by exit and `/livez` alone, never by what a worker has folded.
"""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import NamedTuple, Self

from agents.chaos.background import ended
from agents.chaos.worker_process import WorkerProcess

LOOK_S = 0.25
LIVEZ_FAILURES = 3
"""In a row, a second apart, before a worker is killed for not living."""

SIGKILLED, SIGTERMED = 137, 143
OURS = (SIGKILLED, SIGTERMED, 0, None)
"""How a worker ends that was killed or asked to stop (143: it was only starting); any other code is
its own, though it was struck: it had ended just before. None: nobody was left to tell."""


class End(NamedTuple):
    """Of a process. code: 128 + number for a signal. at_s: monotonic, when it was seen."""

    worker: str
    code: int | None
    at_s: float


class Keeper:
    """Keeps the workers that it was given, from `async with` to its end.

    exits: those that ended by themselves, not those that the scenario ended. stops: those that were
    asked to. n_restarts_for_livez: killed because it said that it does not live. Workers in
    `left_alone` are the scenario's for a while.
    """

    def __init__(self) -> None:
        self.workers: list[WorkerProcess] = []
        self.left_alone: set[WorkerProcess] = set()
        self.exits: list[End] = []
        self.stops: list[End] = []
        self.n_restarts_for_livez = 0
        self._struck: set[WorkerProcess] = set()
        self._task: asyncio.Task[None] | None = None
        self._bad: dict[WorkerProcess, int] = {}
        self._asked: dict[WorkerProcess, float] = {}

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._keep(), name="keeper")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await ended(self._task)
        await asyncio.gather(*(worker.kill() for worker in self.workers if worker.alive()))

    async def keep(self, worker: WorkerProcess) -> None:
        """Start it, and again whenever it ends."""
        await worker.start()
        self.workers.append(worker)

    async def kill(self, worker: WorkerProcess) -> None:
        """SIGKILL; it is started again, and its end is ours. Harmless when it is gone."""
        if worker.alive():
            self._struck.add(worker)
            await worker.kill()

    async def stop(self, worker: WorkerProcess) -> None:
        """A graceful stop; then it is started again. Harmless when it is gone."""
        self.left_alone.add(worker)
        try:
            if worker.alive():
                self._struck.add(worker)
                await worker.terminate()
                worker.alive()  # notes the exit code
                self.stops.append(End(worker.name, worker.exit_code, time.monotonic()))
        finally:
            self.left_alone.discard(worker)

    async def let_go(self, worker: WorkerProcess) -> None:
        """A graceful stop, for good."""
        self.workers.remove(worker)
        await worker.terminate()
        worker.alive()
        self.stops.append(End(worker.name, worker.exit_code, time.monotonic()))

    async def _keep(self) -> None:
        while True:
            for worker in list(self.workers):
                if worker in self.left_alone:
                    continue
                if not worker.alive():
                    self._note_end(worker)
                    await worker.start()
                elif time.monotonic() - self._asked.get(worker, 0.0) > 1.0:
                    await self._look(worker)
            await asyncio.sleep(LOOK_S)

    def _note_end(self, worker: WorkerProcess) -> None:
        """What the scenario struck has ended by its hand, unless it says otherwise itself."""
        struck = worker in self._struck
        self._struck.discard(worker)
        if not struck or worker.exit_code not in OURS:
            self.exits.append(End(worker.name, worker.exit_code, time.monotonic()))

    async def _look(self, worker: WorkerProcess) -> None:
        self._asked[worker] = time.monotonic()
        status, _ = await worker.ask("/livez", timeout_s=1.0)
        self._bad[worker] = self._bad.get(worker, 0) + 1 if status == 503 else 0
        if self._bad[worker] >= LIVEZ_FAILURES and worker not in self.left_alone:
            self._bad[worker] = 0
            self.n_restarts_for_livez += 1
            await worker.kill()
            await worker.start()
