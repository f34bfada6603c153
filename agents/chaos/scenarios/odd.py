"""Odd moments inside one worker: its clock jumps, its tasks are cancelled at random."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from agents.chaos.bed import Bed
from agents.chaos.keeper import Keeper
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.silence import Listener, Look, longest_silence
from agents.chaos.verifier import verify
from agents.chaos.victim import VictimOrder, set_clock, struck_in
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import NotWithin, WorkerProcess, metric_in, until
from agents.cli.common import Exit

RATE_PER_S = 1_000.0
DAY_MS = 86_400_000
JUMPS_MS = (
    1_000, -1_000, 60_000, -60_000, 3_600_000, -7_200_000, 400 * DAY_MS, -10_000 * DAY_MS, 0
)  # fmt: skip
EVERY_S = 5.0
STILL_S = 5.0
LISTS_S = 120.0

CANCEL_EVERY_S = (0.5, 2.0)
"""Means of the two workers: one that hardly lives, and one that has to live with it."""

CALM_S = 10.0
SILENT_S = 10.0
"""Events come for every partition all the time, and a ready worker commits several times a second;
`/readyz` tells a slow store and a broker that is away within 5 s."""

BACK_S = 120.0
"""A start takes 10 s, on a machine full of other tests half a minute; a session 6 s."""


async def clock_jump(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """One worker whose wall clock jumps to and fro; broker, store and producers keep theirs."""
    clock = bed.folder / "clock"
    set_clock(clock, 0)
    jumps = [draw.choice(JUMPS_MS) for _ in range(plan.scaled(2 * len(JUMPS_MS), 3))]
    if plan.share >= 1:
        jumps[: len(JUMPS_MS)] = draw.sample(JUMPS_MS, len(JUMPS_MS))
    victim = bed.victim(
        "w0", VictimOrder(clock=str(clock)), agents=["updater", "catalogue", "scorer"]
    )
    async with Watcher(bed) as watcher, victim as worker:
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
        await _check_lists(worker, report)
    report.figure("jumps", len(jumps))
    report.figure("longest pause of a partition", round(slowest, 2), "s")
    report.check(
        slowest < STILL_S, f"no partition stands still for {STILL_S:g} s", f"{slowest:.1f} s"
    )
    report.note(
        "covers the wall clock of the worker's Python code (time.time, time.time_ns); not C code, "
        "and not the clocks of broker and store"
    )


async def _check_lists(worker: WorkerProcess, report: Report) -> None:
    """The scorer, too, goes on through every jump: it has told all users whose profile changed."""

    async def served() -> bool:
        text = await worker.get("/metrics")
        return text is not None and not metric_in(text, "foldstream_scorer_waiting")

    try:
        await until(served, "every user who changed has a list", LISTS_S)
    except NotWithin as late:
        report.check(False, "the scorer works off who waits", str(late))
    pushed = await worker.metric("foldstream_recommendations_total", kind="push")
    report.figure("lists pushed", pushed)
    report.check(pushed > 0, "lists are pushed")


async def cancel_storm(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Two workers whose tasks of the commit path are cancelled at random; what ends is started
    again, as an orchestrator would. Then calm: the same workers have to get through."""
    seconds = max(15.0, 60.0 * plan.share)
    calm = bed.folder / "calm"
    async with Watcher(bed) as watcher, Keeper() as keeper:
        for number, every_s in enumerate(CANCEL_EVERY_S):
            order = VictimOrder(
                cancel_every_s=every_s, calm=str(calm), seed=draw.randrange(1 << 30)
            )
            await keeper.keep(bed.victim(f"w{number}", order))
        load = Load(bed, plan.seed, 10_000_000, RATE_PER_S)
        report.check(await watcher.reached(1_000, 180), "folding begins")
        began = time.monotonic()
        async with Listener(lambda: keeper.workers) as listener:
            await asyncio.sleep(seconds)
            calm.touch()
            report.step("calm")
            took_s = await watcher.all_moved(BACK_S)
            report.check(
                took_s is not None,
                f"{BACK_S:g} s after the storm its own workers have moved every partition",
                str({p: watcher.position(p) for p in watcher.steps}),
            )
            await asyncio.sleep(CALM_S)
        await load.stop()
        _check_silence(watcher, listener.looks, began, report)
        codes = Counter(end.code for end in keeper.exits)
        struck = sum((struck_in(w.log.read_text("utf-8", "replace")) for w in keeper.workers),
                     Counter[str]())  # fmt: skip
        await verify(bed, report, watcher)  # of what the storm's own workers have folded
        for worker in keeper.workers:
            await worker.ready()  # or it says why not
    report.figure("tasks cancelled", struck.total())
    report.figure("workers that ended and were started again", codes.total())
    report.figure("restarts for /livez", keeper.n_restarts_for_livez)
    report.check(struck.total() > 0, "the storm strikes")
    report.check(
        set(codes) <= {int(Exit.FAILED)}, "a worker that ends names its failure", str(dict(codes))
    )
    report.note(", ".join(f"{n} x {name}" for name, n in struck.most_common()))


def _check_silence(watcher: Watcher, looks: Sequence[Look], began: float, report: Report) -> None:
    """No partition stands still while all workers run and say that they are ready."""
    silences = {
        partition: longest_silence([s.at_s for s in steps if s.at_s > began], looks)
        for partition, steps in watcher.steps.items()
    }
    longest = max(silences.values())
    report.figure("longest standstill with every worker ready", round(longest, 2), "s")
    report.figure(
        "looks at which every worker was ready",
        round(100 * sum(look.ready for look in looks) / max(1, len(looks))),
        "%",
    )
    report.check(
        longest < SILENT_S,
        f"no partition stands still for {SILENT_S:g} s while every worker says that it is ready",
        str({partition: round(s, 1) for partition, s in silences.items()}),
    )
    report.check(
        any(look.ready for look in looks), "every worker is ready at some time, so silence is seen"
    )


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
        "nothing is lost, doubled or applied by halves; no partition stands still for 10 s while "
        "every worker says that it is ready, and after the storm the same workers fold all",
        1.5,
        cancel_storm,
        default_runs=3,
        settings={"max_batch_events": 100},
        timed=False,
    ),
)
