"""Everything at once: a seeded schedule of all faults, then peace, then the verifier."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from agents.chaos.bed import Bed
from agents.chaos.faults import FAULTS, Blow, Stage, schedule
from agents.chaos.keeper import Keeper
from agents.chaos.links import linked
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import named, verify
from agents.chaos.watcher import Watcher

RATE_PER_S = 1_000.0
MEAN_GAP_S = 5.0
NOTICED_S = 10.0
"""After a cut the first sample of a store that answers again shows the fall."""


async def nemesis(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Two workers to begin with; faults overlap, but one target has one at a time."""
    seconds = plan.minutes * 60 * min(1.0, max(plan.share, 0.2))
    blows = schedule(draw, FAULTS, 0.75 * seconds, MEAN_GAP_S)
    async with linked(bed) as links, Watcher(bed) as watcher, Keeper() as keeper:
        stage = Stage(bed, keeper, links)
        for _ in range(2):
            await stage.add_worker()
        load = Load(bed, plan.seed, 10_000_000, RATE_PER_S)
        report.check(await watcher.reached(1_000, 180), "folding begins")
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for blow in blows:
                group.create_task(_strike(blow, stage, began, report))
            await asyncio.sleep(seconds)
        peace_s = time.monotonic()
        await load.stop()
        await verify(bed, report, watcher, falls_allowed=True)
        report.figure("peace to the end", round(time.monotonic() - peace_s, 1), "s")
    unexplained = [
        f"partition {fall.partition} from {fall.before} to {fall.after}"
        for fall in watcher.falls
        if not any(0 <= fall.at_s - cut_s < NOTICED_S for cut_s in stage.cuts)
    ]
    report.check(
        not unexplained, "a next_offset falls only where the store was cut", named(unexplained)
    )
    struck = Counter(blow.fault.name for blow in blows)
    report.figure("faults", len(blows))
    report.figure("workers that ended by themselves", len(keeper.exits))
    report.figure("restarts for /livez", keeper.n_restarts_for_livez)
    codes = Counter(code for _, code in keeper.exits)
    if codes:
        report.note("exits by code: " + ", ".join(f"{n} x {code}" for code, n in codes.items()))
    report.note(", ".join(f"{n} x {name}" for name, n in struck.most_common()) or "no fault drawn")


async def _strike(blow: Blow, stage: Stage, began: float, report: Report) -> None:
    await asyncio.sleep(max(0.0, began + blow.at_s - time.monotonic()))
    report.step(str(blow))
    await blow.fault.strike(stage, blow.pick, blow.seconds)


SCENARIOS = (
    Scenario(
        "nemesis",
        "60 s of all faults mixed, by a seeded schedule",
        "facts are an undisturbed fold's, nothing is lost, doubled, stale or unannounced",
        1.0,
        nemesis,
        default_runs=100,
        partitions=8,
        timed=False,
    ),
)
