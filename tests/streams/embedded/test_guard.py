"""A guarded server ends with its parent, however the parent ends."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.embedded.guard import Guarded, process_runs, wait_gone
from streams.errors import EmbeddedError

WAIT_S = 15.0  # generous: the machine may be busy

PARENT = """
import os, sys, threading, time
from pathlib import Path
from streams.embedded.guard import Guarded

found = []
def spawn():
    found.append(Guarded("a server", ["sleep", "600"], Path(sys.argv[1]), grace_s=5))
thread = threading.Thread(target=spawn)
thread.start()
thread.join()
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(600)  # holds a copy of the pipe
print(found[0].pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Callable[[str], tuple[subprocess.Popen[str], int]]]:
    """``parent(mode)``: a process that guards a server from a thread that ended; its id."""
    started: list[subprocess.Popen[str]] = []

    def start(mode: str) -> tuple[subprocess.Popen[str], int]:
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path / "log"), mode],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        assert process.stdout is not None
        with process.stdout:
            return process, int(process.stdout.readline())

    yield start
    for process in started:
        # The whole session: the fork of the parent too.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_server_outlives_the_thread_that_started_it(
    parent: Callable[[str], tuple[subprocess.Popen[str], int]],
) -> None:
    _, server = parent("plain")
    assert not wait_gone(server, 1.0)


@pytest.mark.parametrize("mode", ["plain", "fork"])
def test_a_killed_parent_takes_its_server_along(
    parent: Callable[[str], tuple[subprocess.Popen[str], int]], mode: str
) -> None:
    process, server = parent(mode)
    process.kill()
    process.wait()
    assert wait_gone(server, WAIT_S)


def test_a_killed_guardian_takes_its_server_along(tmp_path: Path) -> None:
    server = Guarded("a server", ["sleep", "600"], tmp_path / "log", grace_s=5)
    guardian = int(Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(guardian, signal.SIGKILL)
    assert wait_gone(server.pid, WAIT_S)
    server.stop()


def test_a_server_that_ignores_the_request_is_killed_after_its_grace(tmp_path: Path) -> None:
    stubborn = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]
    server = Guarded("a server", stubborn, tmp_path / "log", grace_s=0.3)
    while "ready" not in server.log_tail():
        time.sleep(0.02)
    server.stop()
    assert not process_runs(server.pid)


def test_a_frozen_server_stops_too(tmp_path: Path) -> None:
    server = Guarded("a server", ["sleep", "600"], tmp_path / "log", grace_s=60)
    server.pause()
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < WAIT_S
    assert not process_runs(server.pid)


def test_throw_away_data_goes_with_the_server(tmp_path: Path) -> None:
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    server = Guarded("a server", ["sleep", "600"], folder / "log", grace_s=0, remove=folder)
    server.stop()
    assert not (tmp_path / "outer").exists()


def test_data_survives_a_crash(tmp_path: Path) -> None:
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    server = Guarded("a server", ["sleep", "600"], folder / "log", grace_s=0, remove=folder)
    server.kill()
    assert not process_runs(server.pid)
    assert folder.exists()


def test_a_program_that_cannot_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="a server: can't run /no/such/program"):
        Guarded("a server", ["/no/such/program"], tmp_path / "log", grace_s=0)


def test_a_dead_server_is_noticed(tmp_path: Path) -> None:
    server = Guarded("a server", ["sh", "-c", "echo last words"], tmp_path / "log", grace_s=0)
    assert server.wait(WAIT_S) == 0
    assert not server.alive()
    assert server.log_tail() == "last words"


def test_stopping_twice_and_from_another_thread_is_harmless(tmp_path: Path) -> None:
    server = Guarded("a server", ["sleep", "600"], tmp_path / "log", grace_s=5)
    thread = threading.Thread(target=server.stop)
    thread.start()
    thread.join()
    server.stop()
    assert not process_runs(server.pid)
