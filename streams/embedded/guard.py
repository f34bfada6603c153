"""Servers that die with us: `Guarded` starts one under a guardian process and ends it.

Owns the life of one process and nothing of what it serves. What stays true: when this process is
gone, by whatever signal, the server is gone within its grace period (`guardian.py` says how).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from streams.errors import EmbeddedError

_GUARDIAN = Path(__file__).with_name("guardian.py")
LOG_TAIL_BYTES = 4000


class Guarded:
    """One running server under its guardian.

    name: for messages. command: argv. log: file that takes the server's output (appended).
    grace_s: seconds between SIGTERM and SIGKILL when it is stopped or we die; 0 = SIGKILL at once.
    remove: a folder the guardian deletes after a stop or our death (throw-away data), and then the
    folder above, if that is empty; a crash or `kill` leaves it. hold: file descriptors kept open
    until the guardian ends, so that a lock outlives us as long as the server does.
    Raises EmbeddedError if the program can't be executed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        log: Path,
        *,
        grace_s: float,
        remove: Path | None = None,
        hold: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        self._grace_s = grace_s
        order = {
            "command": [str(part) for part in command],
            "log": str(log),
            "parent": os.getpid(),
            "grace_s": grace_s,
            "remove": str(remove) if remove else None,
        }
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARDIAN), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Java finds no file with a non-ASCII path under a plain C locale.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            start_new_session=True,  # Ctrl-C goes to us; we stop the servers in order
            pass_fds=tuple(hold),
        )
        assert self._guardian.stdout is not None
        with self._guardian.stdout as answer:
            first = answer.readline().decode().strip()
        if not first.isdigit():
            self._guardian.wait()
            self._close_pipe()
            raise EmbeddedError(f"{name}: can't run {command[0]}: {first.removeprefix('error ')}")
        self.pid = int(first)

    def alive(self) -> bool:
        """Whether the server still runs (a death is seen within a quarter of a second)."""
        return self._guardian.poll() is None

    def wait(self, timeout_s: float) -> int | None:
        """The exit status of a program that ends by itself; None if it did not in time."""
        try:
            status = self._guardian.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._close_pipe()
        return status

    def stop(self) -> None:
        """SIGTERM, the grace period, SIGKILL; returns when it is gone. Harmless when it is."""
        self.ask_to_stop()
        try:
            self._guardian.wait(self._grace_s + 10.0)
        except subprocess.TimeoutExpired:
            self._guardian.kill()  # the kernel then kills the server
            self._guardian.wait()

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting: several servers can stop at the same time."""
        self._close_pipe()

    def kill(self) -> None:
        """SIGKILL, as a crash would; returns when it is gone."""
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._guardian.stdin.write(b"k")
            self._guardian.stdin.flush()
        self._guardian.wait()
        self._close_pipe()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): it holds its connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        os.kill(self.pid, signal.SIGCONT)

    def log_tail(self) -> str:
        """The end of the server's output, for error messages."""
        try:
            return self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def _close_pipe(self) -> None:
        assert self._guardian.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._guardian.stdin.close()


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Whether process `pid` (not necessarily a child) ended within `timeout_s` seconds."""
    give_up = time.monotonic() + timeout_s
    while process_runs(pid):
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def process_runs(pid: int) -> bool:
    """Whether a process with this id exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        # "123 (name) S ...": the name may hold brackets, so look behind the last one.
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return sys.platform != "linux"
    return stat.rpartition(")")[2].split()[0] != "Z"
