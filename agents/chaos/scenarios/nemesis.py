"""Everything at once: a seeded schedule of all faults, then peace, then the verifier."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from agents.chaos.bed import Bed
from agents.chaos.faults import FAULTS, Blow, Stage, schedule, unexplained
from agents.chaos.keeper import Keeper
from agents.chaos.links import linked
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import named, reaches_end, verify
from agents.chaos.watcher import Watcher
from agents.cli.common import Exit

RATE_PER_S = 1_000.0
MEAN_GAP_S = 5.0
NOTICED_S = 10.0
"""After a cut the first sample of a store that answers again shows the fall."""

PEACE_S = 90.0
"""From the last fault to the end of the log: the watchdog may take 60 s, a start of several workers
at once 15 s, and what waits is a minute's events at most, folded within a few seconds."""

CODES = frozenset({int(Exit.FAILED), int(Exit.NOT_THERE)})
"""With which a worker may end by itself while a neighbour is broken."""


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
        if await reaches_end(bed.settings(), report):
            took_s = time.monotonic() - peace_s
            report.figure("peace to the end", round(took_s, 1), "s")
            report.check(
                took_s < PEACE_S,
                f"{PEACE_S:g} s after the last fault all is folded",
                f"{took_s:.1f} s",
            )
        await verify(bed, report, watcher, falls_allowed=True)
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
    _judge_ends(keeper, stage, report)
    report.figure("restarts for /livez", keeper.n_restarts_for_livez)
    report.note(", ".join(f"{n} x {name}" for name, n in struck.most_common()) or "no fault drawn")


async def _strike(blow: Blow, stage: Stage, began: float, report: Report) -> None:
    await asyncio.sleep(max(0.0, began + blow.at_s - time.monotonic()))
    report.step(str(blow))
    struck_s = time.monotonic()
    await blow.fault.strike(stage, blow.pick, blow.seconds)
    stage.struck.append((blow.fault, struck_s, time.monotonic()))


def _judge_ends(keeper: Keeper, stage: Stage, report: Report) -> None:
    """Workers end by our hand, or because a neighbour was broken and with a word about it."""
    report.figure("workers that ended by themselves", len(keeper.exits))
    strange = unexplained(keeper.exits, stage.struck, CODES)
    report.check(
        not strange,
        "a worker ends by itself only where a fault explains it",
        named([f"{end.worker} with {end.code}" for end in strange]),
    )
    for how, ends in (("exits", keeper.exits), ("graceful stops", keeper.stops)):
        codes = Counter(end.code for end in ends)
        if codes:
            said = ", ".join(f"{n} x {code}" for code, n in codes.items())
            report.note(f"{how} by code: {said}")


SCENARIOS = (
    Scenario(
        "nemesis",
        "60 s of all faults mixed, by a seeded schedule",
        "facts are an undisturbed fold's, nothing is lost, doubled, stale or unannounced; all is "
        "folded within 90 s of peace, and no worker ends without a fault that explains it",
        1.0,
        nemesis,
        default_runs=100,
        partitions=8,
        timed=False,
    ),
)
