"""A real worker as a process of its own, which is killed, frozen and asked from outside.

Owns the process; what it does is `foldstream worker`'s. What stays true: it dies with us.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from agents.http.address import read_addresses
from agents.settings import Settings
from streams.embedded.guard import Guarded

START_S = 120.0
"""A worker process imports and compiles for seconds; on a busy machine for many."""

GRACE_S = 20.0

NO_ANSWER = (urllib.error.URLError, http.client.HTTPException, OSError)
"""It is gone, or was killed in the middle of its answer."""

_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class NotWithin(AssertionError):
    """Something that was waited for did not come."""


async def until(
    condition: Callable[[], bool | Awaitable[bool]], what: str, within_s: float = 60.0
) -> None:
    """Ask again and again until it holds; raises NotWithin with `what` after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        holds = condition()
        if await holds if isinstance(holds, Awaitable) else holds:
            return
        if time.monotonic() >= deadline:
            raise NotWithin(f"not within {within_s:g} s: {what}")
        await asyncio.sleep(0.02)


def write_config(settings: Settings) -> Path:
    """Settings as a configuration file, for the program."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    path = settings.data_dir / f"{settings.worker_id}.toml"
    lines = []
    for key, value in settings.model_dump(mode="json", exclude_defaults=True).items():
        lines.append(f"{key} = {as_toml(value)}\n")
    path.write_text("".join(lines))
    return path


def as_toml(value: Any) -> str:
    """A setting's value as TOML writes it: as JSON does, but for tables.

    >>> as_toml([{"name": "wink", "positive": False}])
    '[{name = "wink", positive = false}]'
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {as_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return msgspec.json.encode(value).decode()


class WorkerProcess:
    """`python -m agents worker` with given settings; a context manager.

    settings: with a worker_id. command: what is run instead, the configuration file is appended.
    environment: added to ours. grace_s: between SIGTERM and SIGKILL.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = ("-m", "agents", "worker", "--config"),
        environment: Mapping[str, str] | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.settings = settings
        self.name = str(settings.worker_id)
        self.log = settings.data_dir / f"{settings.worker_id}.log"
        self.exit_code: int | None = None
        self._command = [
            *(["env", *(f"{k}={v}" for k, v in environment.items())] if environment else []),
            sys.executable,
            *command,
            str(write_config(settings)),
        ]
        self._grace_s = grace_s
        self._process: Guarded | None = None

    async def start(self) -> Self:
        """Start it (again); returns at once, `ready` waits."""
        return await asyncio.to_thread(self.launch)

    def launch(self) -> Self:
        """As `start`, where there is no event loop; end it by `process`."""
        self.exit_code = None
        self._process = Guarded(
            f"worker {self.name}", self._command, self.log, grace_s=self._grace_s
        )
        return self

    @property
    def process(self) -> Guarded:
        """The process as it was started last."""
        if self._process is None:
            raise RuntimeError(f"worker {self.name} was never started")
        return self._process

    @property
    def pid(self) -> int:
        """Of the worker itself."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it runs; notes the exit code of one that has ended."""
        if self._process is None:
            return False
        if self._process.alive():
            return True
        self.exit_code = self._process.wait(0.0)
        return False

    async def ended(self, within_s: float) -> int | None:
        """The exit code of one that ends by itself; None if it does not in time.

        128 + number for one that a signal ended.
        """
        self.exit_code = await asyncio.to_thread(self.process.wait, within_s)
        return self.exit_code

    async def terminate(self) -> None:
        """SIGTERM, the grace period, SIGKILL; returns when it is gone."""
        await asyncio.to_thread(self.process.stop)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        await asyncio.to_thread(self.process.kill)

    def pause(self) -> None:
        """SIGSTOP."""
        self.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.process.resume()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            await self.terminate()

    # What it says of itself -----------------------------------------------------------------

    async def ready(self, within_s: float = START_S) -> None:
        """Wait until the worker says so itself. Raises NotWithin with the end of its log."""

        async def serves() -> bool:
            if not self.alive():
                raise NotWithin(f"worker {self.name} ended: {self.log_tail()}")
            return (await self.readyz())[0] == 200

        try:
            await until(serves, f"worker {self.name} is ready", within_s)
        except NotWithin as late:
            raise NotWithin(f"{late}; {await self.readyz()}") from late

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        """Status and document of `/readyz`; (0, {}) without an answer."""
        status, text = await self.ask("/readyz")
        try:
            return status, msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.MsgspecError:
            return status, {}

    async def names(self, part: str, within_s: float) -> float | None:
        """Seconds until `/readyz` answers 503 and names this part; None when it does not in time.

        No answer names nobody: a worker that hangs has noticed nothing.
        """
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            status, document = await self.readyz()
            if status == 503 and any(c.get("part") == part for c in document.get("causes", [])):
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        return None

    async def ready_after(self, within_s: float) -> float | None:
        """Seconds until `/readyz` answers 200; None when it does not in time."""
        began = time.monotonic()
        while time.monotonic() - began < within_s:
            if (await self.readyz())[0] == 200:
                return time.monotonic() - began
            await asyncio.sleep(0.1)
        return None

    async def ask(self, path: str, timeout_s: float = 5.0) -> tuple[int, str]:
        """Status and text of one of its pages; (0, "") without an answer."""
        return await asyncio.to_thread(self._ask, path, timeout_s)

    async def get(self, path: str) -> str | None:
        """The text of a page; None where there is no answer, or not a good one."""
        status, text = await self.ask(path)
        return text if status == 200 else None

    def _ask(self, path: str, timeout_s: float) -> tuple[int, str]:
        for entry in read_addresses(self.settings.data_dir):
            if entry.instance != self.settings.instance_id(0) or entry.pid != self.pid:
                continue
            try:
                return _answer_of(entry.address.rstrip("/") + path, timeout_s)
            except NO_ANSWER:
                return 0, ""
        return 0, ""

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0 without an answer."""
        return metric_in(await self.get("/metrics") or "", name, **labels)

    def log_tail(self) -> str:
        """The end of its output."""
        return self.process.log_tail()

    def state(self) -> str:
        """As the kernel says it: R or S while it runs, T when it is stopped, "" when it is gone."""
        try:
            stat = Path(f"/proc/{self.pid}/stat").read_text(errors="replace")
        except OSError:
            return ""
        return stat.rpartition(")")[2].split()[0]

    def rss_bytes(self) -> int:
        """Resident memory; 0 when it is gone."""
        try:
            text = Path(f"/proc/{self.pid}/statm").read_text("ascii")
        except OSError:
            return 0
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def n_fds(self) -> int:
        """Open file descriptors; 0 when it is gone."""
        try:
            return len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return 0


def _answer_of(url: str, timeout_s: float) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return int(answer.status), str(answer.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def metric_in(text: str, name: str, **labels: str) -> float:
    """The sum of a metric's samples that have these labels, in Prometheus's text format.

    >>> metric_in('a_total{kind="x"} 2.0\\na_total{kind="y"} 3.0\\n', "a_total", kind="y")
    3.0
    """
    total = 0.0
    for line in text.splitlines():
        found = _SAMPLE.match(line)
        if found and found[1] == name:
            has = dict(_LABEL.findall(found[2] or ""))
            if all(has.get(label) == value for label, value in labels.items()):
                total += float(found[3])
    return total
