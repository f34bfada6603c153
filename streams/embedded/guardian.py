"""The small process that stands between us and one server; run as a script, never imported by us.

It starts the server, waits, and stops the server as soon as the parent asks for it or is gone,
however the parent went: the parent's end of a pipe closes (also on SIGKILL), or our parent's id
changes (a fork of the parent may still hold the pipe). PR_SET_PDEATHSIG alone would not do: it
fires when the *thread* that spawned ends, and servers are started from a thread pool. Between
guardian and server it is right (one thread), and covers a SIGKILL of the guardian itself. Standard
library only: it runs with `-I -S`, so it starts in some 20 ms and sees none of our packages.

Protocol: argv[1] is a JSON object {command, log, parent, grace_s, remove}; the server's pid (or
``error <text>``) is the one line on stdout; a byte ``k`` on stdin means "kill now", end of file
means "stop". Exit status is the server's. The folder `remove` goes after a stop, not after a crash
(of itself, or asked for): a server that is started again finds its data.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys

POLL_S = 0.25  # how late a vanished parent is noticed when a fork of it holds the pipe


def _die_with_guardian() -> None:
    """In the child, before exec: ask the kernel for SIGKILL when the guardian goes (Linux only)."""
    if sys.platform == "linux":
        import ctypes  # here: 10 ms that other systems need not pay

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1 = PR_SET_PDEATHSIG


def _answer(line: str) -> None:
    """The one line our parent waits for."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _stop(server: subprocess.Popen[bytes], grace_s: float) -> None:
    """SIGTERM, then after `grace_s` seconds SIGKILL; returns when the server is reaped."""
    if grace_s > 0:
        with contextlib.suppress(ProcessLookupError):
            server.terminate()
            server.send_signal(signal.SIGCONT)  # a stopped process would never see the SIGTERM
        try:
            server.wait(grace_s)
        except subprocess.TimeoutExpired:
            pass
        else:
            return
    server.kill()
    server.wait()


def main() -> int:
    """Start, watch, stop; returns the exit status."""
    order = json.loads(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # only the pipe and the parent's end stop us
    with open(order["log"], "ab") as log:
        try:
            server = subprocess.Popen(
                order["command"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_prepare_server,  # noqa: PLW1509 - there is one thread here
            )
        except OSError as error:
            _answer(f"error {error}")
            return 127
    _answer(str(server.pid))
    grace_s = float(order["grace_s"])
    crashed = True  # unless we are asked to stop it, or have lost our parent
    while server.poll() is None:
        if os.getppid() != order["parent"]:
            crashed = False
            _stop(server, grace_s)
            break
        # A dead server is noticed within POLL_S too; the pipe wakes us at once.
        if not select.select([0], [], [], POLL_S)[0]:
            continue
        crashed = os.read(0, 1) == b"k"
        _stop(server, 0.0 if crashed else grace_s)
        break
    status = server.wait()
    if order["remove"] and not crashed:
        shutil.rmtree(order["remove"], ignore_errors=True)
        # The folder above is shared with the other servers: the last guardian out removes it.
        with contextlib.suppress(OSError):
            os.rmdir(os.path.dirname(order["remove"]))
    return status if status >= 0 else 128 - status


def _prepare_server() -> None:
    """In the child: undo our ignored signals, and tie its life to ours."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    _die_with_guardian()


if __name__ == "__main__":
    sys.exit(main())
