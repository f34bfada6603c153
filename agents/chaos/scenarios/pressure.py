"""More than something can take: a slow store, a slow broker, a slow scorer."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from agents.chaos.bed import Bed
from agents.chaos.link import Link
from agents.chaos.links import linked
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import WorkerProcess, metric_in, until
from agents.scorer import PENDING_USERS

N_EVENTS = 400_000
BUFFER_EVENTS = 5_000
"""A partition: small, so that it is full at once."""

MAX_POLL = 2_000
"""A buffer may overshoot by one fetch of the consumer."""

BUFFER_BYTES = 8 * 1024 * 1024
SLOW_S = 60.0

MEMORY_BYTES = 64 * 1024 * 1024
"""What a worker under pressure may take beside its buffers: batches of 8,000 events in work on each
partition, their records packed and unpacked, and what the allocator does not give back. Measured:
24 and 35 MB, buffers included. Batches that wait for the garbage collector, because an exception
holds their frames, would take 150 MB more."""

SCORER_MEMORY_BYTES = 240 * 1024 * 1024
"""The same of a scorer that 50,000 users are new to: their records, lists and histories."""

CATCH_UP_S = 600.0

STORE_LATENCY_S, STORE_BYTES_PER_S = 0.1, 2_000_000.0
BROKER_LATENCY_S, BROKER_BYTES_PER_S = 0.2, 500_000.0

SCORER_RUNS_S, SCORER_SLEEPS_S = 0.1, 0.9
"""A scorer that is stopped for nine tenths of the time; well below its session time-out."""


@dataclass(slots=True)
class Seen:
    """The most that was seen of a worker while it was under pressure."""

    events: float = 0.0
    bytes: float = 0.0
    waiting: float = 0.0
    rss: int = 0
    rebalances: list[float] = field(default_factory=list)

    async def look(self, worker: WorkerProcess) -> None:
        """Take one sample; a worker that gives no answer in time gives none."""
        self.rss = max(self.rss, worker.rss_bytes())
        text = await worker.get("/metrics")
        if text is None:
            return
        self.events = max(self.events, metric_in(text, "foldstream_events_buffered"))
        self.bytes = max(self.bytes, metric_in(text, "foldstream_bytes_buffered"))
        self.waiting = max(self.waiting, metric_in(text, "foldstream_scorer_waiting"))
        self.rebalances.append(metric_in(text, "foldstream_rebalances_total"))


@asynccontextmanager
async def watched(worker: WorkerProcess) -> AsyncIterator[Seen]:
    """Look at a worker twice a second until the block ends."""
    seen = Seen()
    await seen.look(worker)

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.5)
            await seen.look(worker)

    task = asyncio.create_task(watch(), name="pressure")
    try:
        yield seen
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _slow_neighbour(
    bed: Bed,
    report: Report,
    plan: Plan,
    name: str,
    slow: Callable[[Link], Awaitable[None]],
) -> None:
    n_events = plan.scaled(N_EVENTS, least=10_000)
    async with (
        linked(bed) as links,
        Watcher(bed) as watcher,
        bed.worker("w0", buffer_events=BUFFER_EVENTS, **links.settings) as worker,
    ):
        await worker.ready()
        warm = Load(bed, plan.seed + 1_000, n_events // 10)  # the kernel compiles, tables grow
        await warm.done()
        await until(lambda: worker_rested(worker), "the first events are folded", 300)
        before = worker.rss_bytes()
        await slow(links.named(name))
        async with watched(worker) as seen:
            load = Load(bed, plan.seed, n_events)
            await asyncio.sleep(SLOW_S * min(1.0, plan.share * 4))
            report.check(worker.alive(), "the worker goes on", worker.log_tail())
            report.figure("folded while slow", watcher.total - warm.n_messages)
            await load.done()
            await links.named(name).heal()
            at, began = watcher.total, time.monotonic()
            await until(lambda: worker_rested(worker), "it has caught up", CATCH_UP_S)
            took_s = time.monotonic() - began
        report.figure("catch-up", round(took_s, 1), "s")
        report.figure("catch-up rate", round((watcher.total - at) / took_s), "events/s")
        _judge_buffers(bed, report, seen, before)
        await verify(bed, report, watcher)


async def worker_rested(worker: WorkerProcess) -> bool:
    """Nothing is left to fold, for more than a second (the lag is measured once a second)."""
    for _ in range(3):
        text = await worker.get("/metrics")
        if text is None or "foldstream_partition_lag{" not in text:
            return False
        if metric_in(text, "foldstream_partition_lag"):
            return False
        await asyncio.sleep(0.5)
    return True


def _judge_buffers(bed: Bed, report: Report, seen: Seen, before: int) -> None:
    most = bed.partitions * (BUFFER_EVENTS + MAX_POLL)
    report.figure("buffered, most", seen.events, "events")
    report.check(seen.events <= most, f"at most {most} events are read ahead", f"{seen.events:.0f}")
    room = bed.partitions * BUFFER_BYTES + MEMORY_BYTES
    report.figure("memory before", round(before / 1e6), "MB")
    report.figure("memory, most", round(seen.rss / 1e6), "MB")
    report.check(
        seen.rss - before <= room,
        f"memory stays within {room / 1e6:.0f} MB of what it was",
        f"{(seen.rss - before) / 1e6:.0f} MB more",
    )
    report.check(
        len(set(seen.rebalances)) <= 1,
        "a busy fold causes no rebalance",
        f"{min(seen.rebalances, default=0):.0f} to {max(seen.rebalances, default=0):.0f}",
    )


async def slow_store(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A store behind 0.1 s and 2 MB/s, and a backlog at full speed."""
    await _slow_neighbour(
        bed, report, plan, "store", lambda link: link.slow(STORE_LATENCY_S, STORE_BYTES_PER_S)
    )


