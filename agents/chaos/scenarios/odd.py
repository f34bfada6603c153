"""Odd moments inside one worker: its clock jumps, its tasks are cancelled at random."""

from __future__ import annotations

import asyncio
import random
import time

from agents.chaos.bed import Bed
from agents.chaos.keeper import Keeper
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.victim import VictimOrder, set_clock
from agents.chaos.watcher import Watcher

RATE_PER_S = 1_000.0
DAY_MS = 86_400_000
JUMPS_MS = (
    1_000, -1_000, 60_000, -60_000, 3_600_000, -7_200_000, 400 * DAY_MS, -10_000 * DAY_MS, 0
)  # fmt: skip
EVERY_S = 5.0
STILL_S = 5.0


async def clock_jump(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """One worker whose wall clock jumps to and fro; broker, store and producers keep theirs."""
    clock = bed.folder / "clock"
    set_clock(clock, 0)
    jumps = [draw.choice(JUMPS_MS) for _ in range(plan.scaled(2 * len(JUMPS_MS), 3))]
    if plan.share >= 1:
        jumps[: len(JUMPS_MS)] = draw.sample(JUMPS_MS, len(JUMPS_MS))
    async with Watcher(bed) as watcher, bed.victim("w0", VictimOrder(clock=str(clock))) as worker:
        await worker.ready()
        load = Load(bed, plan.seed, 10_000_000, RATE_PER_S)
        await watcher.reached(2_000)
        began = time.monotonic()
        for jump in jumps:
            report.step(f"the clock is off by {jump / 1_000:,.0f} s")
            set_clock(clock, jump)
            await asyncio.sleep(EVERY_S * (0.5 + draw.random()))
            status, said = await worker.ask("/livez")
            report.check(status == 200, "it lives through a jump of its clock", f"{jump}: {said}")
        slowest = max(watcher.standstills(began, time.monotonic()).values())
        await load.stop()
        await verify(bed, report, watcher)
        report.check(worker.alive(), "no worker ends by itself", worker.log_tail()[-300:])
        status, document = await worker.readyz()
        report.check(status == 200, "it is ready in the end", str(document))
    report.figure("jumps", len(jumps))
    report.figure("longest pause of a partition", round(slowest, 2), "s")
    report.check(
        slowest < STILL_S, f"no partition stands still for {STILL_S:g} s", f"{slowest:.1f} s"
    )
    report.note(
        "covers the wall clock of the worker's Python code (time.time, time.time_ns); not C code, "
        "and not the clocks of broker and store"
    )


async def cancel_storm(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Two workers whose tasks of the commit path are cancelled at random; what ends is started
    again, as an orchestrator would."""
    seconds = max(15.0, 60.0 * plan.share)
    async with Watcher(bed) as watcher, Keeper() as keeper:
        for number in range(2):
            order = VictimOrder(cancel_every_s=0.5, seed=draw.randrange(1 << 30))
            await keeper.keep(bed.victim(f"w{number}", order))
        load = Load(bed, plan.seed, 10_000_000, RATE_PER_S)
        report.check(await watcher.reached(1_000, 180), "folding begins")
        await asyncio.sleep(seconds)
        await load.stop()
        n_exits = len(keeper.exits)
        for worker in list(keeper.workers):
            await keeper.let_go(worker)
        report.figure("workers that ended and were started again", n_exits)
        report.check(n_exits > 0, "the storm strikes")
        async with bed.worker("w9"):
            await verify(bed, report, watcher)


SCENARIOS = (
    Scenario(
        "clock-jump",
        "a worker's wall clock jumps by seconds to years, forth and back",
        "facts are an undisturbed fold's; it lives, is ready, and goes on committing",
        2.0,
        clock_jump,
    ),
    Scenario(
        "cancel-storm",
        "tasks of the commit path, the commit itself included, are cancelled at random",
        "nothing is lost, doubled or applied by halves; a partition never stands still in silence",
        1.5,
        cancel_storm,
        default_runs=3,
        settings={"max_batch_events": 100},
        timed=False,
    ),
)
