"""Links that are cut, black-holed, reset and slowed, one after the other."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial

from agents.chaos.bed import Bed
from agents.chaos.link import Link
from agents.chaos.links import linked
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import NotWithin, WorkerProcess

FAULT_S = 30.0
NOTICED_S = 5.0
BACK_S = 10.0

RATE_PER_S = 1_000.0
"""Every partition has something to commit several times a second."""

LATENCY_S = 0.6
"""In each direction: 1.2 s for an answer, below every time-out and above what health calls slow."""

BYTES_PER_S = 500_000.0

BETWEEN_S = 3.0
"""Of quiet work between two faults."""

FAULTS: dict[str, Callable[[Link], Awaitable[None]]] = {
    "down": Link.cut,
    "black-holed": Link.black_hole,
    "reset": Link.reset,
    "slowed": partial(Link.slow, latency_s=LATENCY_S, bytes_per_s=BYTES_PER_S),
}


async def run_links(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Each fault of each link for 30 s, in a drawn order; small shares draw some of them."""
    cases = list(itertools.product(("broker", "store"), FAULTS))
    draw.shuffle(cases)
    cases = cases[: plan.scaled(len(cases))]
    seconds = max(NOTICED_S + 1, FAULT_S * min(1.0, plan.share * 4))
    async with (
        linked(bed) as links,
        Watcher(bed, keeps_log=True) as watcher,
        bed.worker("w0", agents=["updater", "catalogue", "scorer"], **links.settings) as worker,
    ):
        await worker.ready()
        load = Load(bed, plan.seed, 100_000_000, RATE_PER_S)
        await watcher.reached(int(RATE_PER_S))
        for name, fault in cases:
            case = f"{name} {fault}"
            await _until_ready(worker, report, case)
            report.step(f"{case} for {seconds:.0f} s")
            began = time.monotonic()
            await FAULTS[fault](links.named(name))
            noticed_s = await worker.names(name, 2 * NOTICED_S)
            await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
            await links.named(name).heal()
            back_s, ready_s = await asyncio.gather(
                watcher.all_moved(3 * BACK_S), worker.ready_after(3 * BACK_S)
            )
            note(report, case, noticed_s, back_s, ready_s)
            if not report.check(worker.alive(), f"{case}: the worker goes on", worker.log_tail()):
                break
            await asyncio.sleep(BETWEEN_S)
        await _until_ready(worker, report, "the end")
        await load.stop()
        report.figure("rebalances", await worker.metric("foldstream_rebalances_total"))
        await verify(bed, report, watcher)


async def _until_ready(worker: WorkerProcess, report: Report, before: str) -> None:
    try:
        await worker.ready(3 * BACK_S)
    except NotWithin as late:
        report.check(False, f"the worker is ready again before {before}", str(late))


def note(
    report: Report,
    case: str,
    noticed_s: float | None,
    back_s: float | None,
    ready_s: float | None,
) -> None:
    """Figures and checks of one fault; times are seconds, None: too late to be waited for."""
    report.figure(f"{case}: noticed", "never" if noticed_s is None else round(noticed_s, 1), "s")
    report.figure(f"{case}: committing again", "late" if back_s is None else round(back_s, 1), "s")
    report.check(
        noticed_s is not None and noticed_s <= NOTICED_S,
        f"{case}: /readyz names it within {NOTICED_S:g} s",
        f"{noticed_s} s",
    )
    report.check(
        back_s is not None and back_s <= BACK_S,
        f"{case}: every partition commits within {BACK_S:g} s of its end",
        f"{back_s} s",
    )
    report.figure(f"{case}: ready again", "late" if ready_s is None else round(ready_s, 1), "s")
    report.check(
        ready_s is not None and ready_s <= BACK_S,
        f"{case}: /readyz is good again within {BACK_S:g} s of its end",
        f"{ready_s} s",
    )


SCENARIOS = (
    Scenario(
        name="links",
        title="each link down, black-holed, reset, slowed for 30 s",
        promise="nothing lost; noticed within 5 s in `/readyz`; committing again, and ready, "
        "within 10 s",
        default_minutes=7,
        run=run_links,
    ),
)
