"""Broker and store together: one folder, one owner at a time, one file that says where they are.

Owns the folder's lock and `stack.json`. What stays true: a folder has at most one running stack
(the lock is held by us and by the servers' guardians, so it is free only when the last server is
gone), and `stack.json` exists only between a whole start and the stop.
"""

from __future__ import annotations

import fcntl
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from streams.addresses import without_passwords
from streams.embedded import jars, ports
from streams.embedded.guard import process_runs
from streams.embedded.kafka import KafkaServer
from streams.embedded.store import StoreServer
from streams.errors import EmbeddedError

DEFAULT_DATA_DIR = Path(".foldstream")
MIN_FREE_BYTES = 1_000_000_000  # the broker maps index files and fails badly on a full disk
TAKEOVER_S = 25.0  # how long a dead run's servers may take to end: twice their grace period


class StackInfo(msgspec.Struct, frozen=True, omit_defaults=False):
    """What `stack.json` holds.

    kafka: ``host:port``; redis: URL; pid: of the process that holds the stack; started: ISO 8601,
    UTC; ephemeral: whether the data goes with it; pids and versions: by ``kafka`` and ``redis``, of
    the servers that we started (a server given by URL has none).
    """

    kafka: str
    redis: str
    pid: int
    started: str
    ephemeral: bool = False
    pids: dict[str, int] = {}
    versions: dict[str, str] = {}


def read_stack(data_dir: Path = DEFAULT_DATA_DIR) -> StackInfo | None:
    """The stack that runs on this folder, or None (also when its process died without a word)."""
    try:
        info = msgspec.json.decode((data_dir / "stack.json").read_bytes(), type=StackInfo)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return info if process_runs(info.pid) and lock_is_held(data_dir) else None


