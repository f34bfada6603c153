"""Faults for the nemesis: each knows how to begin, how long it lasts, and how it is undone.

A new kind of fault is one entry in `FAULTS`. What stays true: a fault is told only by the values
drawn for it beforehand, and when `strike` returns everything that it broke is whole again or is
being brought back.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.chaos.bed import Bed, ServerHandle
from agents.chaos.keeper import End, Keeper
from agents.chaos.link import Link
from agents.chaos.links import Links
from agents.chaos.scenarios.store import cut_tail
from agents.chaos.worker_process import WorkerProcess

MOST_WORKERS = 4

AFTER_S = 60.0
"""A worker tries for a while before it gives up, and the watchdog has as long."""


@dataclass
class Stage:
    """Where faults strike. locks: one fault at a time for each target, by name.

    links: of the workers. cuts: when the store was set back, monotonic seconds. struck: what was
    broken from when to when, monotonic seconds.
    """

    bed: Bed
    keeper: Keeper
    links: Links
    cuts: list[float] = field(default_factory=list)
    struck: list[tuple[Fault, float, float]] = field(default_factory=list)
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    n_named: int = 0

    def lock(self, target: str) -> asyncio.Lock:
        """Of one target."""
        return self.locks.setdefault(target, asyncio.Lock())

    def worker(self, pick: float) -> WorkerProcess:
        """One of the workers that run; pick: in [0, 1)."""
        workers = self.keeper.workers
        return workers[int(pick * len(workers))]

    async def add_worker(self) -> None:
        """One more."""
        self.n_named += 1
        await self.keeper.keep(self.bed.worker(f"w{self.n_named - 1}", **self.links.settings))


Strike = Callable[[Stage, float, float], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """strike: (stage, pick in [0, 1), seconds). most_s: how long at most. weight: how often.

    ends_workers: a worker may end because of it, with a failure that it names: it replays.
    """

    name: str
    strike: Strike
    most_s: float = 0.0
    weight: float = 1.0
    ends_workers: bool = False


@dataclass(frozen=True, slots=True)
class Blow:
    """One entry of a schedule."""

    at_s: float
    fault: Fault
    pick: float
    seconds: float

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.fault.most_s else ""
        return f"{self.at_s:.1f} s {self.fault.name}{lasting}"


def schedule(
    draw: random.Random, faults: Sequence[Fault], until_s: float, mean_gap_s: float
) -> list[Blow]:
    """Blows until a time, drawn; the same for the same generator."""
    found: list[Blow] = []
    at_s = draw.expovariate(1 / mean_gap_s)
    weights = [fault.weight for fault in faults]
    while at_s < until_s:
        (fault,) = draw.choices(faults, weights)
        seconds = draw.uniform(0.05, 1.0) ** 2 * fault.most_s
        found.append(Blow(at_s, fault, draw.random(), seconds))
        at_s += draw.expovariate(1 / mean_gap_s)
    return found


def unexplained(
    exits: Sequence[End], struck: Sequence[tuple[Fault, float, float]], codes: Collection[int]
) -> list[End]:
    """Ends of workers that no fault explains: codes are those of a failure that was named, and
    something that may end a worker was broken then or within `AFTER_S` before.

    What ends by a signal that was not ours, or with 0 and no word, is never explained.
    """
    return [
        end
        for end in exits
        if end.code not in codes
        or not any(
            fault.ends_workers and began <= end.at_s <= over + AFTER_S
            for fault, began, over in struck
        )
    ]


# Workers ------------------------------------------------------------------------------------


async def kill_worker(stage: Stage, pick: float, seconds: float) -> None:
    """SIGKILL; the keeper starts it again."""
    worker = stage.worker(pick)
    async with stage.lock(worker.name):
        await stage.keeper.kill(worker)


async def terminate_worker(stage: Stage, pick: float, seconds: float) -> None:
    """SIGTERM; the keeper starts it again."""
    worker = stage.worker(pick)
    async with stage.lock(worker.name):
        await stage.keeper.stop(worker)


async def freeze_worker(stage: Stage, pick: float, seconds: float) -> None:
    """SIGSTOP, shorter or longer than its session, then SIGCONT."""
    worker = stage.worker(pick)
    async with stage.lock(worker.name):
        if worker.alive():
            worker.pause()
            await asyncio.sleep(seconds)
            worker.resume()


async def add_worker(stage: Stage, pick: float, seconds: float) -> None:
    """One more worker, up to a handful."""
    if len(stage.keeper.workers) < MOST_WORKERS:
        await stage.add_worker()


async def remove_worker(stage: Stage, pick: float, seconds: float) -> None:
    """One worker less, in order; one stays."""
    worker = stage.worker(pick)
    async with stage.lock(worker.name):
        if len(stage.keeper.workers) > 1 and worker in stage.keeper.workers:
            await stage.keeper.let_go(worker)


# Servers ------------------------------------------------------------------------------------


def _server(how: str, which: Callable[[Bed], ServerHandle[Any]]) -> Strike:
    async def strike(stage: Stage, pick: float, seconds: float) -> None:
        server = which(stage.bed)
        async with stage.lock(server.name):
            if how == "freeze":
                server.pause()
                await asyncio.sleep(seconds)
                server.resume()
                return
            await (server.kill() if how == "kill" else server.terminate())
            await asyncio.sleep(seconds)
            await server.start()

    return strike


async def cut_store(stage: Stage, pick: float, seconds: float) -> None:
    """A power cut: the end of the append-only file never reached the disk, 1 B to 64 KiB of it."""
    store = stage.bed.store
    async with stage.lock(store.name):
        await store.kill()
        cut_tail(store.folder, int(65_536**pick))
        stage.cuts.append(time.monotonic())
        await asyncio.sleep(seconds)
        await store.start()
        stage.cuts.append(time.monotonic())


# Links --------------------------------------------------------------------------------------


def _link(name: str, begin: Callable[[Link], Awaitable[None]]) -> Strike:
    async def strike(stage: Stage, pick: float, seconds: float) -> None:
        link = stage.links.named(name)
        async with stage.lock(f"link to the {name}"):
            await begin(link)
            await asyncio.sleep(seconds)
            await link.heal()

    return strike


LINK_FAULTS: dict[str, Callable[[Link], Awaitable[None]]] = {
    "down": Link.cut,
    "black-holed": Link.black_hole,
    "reset": Link.reset,
    "slow": lambda link: link.slow(latency_s=0.2, bytes_per_s=200_000),
}

FAULTS: tuple[Fault, ...] = (
    Fault("worker killed", kill_worker, weight=3),
    Fault("worker stopped", terminate_worker),
    Fault("worker frozen", freeze_worker, most_s=15, weight=2, ends_workers=True),
    Fault("worker added", add_worker, weight=1),
    Fault("worker removed", remove_worker, weight=1),
    Fault("broker killed", _server("kill", lambda bed: bed.broker), most_s=5, ends_workers=True),
    Fault(
        "broker stopped", _server("terminate", lambda bed: bed.broker), most_s=5, ends_workers=True
    ),
    Fault("broker frozen", _server("freeze", lambda bed: bed.broker), most_s=10, ends_workers=True),
    Fault("store killed", _server("kill", lambda bed: bed.store), most_s=5, ends_workers=True),
    Fault(
        "store stopped", _server("terminate", lambda bed: bed.store), most_s=5, ends_workers=True
    ),
    Fault("store frozen", _server("freeze", lambda bed: bed.store), most_s=10, ends_workers=True),
    Fault("store's file cut", cut_store, most_s=2, ends_workers=True),
    *(
        Fault(
            f"link to the {name} {how}",
            _link(name, begin),
            most_s=10,
            weight=0.5,
            ends_workers=True,
        )
        for name in ("broker", "store")
        for how, begin in LINK_FAULTS.items()
    ),
)
