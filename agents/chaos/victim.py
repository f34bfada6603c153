"""A worker that harms itself: `python -m agents.chaos.victim ORDER CONFIG`, a real process.

It is `foldstream worker` with hooks (`points`): at a chosen visit of a chosen place it sends itself
a signal, its clock jumps when the driver says so, and its tasks are cancelled at random. What is
told by nobody else: moments that a driver outside would never hit.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from agents.app import Worker
    from agents.settings import Settings

CANCELLED = (
    "PartitionFold.",
    "ProfileUpdater.",
    "BatchConsumer._open",
    "SnapshotWriter.",
    "Fence.",
    "ItemSnapshots.",
    "KafkaAnnouncer.",
)
"""Where a storm strikes: tasks whose code has these names. Fence's are the commits themselves."""

STRUCK = "chaos: cancelled "
"""How a victim's log tells of a cancelled task."""


class VictimOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to do to oneself.

    point, visit, signal: at the visit-th time there, SIGKILL or SIGSTOP (each point of `points`).
    clock: a file of eight bytes, milliseconds that the wall clock is off. cancel_every_s: mean
    time between two cancellations, drawn by `seed`; 0: none. calm: once this file is there, nobody
    is cancelled any more.
    """

    point: str | None = None
    visit: int = 1
    signal: str = "SIGKILL"
    clock: str | None = None
    cancel_every_s: float = 0.0
    calm: str | None = None
    seed: int = 0


def shift_clock(path: Path) -> None:
    """From here on `time.time` and `time.time_ns` are off by what the file says.

    For all Python code of this process that asks by these names; the monotonic clock, C code and
    the other processes are not touched, as when somebody sets the clock of one machine.
    """
    with path.open("r+b") as file:
        shift = mmap.mmap(file.fileno(), 8)
    real_s, real_ns = time.time, time.time_ns

    def shift_ms() -> int:
        return int(struct.unpack_from("<q", shift)[0])

    time.time = lambda: real_s() + shift_ms() / 1_000
    time.time_ns = lambda: real_ns() + shift_ms() * 1_000_000


def set_clock(path: Path, shift_ms: int) -> None:
    """The driver's side: the victim's clock is off by so much from now on."""
    if not path.exists():
        path.write_bytes(bytes(8))
    with path.open("r+b") as file:
        file.write(struct.pack("<q", shift_ms))


def _reach(order: VictimOrder) -> Callable[[str], None]:
    left = order.visit

    def reach(point: str) -> None:
        nonlocal left
        if point == order.point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.Signals[order.signal])

    return reach


async def _storm(order: VictimOrder) -> None:
    """Cancel one of the tasks of the commit path, again and again."""
    draw = random.Random(order.seed)
    while True:
        await asyncio.sleep(draw.expovariate(1 / order.cancel_every_s))
        if order.calm is not None and os.path.exists(order.calm):  # noqa: ASYNC240 - microseconds
            return
        struck = [task for task in asyncio.all_tasks() if _is_struck(task)]
        if struck:
            # By code first: a partition's followers are always there, a commit for a millisecond.
            code = draw.choice(sorted({_code_of(task) for task in struck}))
            alike = [task for task in struck if _code_of(task) == code]
            print(f"{STRUCK}{code}", flush=True)  # noqa: T201 - for the driver
            draw.choice(sorted(alike, key=asyncio.Task.get_name)).cancel()


def storm_service(order: VictimOrder) -> Any:
    """The storm as a service of the application: it begins when the worker runs."""
    from mode import Service

    class Storm(Service):
        @Service.task
        async def _blow(self) -> None:
            await _storm(order)

    return Storm()


def _is_struck(task: asyncio.Task[Any]) -> bool:
    return _code_of(task).startswith(CANCELLED)


def _code_of(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return "" if code is None else str(code.co_qualname)


def struck_in(log: str) -> Counter[str]:
    """What a storm struck, by a worker's log.

    >>> struck_in("a\\nchaos: cancelled Fence.commit\\nb\\n")
    Counter({'Fence.commit': 1})
    """
    return Counter(
        line.removeprefix(STRUCK) for line in log.splitlines() if line.startswith(STRUCK)
    )


def main() -> None:
    """Run until something ends it."""
    order = msgspec.json.decode(sys.argv[1], type=VictimOrder)
    if order.clock is not None:
        shift_clock(Path(order.clock))
    # Only now: whatever takes a name out of `time` must take the shifted one.
    from agents.app import build_app
    from agents.chaos.points import hook
    from agents.settings import load_settings
    from agents.worker import run_worker

    def build(settings: Settings, number: int) -> Worker:
        worker = build_app(settings, number)
        if order.point is not None:
            hook(worker, _reach(order))
        if order.cancel_every_s:
            worker.app.service(storm_service(order))
        return worker

    run_worker(load_settings({}, Path(sys.argv[2])).settings, build)


if __name__ == "__main__":
    main()
