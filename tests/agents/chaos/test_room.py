"""A run that measures time is alone among all processes of one file; the others share it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agents.chaos.room import Room
from tests.builders import until


class Runs:
    """Runs of one file, each in its own task with files of its own, as processes have them."""

    def __init__(self, results: Path) -> None:
        self.here: list[str] = []
        self.said: list[str] = []
        self._results = results
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, what: str, *, alone: bool) -> None:
        """Ask for room."""
        self._ends[what] = asyncio.Event()
        self._tasks[what] = asyncio.create_task(self._run(what, alone=alone))

    async def end(self, what: str) -> None:
        """Leave it."""
        self._ends[what].set()
        await self._tasks[what]

    async def _run(self, what: str, *, alone: bool) -> None:
        async with Room(self._results).held(what, alone=alone, say=self.said.append):
            self.here.append(what)
            await self._ends[what].wait()
            self.here.remove(what)


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Of a file that is not there yet."""
    return Runs(tmp_path / "new" / "chaos.jsonl")


async def test_untimed_runs_share_and_a_timed_one_waits_for_all_of_them(runs: Runs) -> None:
    for what in ("fuzz 0", "fuzz 1"):
        runs.begin(what, alone=False)
    await until(lambda: sorted(runs.here) == ["fuzz 0", "fuzz 1"], "both run")
    runs.begin("kill 0", alone=True)
    await until(lambda: bool(runs.said), "it says that it waits")
    (line,) = runs.said
    assert line.startswith("kill 0 waits for fuzz 0 (process ")
    assert "fuzz 1" in line
    await runs.end("fuzz 0")
    runs.begin("fuzz 2", alone=False)  # came later: goes later, or the timed one might never run
    await until(lambda: len(runs.said) == 2, "it waits, too")
    assert runs.here == ["fuzz 1"]
    await runs.end("fuzz 1")
    await until(lambda: runs.here == ["kill 0"], "the timed one runs, alone")
    runs.begin("kill 1", alone=True)
    await until(lambda: len(runs.said) == 3, "another one waits")
    await runs.end("kill 0")
    for _ in range(2):  # whichever asks first
        await until(lambda: bool(runs.here), "the next one gets its turn")
        (what,) = runs.here
        await runs.end(what)


async def test_who_has_gone_is_waited_for_no_more_by_name(runs: Runs) -> None:
    runs.begin("fuzz 0", alone=False)
    runs.begin("fuzz 1", alone=False)
    await until(lambda: len(runs.here) == 2, "both run")
    await runs.end("fuzz 0")
    runs.begin("kill 0", alone=True)
    await until(lambda: bool(runs.said), "it waits")
    assert "fuzz 0" not in runs.said[0]
    assert "fuzz 1" in runs.said[0]
    await runs.end("fuzz 1")
    await runs.end("kill 0")


HOLD = """
import asyncio, sys
from pathlib import Path
from agents.chaos.room import Room
async def hold():
    async with Room(Path(sys.argv[1])).held("soak 0", alone=True, say=print):
        print("here", flush=True)
        await asyncio.sleep(600)
asyncio.run(hold())
"""


def holder(results: Path) -> subprocess.Popen[str]:
    """A process that is alone."""
    command = [sys.executable, "-c", HOLD, str(results)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_another_process_is_waited_for_until_it_is_killed(runs: Runs, tmp_path: Path) -> None:
    results = tmp_path / "new" / "chaos.jsonl"
    with holder(results) as other:
        assert other.stdout is not None
        assert await asyncio.to_thread(other.stdout.readline) == "here\n"
        runs.begin("fuzz 0", alone=False)
        await until(lambda: bool(runs.said), "it says for whom it waits")
        assert runs.said == [f"fuzz 0 waits for soak 0 (process {other.pid})"]
        assert runs.here == []
        os.kill(other.pid, signal.SIGKILL)
        await until(lambda: runs.here == ["fuzz 0"], "the lock went with the process")
    await runs.end("fuzz 0")
