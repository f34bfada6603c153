"""The broker goes away and comes back, in order and by SIGKILL."""

from __future__ import annotations

import asyncio
import random
import time

from agents.chaos.bed import Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher

N_EACH = 5
RATE_PER_S = 2_000.0
BETWEEN_S = 4.0
"""Of quiet work between two outages: longer than any back-off."""

MOST_DOWN_S = 12.0
"""Twice the session time-out: short outages and long ones are drawn alike."""

NOTICED_S = 5.0
BACK_S = 30.0


async def broker_restarts(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Five orderly stops and five kills, mixed, each for a drawn time, under load."""
    n_each = plan.scaled(N_EACH)
    ways = ["terminate", "kill"] * n_each
    draw.shuffle(ways)
    back: list[float] = []
    noticed: list[float] = []
    async with Watcher(bed) as watcher, bed.worker("w0") as worker:
        await worker.ready()
        # So many that it goes on until it is stopped.
        load = Load(bed, plan.seed, 100_000_000, RATE_PER_S)
        await watcher.reached(int(RATE_PER_S))
        for number, way in enumerate(ways):
            down_s = draw.uniform(0.0, MOST_DOWN_S)
            report.step(f"{way} {number + 1} of {len(ways)}, down for {down_s:.1f} s")
            if way == "kill":
                await bed.broker.kill()
            else:
                await bed.broker.terminate()
            gone_s = time.monotonic()
            while time.monotonic() - gone_s < down_s:
                status, _ = await worker.readyz()
                if status != 200:
                    noticed.append(time.monotonic() - gone_s)
                    break
                await asyncio.sleep(0.1)
            else:
                if down_s > NOTICED_S:
                    noticed.append(down_s)
            await asyncio.sleep(max(0.0, down_s - (time.monotonic() - gone_s)))
            await bed.broker.start()
            took_s = await watcher.all_moved(within_s=2 * BACK_S)
            back.append(2 * BACK_S if took_s is None else took_s)
            report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
            await asyncio.sleep(BETWEEN_S)
        await load.stop()
        await worker.ready(within_s=BACK_S)
        await verify(bed, report, watcher)
    report.figure("outages", len(ways))
    report.figure("committing again, slowest", round(max(back), 1), "s")
    report.figure("noticed in /readyz, slowest", round(max(noticed, default=0.0), 1), "s")
    report.check(
        max(back) <= BACK_S,
        f"every partition commits again within {BACK_S:g} s of the broker's return",
        f"slowest {max(back):.1f} s",
    )
    report.check(
        max(noticed, default=0.0) <= NOTICED_S,
        f"/readyz says within {NOTICED_S:g} s that the broker is away",
        f"slowest {max(noticed, default=0.0):.1f} s",
    )


SCENARIOS = (
    Scenario(
        "broker",
        "broker SIGTERM x5, SIGKILL x5, each away for up to 12 s",
        "every acknowledged event is folded once; committing again within 30 s of its return; "
        "said in /readyz within 5 s",
        4.0,
        broker_restarts,
    ),
)
