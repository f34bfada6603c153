"""A worker that is frozen longer than its session, and goes on as if nothing had happened."""

from __future__ import annotations

import asyncio
import random
import time

from agents.chaos.bed import SESSION_MS, Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.victim import VictimOrder
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import NotWithin, WorkerProcess, until
from agents.store_access import store_of

RATE_PER_S = 1_000.0
FROZEN_S = 3 * SESSION_MS / 1_000
BACK_S = 15.0
REFUSED = "fenced "
"""In the log of a worker for each commit that the store refused; also of one that ended since."""

PLACES = ("commit due", "acquired", "anywhere")


async def zombie(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """One zombie: frozen between WATCH and EXEC, inside the assign callback, or anywhere; its heir
    works on meanwhile. Which of the three is the seed's."""
    place = PLACES[plan.seed % len(PLACES)]
    report.figure("frozen at", place)
    load = Load(bed, plan.seed, 1_000_000, RATE_PER_S)
    async with Watcher(bed, keeps_log=True) as watcher:
        await load.reached(500)
        async with bed.victim("w0", _order(place, draw)) as frozen:
            if place == "anywhere":
                await frozen.ready()
                held = watcher.total
                await watcher.reached(held + 2_000)
                await asyncio.sleep(draw.random())
                frozen.pause()
            await until(lambda: frozen.state() == "T", f"it is frozen at {place!r}", 120)
            stopped_s = time.monotonic()
            epochs = await _epochs(bed)
            async with bed.worker("w1") as heir:
                await heir.ready()
                await asyncio.sleep(max(0.0, FROZEN_S - (time.monotonic() - stopped_s)))
                await _inherited(bed, watcher, heir, epochs, report)
                frozen.resume()
                resumed_s = time.monotonic()
                await _comes_back(bed, frozen, heir, resumed_s, report)
                refused = frozen.log.read_text(errors="replace").count(REFUSED)
                report.figure("commits refused", refused)
                if place == "commit due":
                    report.check(
                        refused > 0, "the commit that it was about to send is refused",
                        frozen.log_tail()[-300:],
                    )  # fmt: skip
                await asyncio.sleep(2.0 + draw.random())  # both fold side by side
                await load.stop()
                # At the other places it may have tried no commit before it hears of its loss. What
                # it did try was refused: one of its old claim would be, in the store's own file,
                # far below the heir's.
                await verify(bed, report, watcher)
                report.check(heir.alive(), "the heir goes on", heir.log_tail()[-300:])


def _order(place: str, draw: random.Random) -> VictimOrder:
    if place == "anywhere":
        return VictimOrder()
    visit = draw.randint(5, 60) if place == "commit due" else draw.randint(1, 4)
    return VictimOrder(point=place, visit=visit, signal="SIGSTOP")


async def _epochs(bed: Bed) -> dict[int, int]:
    async with store_of(bed.settings()) as store:
        found = {p: await store.read_checkpoint(p) for p in range(bed.partitions)}
    return {p: checkpoint.epoch if checkpoint else 0 for p, checkpoint in found.items()}


async def _inherited(
    bed: Bed, watcher: Watcher, heir: WorkerProcess, epochs: dict[int, int], report: Report
) -> None:
    """The heir has acquired every partition: whatever the zombie holds is an old claim."""

    async def acquired() -> bool:
        now = await _epochs(bed)
        return all(now[p] > epochs[p] for p in now)

    try:
        await until(acquired, "every partition has a new owner", 30)
    except NotWithin as late:
        report.check(False, "the heir has all partitions while the zombie sleeps", str(late))
    moved = await watcher.moved(watcher.total, 10)
    report.check(moved is not None, "the heir commits while the zombie sleeps")


async def _comes_back(
    bed: Bed, frozen: WorkerProcess, heir: WorkerProcess, resumed_s: float, report: Report
) -> None:
    """It has ended, or has partitions that were dealt anew since it woke."""
    at_first = await _epochs(bed)

    async def back() -> bool:
        if not frozen.alive():
            return True
        now = await _epochs(bed)
        held = [await w.metric("foldstream_partitions_assigned") for w in (frozen, heir)]
        return any(now[p] > at_first[p] for p in now) and min(held) > 0

    try:
        await until(back, "it is back", BACK_S)
    except NotWithin:
        report.check(
            False, f"a zombie rejoins or ends within {BACK_S:g} s",
            f"{await frozen.readyz()}; {frozen.log_tail()[-300:]}",
        )  # fmt: skip
        return
    report.figure("the zombie", "rejoined" if frozen.alive() else f"ended with {frozen.exit_code}")
    report.figure("back after", round(time.monotonic() - resumed_s, 1), "s")


SCENARIOS = (
    Scenario(
        "zombie",
        "a worker stopped for three session time-outs, in WATCH..EXEC, in the assign callback, or "
        "anywhere, then continued",
        "its commit is refused where one was due, none of an old claim is applied, nothing stale "
        "is written, no next_offset falls, it rejoins or exits within 15 s",
        0.8,
        zombie,
        default_runs=50,
        settings={"max_batch_events": 200},
    ),
)
