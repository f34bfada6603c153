"""SIGKILL between every two steps of the main path, by the worker itself at the very place."""

from __future__ import annotations

import random

from agents.chaos.bed import Bed
from agents.chaos.load import Load
from agents.chaos.points import POINTS
from agents.chaos.repeats import Stand, repeats_of, stand_of, without_excuse
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.victim import VictimOrder
from agents.chaos.watcher import Watcher

RATE_PER_S = 400.0
"""A backlog grows while a worker starts; behind it events go on coming, so that even a place that
is reached once a second is reached four times."""

SIGKILLED = 137
DEATH_S = 120.0


async def between_steps(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """All points in a drawn order, each with a worker that dies there at a drawn visit; then one
    that lives."""
    load = Load(
        bed, plan.seed, 10_000_000, RATE_PER_S, n_users=200, n_items=50, repeat=0.1, malformed=0.05
    )
    await load.reached(1_000)
    settings = bed.settings()
    deaths: list[Stand] = []
    async with Watcher(bed, keeps_log=True) as watcher:
        points = draw.sample(POINTS, max(2, round(len(POINTS) * min(1.0, plan.share))))
        for point in points:
            visit = draw.randint(1, 4)
            report.step(f"killed at {point!r}, visit {visit}")
            order = VictimOrder(point=point, visit=visit)
            async with bed.victim("w0", order) as victim:
                code = await victim.ended(DEATH_S)
            report.check(
                code == SIGKILLED, "the worker dies where it is told to",
                f"{point!r}: {code}; {victim.log_tail()[-300:] if code != SIGKILLED else ''}",
            )  # fmt: skip
            deaths.append(await stand_of(settings))
        await load.stop()
        async with bed.worker("w0"):
            await verify(bed, report, watcher)
    report.figure("kills", len(deaths))
    repeats = await repeats_of(settings)
    report.figure("batches announced twice", repeats.total())
    wrong = without_excuse(repeats, deaths, await stand_of(settings))
    report.check(
        not wrong,
        "a kill repeats the announcement of each partition's last commit at most, and once",
        f"too many, by partition: {wrong}",
    )


SCENARIOS = (
    Scenario(
        "between-steps",
        "SIGKILL between every two steps from fetch to Kafka commit",
        "facts are an undisturbed fold's; no announcement lost; no next_offset falls; a kill "
        "repeats, of each partition, at most the batch that it committed last, once",
        1.5,
        between_steps,
        default_runs=50,
        settings={"max_batch_events": 40, "cache_users": 1_000},
        timed=False,
    ),
)
