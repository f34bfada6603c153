"""Workers come and go under load."""

from __future__ import annotations

import asyncio
import random
import time

from agents.bench.figures import percentile
from agents.chaos.bed import Bed
from agents.chaos.keeper import Keeper
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher

N_EVENTS = 2_000_000
SECONDS = 300.0
EVERY_S = 10.0
SIZES = (2, 4, 1, 3)
PAUSE_S = 5.0


async def rescale(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """2, 4, 1, 3 workers and so on, ten seconds each; who goes is drawn, and stops in order."""
    seconds = max(2 * EVERY_S, SECONDS * plan.share)
    rate = N_EVENTS / SECONDS
    pauses: list[float] = []
    async with Watcher(bed) as watcher, Keeper() as keeper:
        for number in range(SIZES[0]):
            await keeper.keep(bed.worker(f"w{number}"))
        for worker in keeper.workers:
            await worker.ready()
        load = Load(bed, plan.seed, round(rate * seconds), rate)
        await watcher.reached(1)
        n_changes = round(seconds / EVERY_S) - 1
        names = iter(range(SIZES[0], 10_000))
        for change in range(1, n_changes + 1):
            began = time.monotonic()
            wanted = SIZES[change % len(SIZES)]
            report.step(f"{wanted} workers, change {change} of {n_changes}")
            while len(keeper.workers) > wanted:
                await keeper.let_go(draw.choice(keeper.workers))
            while len(keeper.workers) < wanted:
                await keeper.keep(bed.worker(f"w{next(names)}"))
            await asyncio.sleep(max(0.0, began + EVERY_S - time.monotonic()))
            if load.finished:
                break
            pauses += watcher.standstills(began, time.monotonic()).values()
        await load.done()
        await verify(bed, report, watcher)
        report.check(not keeper.exits, "no worker ends by itself", str(keeper.exits))
    p99 = percentile(pauses, 0.99) or 0.0
    report.figure("changes", n_changes)
    report.figure("pause of a partition p50", round(percentile(pauses, 0.5) or 0.0, 2), "s")
    report.figure("pause of a partition p99", round(p99, 2), "s")
    report.check(
        p99 < PAUSE_S,
        f"the longest pause of a partition in a change is under {PAUSE_S:g} s, 99 of 100 times",
        f"p99 {p99:.1f} s, longest {max(pauses, default=0.0):.1f} s",
    )


SCENARIOS = (
    Scenario(
        "rescale",
        "workers 2-4-1-3 every 10 s for 5 minutes, 2,000,000 events",
        "no gap, no double, digest equal; a partition's longest pause in a change is under 5 s, "
        "99 of 100 times",
        6.0,
        rescale,
        partitions=16,
    ),
)