def lock_is_held(data_dir: Path) -> bool:
    """Whether somebody (a stack, or servers still ending) holds this folder."""
    try:
        descriptor = os.open(data_dir / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Stack:
    """A broker and a store, ours or given by URL, from `start` to `stop`; a context manager.

    data_dir: keeps topics and keys over a restart, the lock, and `stack.json`.
    ephemeral: the data lies in a throw-away folder instead and is deleted at the end.
    kafka_url, redis_url: use these (``host:port[,...]``, ``redis://...``) and start none.
    kafka_port, redis_port: listen there instead of on a free port.
    min_free_bytes: refuse to start below this. on_step: called with a line for people.
    """

    def __init__(
        self,
        data_dir: Path = DEFAULT_DATA_DIR,
        ephemeral: bool = False,
        kafka_url: str | None = None,
        redis_url: str | None = None,
        *,
        kafka_port: int | None = None,
        redis_port: int | None = None,
        min_free_bytes: int = MIN_FREE_BYTES,
        on_step: Callable[[str], None] = lambda step: None,
    ) -> None:
        self.data_dir = data_dir.absolute()
        self.ephemeral = ephemeral
        self.broker: KafkaServer | None = None
        self.store: StoreServer | None = None
        self.recovered = False  # whether a dead run's lock was found and taken over
        self._kafka_url = kafka_url
        self._redis_url = redis_url
        self._kafka_port = kafka_port
        self._redis_port = redis_port
        self._min_free_bytes = min_free_bytes
        self._on_step = on_step
        self._scratch: Path | None = None
        self._stopping = False
        self._lock: int | None = None
        self._info: StackInfo | None = None

    @property
    def kafka(self) -> str:
        """Where the broker is: ``host:port``."""
        return self.info.kafka

    @property
    def redis(self) -> str:
        """Where the store is: a URL."""
        return self.info.redis

    @property
    def info(self) -> StackInfo:
        """As written to `stack.json`; EmbeddedError before `start`."""
        if self._info is None:
            raise EmbeddedError("the stack does not run: call start() first")
        return self._info

    def start(self) -> StackInfo:
        """Take the folder, start both servers side by side, write `stack.json`.

        Raises EmbeddedError; nothing is left running or locked then.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._stopping = False
        try:
            self._start_servers()
            self._info = StackInfo(
                kafka=self._kafka_url or self._broker_address(),
                redis=self._redis_url or self._store_address(),
                pid=os.getpid(),
                started=datetime.now(UTC).isoformat(timespec="seconds"),
                ephemeral=self.ephemeral,
                pids={name: server.process.pid for name, server in self._servers()},
                versions={name: server.version for name, server in self._servers()},
            )
            self._write_info(self._info)
        except BaseException:
            self.stop()
            raise
        return self._info

    def stop(self) -> None:
        """End what was started, in order, and give the folder back. Harmless twice."""
        self._stopping = True
        if self._lock is not None:  # else the file is somebody else's
            (self.data_dir / "stack.json").unlink(missing_ok=True)
        servers = self._servers()
        for _, server in servers:
            server.ask_to_stop()
        for _, server in servers:
            server.stop()
        self.broker = self.store = None
        self._info = None
        if self._scratch is not None:  # what a failed start or a crash left
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def dead_server(self) -> str | None:
        """What ended by itself, in words, or None while all that was started runs."""
        for name, server in self._servers():
            if not server.alive():
                return f"{name} (process {server.process.pid}) ended; see {server.process.log}"
        return None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _servers(self) -> list[tuple[str, KafkaServer | StoreServer]]:
        named: list[tuple[str, KafkaServer | StoreServer | None]] = [
            ("kafka", self.broker),
            ("redis", self.store),
        ]
        return [(name, server) for name, server in named if server is not None]

    def _broker_address(self) -> str:
        assert self.broker is not None
        return self.broker.bootstrap

    def _store_address(self) -> str:
        assert self.store is not None
        return self.store.url

    def _take_lock(self) -> None:
        descriptor = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        give_up = time.monotonic() + TAKEOVER_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _pid_in(descriptor)
                if holder is None or process_runs(holder) or time.monotonic() > give_up:
                    os.close(descriptor)
                    raise EmbeddedError(
                        f"{self.data_dir} is in use by process {holder or 'unknown'}: stop it with "
                        "`foldstream down`, or choose another --data-dir"
                    ) from None
                # The holder is dead and its servers are ending: the lock is free when they are.
                time.sleep(0.1)
        # A pid still in the file means that its writer never came to `stop`.
        holder = _pid_in(descriptor)
        self.recovered = holder is not None and (self.data_dir / "stack.json").exists()
        if self.recovered:
            self._on_step(
                f"recovered the folder from process {holder}, which died without stopping"
            )
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._lock = descriptor

    def _start_servers(self) -> None:
        assert self._lock is not None
        folder = self.data_dir
        if self.ephemeral:
            folder = self._scratch = Path(tempfile.mkdtemp(prefix="foldstream-"))
        self._check_disk(folder)
        hold = (self._lock,)
        if self._redis_url is None:
            self.store = StoreServer(
                folder / "redis", ephemeral=self.ephemeral, port=self._redis_port, hold=hold
            )
        else:
            _check_reachable(self._redis_url, 6379, "store", "--redis", "redis://host:port/0")
        if self._kafka_url is None:
            self.broker = KafkaServer(
                folder / "kafka", ephemeral=self.ephemeral, port=self._kafka_port, hold=hold
            )
        else:
            _check_reachable(self._kafka_url, 9092, "broker", "--kafka", "host:port")
        self._start_side_by_side()

    def _start_side_by_side(self) -> None:
        """Each server in a thread of its own; the first failure or Ctrl-C ends the wait.

        Daemon threads, not a pool: a pool's end would wait for a download that nobody wants any
        more. A thread that comes too late stops its own server.
        """
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

        def work(name: str) -> None:
            try:
                self._start_one(name)
            except BaseException as error:  # noqa: BLE001 - handed over, raised below
                done.put(error)
            else:
                done.put(None)

        names = [name for name, _ in self._servers()]
        for name in names:
            threading.Thread(target=work, args=(name,), daemon=True).start()
        for _ in names:
            if (error := done.get()) is not None:
                raise error

    def _start_one(self, name: str) -> None:
        broker, store = self.broker, self.store
        if name == "redis" and store is not None:
            self._on_step("starting the store")
            store.start()
            if self._stopping:
                store.stop()
                return
            self._on_step(f"store ready: {store.version} at {store.url}")
        elif name == "kafka" and broker is not None:
            self._on_step(f"checking the broker's jars (fetched once, 44 MB: {jars.COORDINATES})")
            broker.fetch_jars()
            self._on_step("starting the broker")
            if not self._stopping:
                broker.start()
            if self._stopping:
                broker.stop()
                return
            self._on_step(f"broker ready: kafka {broker.version} at {broker.bootstrap}")

    def _check_disk(self, folder: Path) -> None:
        free = shutil.disk_usage(folder).free
        if free < self._min_free_bytes:
            where = "TMPDIR" if self.ephemeral else "--data-dir"
            raise EmbeddedError(
                f"only {free / 1e9:.1f} GB free at {folder}, {self._min_free_bytes / 1e9:.1f} GB "
                f"wanted: free some, or choose another disk with {where}"
            )

    def _write_info(self, info: StackInfo) -> None:
        part = self.data_dir / "stack.json.part"
        part.write_bytes(msgspec.json.format(msgspec.json.encode(info)) + b"\n")
        part.replace(self.data_dir / "stack.json")


def _pid_in(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None


def _check_reachable(url: str, default_port: int, what: str, flag: str, example: str) -> None:
    """EmbeddedError unless one of the addresses takes a connection (no more is asked of it)."""
    if url.startswith("unix://"):
        return  # a socket file: its client will tell
    try:
        there = ports.reachable(url, default_port)
    except ValueError as error:
        raise EmbeddedError(f"{flag}: {error}; write {example}") from error
    if not there:
        raise EmbeddedError(
            f"the {what} at {without_passwords(url)} takes no connection: start it, correct "
            f"{flag}, or leave it out to have one started here"
        )
