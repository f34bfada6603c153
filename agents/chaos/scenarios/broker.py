"""The broker goes away and comes back, in order and by SIGKILL."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.chaos.bed import Bed
from agents.chaos.keeper import Keeper
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
RESTARTED_S = 60.0
"""Where whoever watches `/livez` had to start the worker again."""


async def broker_restarts(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Five orderly stops and five kills, mixed, each for a drawn time, under load."""
    n_each = plan.scaled(N_EACH)
    ways = ["terminate", "kill"] * n_each
    draw.shuffle(ways)
    back: list[Back] = []
    noticed: list[float | None] = []
    async with Watcher(bed, keeps_log=True) as watcher, Keeper() as keeper:
        worker = bed.worker("w0")
        await keeper.keep(worker)
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
            named_s = await worker.names("broker", down_s)
            if named_s is not None or down_s > NOTICED_S:
                noticed.append(named_s)
            await asyncio.sleep(max(0.0, down_s - (time.monotonic() - gone_s)))
            n_restarts = keeper.n_restarts_for_livez
            await bed.broker.start()
            took_s = await watcher.all_moved(within_s=2 * RESTARTED_S)
            back.append(Back(took_s, keeper.n_restarts_for_livez > n_restarts))
            await asyncio.sleep(BETWEEN_S)
        await load.stop()
        await worker.ready(within_s=BACK_S)
        await verify(bed, report, watcher)
        report.check(not keeper.exits, "the worker goes on", f"{keeper.exits}")
        report.figure("restarts for /livez", keeper.n_restarts_for_livez)
    report.figure("outages", len(ways))
    check_back(report, back)
    check_noticed(report, noticed)


@dataclass(frozen=True, slots=True)
class Back:
    """After one outage. took_s: until every partition moved; None: too late to be waited for.
    restarted: by whoever watches `/livez`, meanwhile."""

    took_s: float | None
    restarted: bool

    @property
    def in_time(self) -> bool:
        """By itself within 30 s, or by a restart within 60 s."""
        most_s = RESTARTED_S if self.restarted else BACK_S
        return self.took_s is not None and self.took_s <= most_s


def check_back(report: Report, back: Sequence[Back]) -> None:
    """Every outage ends in time."""
    slowest = max(math.inf if one.took_s is None else one.took_s for one in back)
    said = round(slowest, 1) if math.isfinite(slowest) else "late"
    report.figure("committing again, slowest", said, "s")
    report.check(
        all(one.in_time for one in back),
        f"every partition commits again within {BACK_S:g} s of the broker's return, or the worker "
        f"is restarted for /livez, and it does within {RESTARTED_S:g} s",
        ", ".join(map(str, back)),
    )


def check_noticed(report: Report, noticed: Sequence[float | None]) -> None:
    """Of each outage when an answer named the broker; None: none did."""
    slowest = max((math.inf if one is None else one for one in noticed), default=0.0)
    said = round(slowest, 1) if math.isfinite(slowest) else "never"
    report.figure("noticed in /readyz, slowest", said, "s")
    report.check(
        slowest <= NOTICED_S,
        f"/readyz names the broker within {NOTICED_S:g} s of its going away",
        f"slowest {said} s",
    )


SCENARIOS = (
    Scenario(
        "broker",
        "broker SIGTERM x5, SIGKILL x5, each away for up to 12 s",
        "every acknowledged event is folded once; committing again within 30 s of its return, "
        "or restarted by whoever watches /livez and committing within 60 s; "
        "named in /readyz within 5 s",
        4.0,
        broker_restarts,
    ),
)
