"""SIGKILL of workers at random moments."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.chaos.bed import SESSION_MS, Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import WorkerProcess
from agents.store_access import store_of

N_EVENTS = 1_000_000
N_KILLS = 20
RATE_PER_S = 5_000.0
"""Events keep coming for every partition all the time, so that a standstill shows."""

BACK_S = SESSION_MS / 1_000 + 3.0
SETTLED_S = 0.2
"""After a kill: what the kernel still had in flight for the dead worker has arrived. A commit seen
before that is no sign that anybody is back."""

SNAPSHOT_S = 2.0
SNAPSHOT_SLACK_S = 1.0
"""The interval runs from the end of one snapshot to the beginning of the next."""


async def kill_one(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """The only worker is killed again and again; what its item table lost is counted."""
    await _kill(bed, draw, report, plan, n_workers=1)


async def kill_of_two(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """One of two workers, drawn each time; it comes back at once, or after the other took over."""
    await _kill(bed, draw, report, plan, n_workers=2)


async def _kill(bed: Bed, draw: random.Random, report: Report, plan: Plan, n_workers: int) -> None:
    n_events, n_kills = plan.scaled(N_EVENTS, 30_000), plan.scaled(N_KILLS, 2)
    workers = [bed.worker(f"w{n}") for n in range(n_workers)]
    learning = _Learning(bed, report)
    kills: list[_Kill] = []
    async with Watcher(bed) as watcher:
        for worker in workers:
            await worker.start()
        for worker in workers:
            await worker.ready()
        load = Load(bed, plan.seed, n_events, RATE_PER_S)
        for number in range(n_kills):
            mark = (number + draw.random()) / n_kills * n_events * 0.95
            await load.reached(mark)
            await asyncio.sleep(draw.random() * 0.05)
            victim = draw.choice(workers)
            back_at_once = n_workers == 1 or draw.random() < 0.5
            report.step(f"kill {number + 1} of {n_kills}: {victim.name}")
            await victim.kill()
            at_s = time.monotonic()
            await asyncio.sleep(SETTLED_S)
            await watcher.sample()
            kills.append(_Kill(at_s, time.monotonic()))
            if n_workers == 1:
                await learning.look(watcher, at_s)
            if not back_at_once:
                await asyncio.sleep(SESSION_MS / 1_000 + draw.random())
            await victim.start()
            if n_workers == 1:
                await victim.ready()
                await learning.compare(victim)
        await load.done()
        ended = time.monotonic()
        await verify(bed, report, watcher)
    back = _back_after(kills, watcher, ended)
    report.figure("kills", len(kills))
    report.figure("back to committing, slowest", round(max(back), 2), "s")
    report.check(
        max(back) <= BACK_S,
        f"every partition is committed again within {BACK_S:g} s of a kill",
        f"slowest {max(back):.1f} s",
    )
    if n_workers == 1:
        learning.report()
    else:
        await _note_learning(workers, report)


@dataclass(frozen=True, slots=True)
class _Kill:
    """at_s: the worker is gone. settled_s: its last commits have been seen. Monotonic seconds."""

    at_s: float
    settled_s: float


def _back_after(kills: Sequence[_Kill], watcher: Watcher, ended: float) -> list[float]:
    """For each kill the longest time until a partition moved (a later kill starts it anew)."""
    found = []
    for number, kill in enumerate(kills):
        until = kills[number + 1].at_s if number + 1 < len(kills) else ended
        slowest = 0.0
        for steps in watcher.steps.values():
            moved = (
                step.at_s
                for step, before in zip(steps[1:], steps, strict=False)
                if step.at_s > kill.settled_s and step.next_offset > before.next_offset
            )
            slowest = max(slowest, min(next(moved, until), until) - kill.at_s)
        found.append(slowest)
    return found


class _Learning:
    """What the item table of a single worker loses by a kill, told by the store alone."""

    def __init__(self, bed: Bed, report: Report) -> None:
        self._settings = bed.settings()
        self._report = report
        self._expected = 0
        self._ages: list[float] = []
        self._lost = 0
        self._n_kills = 0
        self._stood: dict[int, int] = {}  # at the kill before: what it lost is not lost again

    async def look(self, watcher: Watcher, now: float) -> None:
        """Behind a kill at `now`: how far the checkpoints are ahead of the item snapshot."""
        async with store_of(self._settings) as store:
            snapshot = await store.read_item_snapshot()
        learned_to = dict(snapshot.next_offsets) if snapshot else {}
        self._expected = 0
        age = 0.0
        for partition, steps in watcher.steps.items():
            at = learned_to.get(partition, 0)
            self._expected += watcher.position(partition) - at
            at = max(at, self._stood.get(partition, 0))
            self._lost += watcher.position(partition) - at
            beyond = next((step.at_s for step in steps if step.next_offset > at), now)
            age = max(age, now - beyond)
            self._stood[partition] = watcher.position(partition)
        self._ages.append(age)

    async def compare(self, worker: WorkerProcess) -> None:
        """After its restart: it has counted that, less what the item deltas brought back."""
        counted = await worker.metric("foldstream_model_events_lost_total")
        relearned = await worker.metric("foldstream_model_events_relearned_total")
        self._n_kills += 1
        shared = self._settings.exchange_bytes_per_s > 0
        self._report.check(
            relearned == 0 and (counted <= self._expected if shared else counted == self._expected),
            "the item learning counted as lost is what lay behind the snapshot"
            + (", less what item deltas brought back" if shared else "")
            + ", and none is repeated",
            f"kill {self._n_kills}: {counted:.0f} counted, {self._expected} by the store",
        )

    def report(self) -> None:
        """The bound over all kills."""
        oldest = max(self._ages)
        self._report.figure("item learning behind the snapshot at a kill", self._lost, "events")
        self._report.figure("oldest item learning lost", round(oldest, 2), "s")
        self._report.check(
            oldest <= SNAPSHOT_S + SNAPSHOT_SLACK_S,
            f"a kill loses at most the {SNAPSHOT_S:g} s of item learning since the last snapshot",
            f"{oldest:.1f} s",
        )


async def _note_learning(workers: Sequence[WorkerProcess], report: Report) -> None:
    for name in ("lost", "relearned"):
        counted = [await w.metric(f"foldstream_model_events_{name}_total") for w in workers]
        report.figure(f"item learning {name}, counted since the last start", sum(counted), "events")


SCENARIOS = (
    Scenario(
        "kill",
        "SIGKILL of the worker at 20 random moments of 1,000,000 events, 4 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s; item learning lost at most the snapshot interval, and counted",
        4.0,
        kill_one,
        partitions=4,
        # Without item deltas the store alone tells how much must be counted.
        settings={"item_snapshot_interval_s": SNAPSHOT_S, "exchange_bytes_per_s": 0},
    ),
    Scenario(
        "kill-16",
        "SIGKILL of the worker at 20 random moments of 1,000,000 events, 16 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s; item learning lost at most the snapshot interval, and counted",
        6.0,
        kill_one,
        partitions=16,
        settings={"item_snapshot_interval_s": SNAPSHOT_S},
    ),
    Scenario(
        "kill-of-two",
        "SIGKILL of one of two workers at 20 random moments of 1,000,000 events, 16 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s",
        4.0,
        kill_of_two,
        partitions=16,
        settings={"item_snapshot_interval_s": SNAPSHOT_S},
    ),
)