async def slow_broker(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A broker behind 0.2 s and 0.5 MB/s, and a backlog at full speed."""
    await _slow_neighbour(
        bed, report, plan, "broker", lambda link: link.slow(BROKER_LATENCY_S, BROKER_BYTES_PER_S)
    )


async def slow_scorer(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A scorer of its own that sleeps nine tenths of the time, beside an updater at full speed."""
    n_events = plan.scaled(N_EVENTS, least=10_000)
    async with (
        Watcher(bed) as watcher,
        bed.worker("w0") as updater,
        bed.worker("w1", agents=["catalogue", "scorer"]) as scorer,
    ):
        await updater.ready()
        await scorer.ready()
        alone = Load(bed, plan.seed + 1_000, n_events // 10)
        await alone.done()
        await until(lambda: worker_rested(updater), "the first events are folded", 300)
        before = scorer.rss_bytes()
        async with watched(scorer) as seen, watched(updater) as folding:
            load = Load(bed, plan.seed, n_events, n_users=50_000)
            slept = asyncio.create_task(_doze(scorer), name="doze")
            await load.done()
            await until(lambda: worker_rested(updater), "the updater doesn't wait", CATCH_UP_S)
            slept.cancel()
            await asyncio.gather(slept, return_exceptions=True)
            scorer.resume()
            began = time.monotonic()
            await until(lambda: _no_list_waits(scorer), "the scorer has caught up", CATCH_UP_S)
        report.figure("catch-up", round(time.monotonic() - began, 1), "s")
        report.figure("users waiting, most", seen.waiting)
        room = 2 * PENDING_USERS  # one message may name many
        report.check(seen.waiting <= room, f"at most {room} users wait", f"{seen.waiting:.0f}")
        report.figure("memory before", round(before / 1e6), "MB")
        report.figure("memory, most", round(seen.rss / 1e6), "MB")
        report.check(
            seen.rss - before <= SCORER_MEMORY_BYTES,
            f"memory stays within {SCORER_MEMORY_BYTES / 1e6:.0f} MB of what it was",
            f"{(seen.rss - before) / 1e6:.0f} MB more",
        )
        report.check(len(set(folding.rebalances)) <= 1, "a busy fold causes no rebalance")
        report.check(scorer.alive() and updater.alive(), "both go on")
        await verify(bed, report, watcher)


async def _doze(worker: WorkerProcess) -> None:
    try:
        while True:
            worker.pause()
            await asyncio.sleep(SCORER_SLEEPS_S)
            worker.resume()
            await asyncio.sleep(SCORER_RUNS_S)
    finally:
        worker.resume()


async def _no_list_waits(scorer: WorkerProcess) -> bool:
    """No user waits, three looks on end: between two of them more may be read."""
    for _ in range(3):
        text = await scorer.get("/metrics")
        if text is None or metric_in(text, "foldstream_scorer_waiting"):
            return False
        await asyncio.sleep(0.5)
    return True


SCENARIOS = (
    Scenario(
        name="slow-store",
        title="a backlog before a store with 0.1 s of latency and 2 MB/s",
        promise="buffers bounded, no rebalance, nothing lost; catch-up measured",
        default_minutes=3,
        run=slow_store,
    ),
    Scenario(
        name="slow-broker",
        title="a backlog behind a broker with 0.2 s of latency and 0.5 MB/s",
        promise="buffers bounded, no rebalance, nothing lost; catch-up measured",
        default_minutes=3,
        run=slow_broker,
    ),
    Scenario(
        name="slow-scorer",
        title="a scorer that sleeps nine tenths of the time beside an updater at full speed",
        promise="the updater doesn't wait for it; users waiting bounded; catch-up measured",
        default_minutes=4,
        run=slow_scorer,
    ),
)
