"""Who may run beside whom, among all processes that add to one file of results.

A run that measures time has the machine for itself; the others share it. Both are locks on files
beside the results, so the kernel lets go of them for a process that is killed. What stays true:
whoever wants to be alone waits for those that run, and nobody who comes later goes first.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

POLL_S = 0.25


class Room:
    """Of the runs of one file of results."""

    def __init__(self, results: Path) -> None:
        self._folder = results.parent
        self._turn = results.with_name(f".{results.name}.turn")
        self._room = results.with_name(f".{results.name}.room")

    @asynccontextmanager
    async def held(
        self, what: str, *, alone: bool, say: Callable[[str], None]
    ) -> AsyncIterator[None]:
        """Wait for room and keep it; `say` is told for whom, once, if that takes time.

        what: the run's name, for those who wait for it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
        said = False

        async def locked(file: IO[bytes]) -> None:
            nonlocal said
            while True:
                try:
                    fcntl.flock(file, how | fcntl.LOCK_NB)
                except BlockingIOError:
                    if not said:
                        said = True
                        say(f"{what} waits for {self._others()}")
                    await asyncio.sleep(POLL_S)
                else:
                    return

        with self._room.open("ab") as room:
            with self._turn.open("ab") as turn:  # closing it lets the next one queue
                await locked(turn)
                await locked(room)
                if alone:
                    room.truncate(0)
                _note(room, f"+{os.getpid()} {what}")
            try:
                yield
            finally:
                _note(room, f"-{os.getpid()} {what}")

    def _others(self) -> str:
        """The runs that have room, as they have written themselves down."""
        left = Counter[str]()
        for line in self._room.read_text("utf-8").splitlines():
            left[line[1:]] += 1 if line[0] == "+" else -1
        here = [
            f"{what} (process {pid})"
            for pid, _, what in (line.partition(" ") for line in +left)
            if Path(f"/proc/{pid}").exists()
        ]
        return ", ".join(here) or "a run that waits to be alone"


def _note(file: IO[bytes], line: str) -> None:
    file.write(f"{line}\n".encode())
    file.flush()
