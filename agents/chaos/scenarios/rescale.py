"""Workers come and go under load."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Mapping, Sequence

from agents.bench.figures import percentile
from agents.chaos.bed import Bed
from agents.chaos.keeper import Keeper
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Gap, Watcher
from agents.chaos.worker_process import NotWithin, WorkerProcess, until

N_EVENTS = 2_000_000
SECONDS = 300.0
EVERY_S = 10.0
SIZES = (2, 4, 1, 3)
PAUSE_S = 5.0

HELD_S = 40.0
"""A change lasts longer than ten seconds where a machine needs them to start the workers; not
longer than this."""

ENDLESS = 100_000_000
"""Events keep coming for every partition until the last change is done."""


async def rescale(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """2, 4, 1, 3 workers and so on, ten seconds each; who goes is drawn, and stops in order."""
    seconds = max(2 * EVERY_S, SECONDS * plan.share)
    rate = N_EVENTS / SECONDS
    began: list[float] = []
    held_s: list[float] = []
    async with Watcher(bed, keeps_log=True) as watcher, Keeper() as keeper:
        for number in range(SIZES[0]):
            await keeper.keep(bed.worker(f"w{number}"))
        for worker in keeper.workers:
            await worker.ready()
        load = Load(bed, plan.seed, ENDLESS, rate)
        await watcher.reached(1)
        n_changes = round(seconds / EVERY_S) - 1
        names = iter(range(SIZES[0], 10_000))
        for change in range(1, n_changes + 1):
            began.append(time.monotonic())
            wanted = SIZES[change % len(SIZES)]
            report.step(f"{wanted} workers, change {change} of {n_changes}")
            while len(keeper.workers) > wanted:
                await keeper.let_go(draw.choice(keeper.workers))
            while len(keeper.workers) < wanted:
                await keeper.keep(bed.worker(f"w{next(names)}"))
            held_s.append(await _all_hold(bed, keeper.workers, began[-1], report))
            await asyncio.sleep(max(0.0, began[-1] + EVERY_S - time.monotonic()))
        ended = time.monotonic()
        await load.reached(rate * seconds)
        await load.stop()
        await verify(bed, report, watcher)
        report.check(not keeper.exits, "no worker ends by itself", str(keeper.exits))
    report.figure("changes", len(held_s))
    report.figure("all workers hold partitions after, slowest", round(max(held_s), 1), "s")
    gaps = watcher.gaps(began[0], ended)
    check_pauses(report, pauses_in(gaps, [*began, ended]), n_changes * bed.partitions)


async def _all_hold(
    bed: Bed, workers: Sequence[WorkerProcess], began_s: float, report: Report
) -> float:
    """Wait until every worker has partitions, and all partitions a worker; seconds since then."""

    async def hold() -> bool:
        held = [await worker.metric("foldstream_partitions_assigned") for worker in workers]
        return min(held) > 0 and sum(held) == bed.partitions

    try:
        await until(hold, f"{len(workers)} workers hold partitions", HELD_S)
    except NotWithin as late:
        report.check(False, "as many workers as wanted hold the partitions", str(late))
    return time.monotonic() - began_s


def pauses_in(gaps: Mapping[int, Sequence[Gap]], edges: Sequence[float]) -> list[float]:
    """Of each partition in each window between two edges the longest gap, whole: one that reaches
    over an edge counts with all its length, in every window that it touches."""
    return [
        max((gap.seconds for gap in of if gap.begin_s < end and gap.end_s > begin), default=0.0)
        for of in gaps.values()
        for begin, end in itertools.pairwise(edges)
    ]


def check_pauses(report: Report, pauses: Sequence[float], n_wanted: int) -> None:
    """99 of 100 are short enough, and there are as many as changes and partitions."""
    p99 = percentile(pauses, 0.99) or 0.0
    report.figure("pause of a partition p50", round(percentile(pauses, 0.5) or 0.0, 2), "s")
    report.figure("pause of a partition p99", round(p99, 2), "s")
    report.figure("pause of a partition, longest", round(max(pauses, default=0.0), 2), "s")
    report.check(
        n_wanted > 0 and sum(pause > 0 for pause in pauses) == n_wanted,
        "every partition's pause is measured in every change",
        f"{sum(pause > 0 for pause in pauses)} of {n_wanted}",
    )
    report.check(
        p99 < PAUSE_S,
        f"the longest pause of a partition in a change is under {PAUSE_S:g} s, 99 of 100 times",
        f"p99 {p99:.1f} s, longest {max(pauses, default=0.0):.1f} s",
    )


SCENARIOS = (
    Scenario(
        "rescale",
        "workers 2-4-1-3 every 10 s for 5 minutes, 2,000,000 events",
        "no gap, no double, digest equal; as many workers as wanted hold partitions; "
        "a partition's longest pause in a change is under 5 s, "
        "99 of 100 times",
        6.0,
        rescale,
        partitions=16,
    ),
)
