"""SIGKILL of workers at random moments."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from agents.chaos.bed import SESSION_MS, Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import messages_of, verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import NotWithin, WorkerProcess, metric_in, until
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store_items import Lineage, StoredSnapshot
from streams.item_deltas import decode_deltas

LOST = "foldstream_model_events_lost_total"
RELEARNED = "foldstream_model_events_relearned_total"
TOOK = "foldstream_item_snapshot_seconds"
LAG = "foldstream_partition_lag"

N_EVENTS = 1_000_000
N_KILLS = 20
RATE_PER_S = 2_000.0
"""20 kills are 25 s apart then, and what waited for an heir, 6 s of half of that, is folded within
two seconds also on a machine that does many other things."""

MARGIN = 0.4
"""Each kill falls into this part of its share of the events: the one before had its time by then,
also where a start takes longer."""

ENDLESS = 100_000_000
"""Events keep coming for every partition until the last kill had its time, so that a standstill
shows."""

BACK_S = SESSION_MS / 1_000 + 3.0
SETTLED_S = 0.2
"""After a kill: what the kernel still had in flight for the dead worker has arrived. A commit seen
before that is no sign that anybody is back."""

SEEN_S = 0.5
"""What a standstill may be longer than the time that it takes to be back: the last commit before
the kill, and the looks at the store."""

SNAPSHOT_S = 2.0
SNAPSHOT_TOOK_S = 1.0
"""The least that the snapshot under way at a kill is granted: one pause of a busy machine."""

TAKEN_OVER_S = 30.0
"""So long the victim's partitions are waited for, to see what was counted; that it is in time is
another check."""

SETTLE_S = 10.0
"""So long it is waited for until the workers name all partitions as held, each once."""

COUNTED_S = 0.5
"""From the acquisition of the last partition until no more of it can be counted."""

TOLD_S = 60.0
"""So far back item deltas are read: many times the age of any snapshot."""


async def kill_one(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """The only worker is killed again and again; what its item table lost is counted."""
    await _kill(bed, draw, report, plan, n_workers=1)


async def kill_of_two(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """One of two workers, drawn each time; it comes back at once, or after the other took over."""
    await _kill(bed, draw, report, plan, n_workers=2)


async def _kill(bed: Bed, draw: random.Random, report: Report, plan: Plan, n_workers: int) -> None:
    n_events, n_kills = plan.scaled(N_EVENTS, 30_000), plan.scaled(N_KILLS, 2)
    workers = [bed.worker(f"w{n}") for n in range(n_workers)]
    learning = Learning(bed, report)
    kills: list[Kill] = []
    async with Watcher(bed, keeps_log=True) as watcher:
        for worker in workers:
            await worker.start()
        for worker in workers:
            await worker.ready()
        load = Load(bed, plan.seed, ENDLESS, RATE_PER_S)
        await watcher.reached(1)
        began = time.monotonic()
        for number in range(n_kills):
            mark = (number + draw.random() * MARGIN) / n_kills * n_events
            await load.reached(mark)
            await _time_of_the_last(kills)
            for worker in workers:
                await worker.ready()  # else there is nobody who could take over
            victim = draw.choice(workers)
            back_at_once = n_workers == 1 or draw.random() < 0.5
            report.step(f"kill {number + 1} of {n_kills}: {victim.name}")
            await learning.before(victim, workers)
            await asyncio.sleep(draw.random() * 0.05)
            await victim.kill()
            at_s = time.monotonic()
            await asyncio.sleep(SETTLED_S)
            await watcher.sample()
            kills.append(Kill(at_s, time.monotonic()))
            await learning.look(watcher, at_s)
            if not back_at_once:
                await asyncio.sleep(SESSION_MS / 1_000 + draw.random())
            await victim.start()
            await learning.compare(watcher, workers)
        await load.reached(n_events)
        await _time_of_the_last(kills)
        ended = time.monotonic()
        await learning.since_last(workers)
        await load.stop()
        await verify(bed, report, watcher)
    report.figure("kills", len(kills))
    check_back(report, kills, watcher, began, ended)
    learning.report()


async def _time_of_the_last(kills: Sequence[Kill]) -> None:
    """The last blow has had its time before the next one falls."""
    if kills:
        await asyncio.sleep(max(0.0, kills[-1].at_s + BACK_S + SEEN_S - time.monotonic()))


@dataclass(frozen=True, slots=True)
class Kill:
    """at_s: the worker is gone. settled_s: its last commits have been seen. Monotonic seconds."""

    at_s: float
    settled_s: float


def check_back(
    report: Report, kills: Sequence[Kill], watcher: Watcher, began: float, ended: float
) -> None:
    """Every partition moves again in time, whatever was killed later, and none stands longer."""
    slowest = max(
        next((at_s for at_s in watcher.moves(partition) if at_s > kill.settled_s), ended)
        - kill.at_s
        for kill in kills
        for partition in watcher.steps
    )
    report.figure("back to committing, slowest", round(slowest, 2), "s")
    report.check(
        slowest <= BACK_S,
        f"every partition is committed again within {BACK_S:g} s of a kill",
        f"slowest {slowest:.1f} s",
    )
    longest = max(
        (gap for gaps in watcher.gaps(began, ended).values() for gap in gaps),
        key=lambda gap: gap.seconds,
    )
    report.figure("longest standstill of a partition", round(longest.seconds, 2), "s")
    report.check(
        longest.seconds <= BACK_S + SEEN_S,
        f"no partition stands still for more than {BACK_S + SEEN_S:g} s, whoever was killed",
        f"partition {longest.partition} for {longest.seconds:.1f} s",
    )


class Learning:
    """What item tables lose by a kill, told by the store and the topic of item deltas alone.

    What was learned of a victim's partition is kept up to where the snapshot goes, or the messages
    that whoever goes on from it adds; the rest must be counted by whoever takes the partition over,
    event by event. A worker that runs on may lack a last message that the snapshot counts as told
    and the victim took with it (docs/guarantees.md): that much more may be counted, and no more.
    """

    def __init__(self, bed: Bed, report: Report) -> None:
        self._settings = bed.settings()
        self._report = report
        self._victims: frozenset[int] | None = None  # its partitions; None: it is not known
        self._others = 0  # workers that run on
        self._counted = 0.0
        self._expected: int | None = None  # of the last kill; None: nothing to compare
        self._epochs: dict[int, int] = {}  # of its partitions, as it left them
        self._unsaid = 0  # events that a worker which runs on may count besides
        self._ages: list[float] = []
        self._took_s = 0.0
        self._lost = 0
        self._n_kills = 0
        self._n_compared = 0
        self._stood: dict[int, int] = {}  # at the kill before: what it lost is not lost again
        self._after: dict[WorkerProcess, float] = {}  # what each had counted behind the last kill
        self._spare = 0.0  # events of the last kill that may still be counted

    async def before(self, victim: WorkerProcess, workers: Sequence[WorkerProcess]) -> None:
        """Right before a kill: who has which partition, and what the others have counted."""
        await self.since_last(workers)
        everything = list(range(self._settings.partitions))
        held = {worker: frozenset[int]() for worker in workers}

        async def settled() -> bool:
            for worker in workers:
                held[worker] = await partitions_of(worker)
            return sorted(p for has in held.values() for p in has) == everything

        if len(workers) == 1:
            self._victims = frozenset(everything)
        else:
            try:
                await until(settled, "all partitions are held", SETTLE_S)
                self._victims = held[victim]
            except NotWithin:
                self._victims = None
        others = [worker for worker in workers if worker is not victim]
        self._others = len(others)
        self._counted = sum([await worker.metric(LOST) for worker in others])
        for worker in workers:
            self._took_s = max(self._took_s, await worker.metric(TOOK))

    async def look(self, watcher: Watcher, now: float) -> None:
        """Behind a kill at `now`: how far the checkpoints are ahead of what is kept."""
        async with store_of(self._settings) as store:
            snapshot = await store.read_item_snapshot()
        told, said = await told_since(self._settings, snapshot)
        self._n_kills += 1
        self._expected = None
        if self._victims is None:
            return
        self._epochs = epochs = dict[int, int]()
        expected, unsaid, age = 0, 0, 0.0
        for partition in self._victims:
            position, at = watcher.position(partition), told.get(partition, 0)
            expected += max(0, position - at)
            if self._others:
                unsaid += max(0, min(at, position) - said.get(partition, at))
            at = max(at, self._stood.get(partition, 0))
            self._lost += max(0, position - at)
            steps = watcher.steps[partition]
            epochs[partition] = steps[-1].epoch
            beyond = next((step.at_s for step in steps if step.next_offset > at), now)
            age = max(age, now - beyond)
            self._stood[partition] = position
        self._expected, self._unsaid = expected, unsaid
        self._ages.append(age)

    async def compare(self, watcher: Watcher, workers: Sequence[WorkerProcess]) -> None:
        """Once others, or it itself, have taken over: they have counted just that."""
        if self._expected is None or self._victims is None:
            return
        counted = relearned = 0.0

        async def taken_over() -> bool:
            """And counted, a moment after the acquisition."""
            nonlocal counted, relearned
            if any(watcher.steps[p][-1].epoch <= epoch for p, epoch in self._epochs.items()):
                return False
            now = sum([await worker.metric(LOST) for worker in workers]) - self._counted
            counted = max(counted, now)  # a worker that gives no answer seems to have counted none
            relearned = max(relearned, sum([await worker.metric(RELEARNED) for worker in workers]))
            return counted >= (self._expected or 0)

        with contextlib.suppress(NotWithin):
            await until(taken_over, "the victim's partitions are taken over", TAKEN_OVER_S)
            await asyncio.sleep(COUNTED_S)
            await taken_over()
        self._n_compared += 1
        most = self._expected + self._unsaid
        self._report.check(
            self._expected <= counted <= most and relearned == 0,
            "the item learning counted as lost is what lay behind the snapshot and the item "
            "deltas, and none is repeated",
            f"kill {self._n_kills}: {counted:.0f} counted, {self._expected} to {most} by store and "
            f"topic, {relearned:.0f} repeated",
        )
        await self.note_counted(workers, most - counted)
        self._expected = None

    async def note_counted(self, workers: Sequence[WorkerProcess], spare: float) -> None:
        """What each has counted behind a kill. spare: events of it that may still be counted."""
        self._after, self._spare = await counted_by(workers), max(0.0, spare)

    async def since_last(self, workers: Sequence[WorkerProcess]) -> None:
        """Until the next kill, or the end: partitions that only change hands lose nothing."""
        before, self._after = self._after, {}
        now = await counted_by([worker for worker in workers if worker in before])
        if not now:
            return
        # Less than before: it is another process now, and has counted all of that since.
        later = sum(n if n < before[worker] else n - before[worker] for worker, n in now.items())
        self._report.check(
            later <= self._spare,
            "nothing is counted as lost by a hand-over long after a kill",
            f"{later:.0f} more than kill {self._n_kills} explains",
        )

    def report(self) -> None:
        """The bound over all kills."""
        oldest = max(self._ages, default=0.0)
        may_take_s = max(SNAPSHOT_TOOK_S, 2 * self._took_s)
        self._report.figure("item learning lost at kills", self._lost, "events")
        self._report.figure("oldest item learning lost", round(oldest, 2), "s")
        self._report.figure("item snapshot, slowest seen", round(self._took_s, 2), "s")
        self._report.figure("kills whose loss was compared", self._n_compared)
        self._report.check(
            self._n_compared > self._n_kills / 2, "of most kills the loss can be compared"
        )
        self._report.check(
            oldest <= SNAPSHOT_S + may_take_s,
            f"a kill loses at most {SNAPSHOT_S:g} s of item learning and the time that a snapshot "
            "takes",
            f"{oldest:.1f} s, where a snapshot took {self._took_s:.1f} s",
        )


async def counted_by(workers: Sequence[WorkerProcess]) -> dict[WorkerProcess, float]:
    """What each has counted as lost; one that gives no answer is left out, for it says nothing."""
    pages = {worker: await worker.get("/metrics") for worker in workers}
    return {worker: metric_in(page, LOST) for worker, page in pages.items() if page is not None}


async def partitions_of(worker: WorkerProcess) -> frozenset[int]:
    """Those that a worker says it holds."""
    page = await worker.get("/metrics") or ""
    return frozenset(map(int, re.findall(rf'^{LAG}{{partition="(\d+)"}}', page, re.MULTILINE)))


async def told_since(
    settings: Settings, snapshot: StoredSnapshot | None
) -> tuple[dict[int, int], dict[int, int]]:
    """By partition, how far the learning goes that a worker has which starts now; and how far the
    messages of the last minute go, whatever a snapshot says.

    The first is the snapshot's, and that of each message behind it, in the order and by the numbers
    that docs/wire.md has.
    """
    lineage = snapshot.lineage if snapshot else Lineage("")
    found = dict(snapshot.next_offsets) if snapshot else {}
    last, said = dict(lineage.included), dict[int, int]()
    if not settings.exchange_bytes_per_s:
        return found, said
    since_ms = round((time.time() - TOLD_S) * 1_000) if snapshot else None
    topic = settings.topics().item_deltas.name
    async for records in messages_of(settings, topic, since_ms):
        for record in records:
            message = decode_deltas(record.value)
            for partition, next_offset in message.covers.items():
                said[partition] = max(next_offset, said.get(partition, 0))
            if record.offset < (lineage.next_offset or 0) or message.seq <= last.get(
                message.sender, 0
            ):
                continue
            if lineage.base == "" and message.base != "":
                continue  # of a table that this one has no beginning of
            last[message.sender] = message.seq
            for partition, next_offset in message.covers.items():
                found[partition] = max(next_offset, found.get(partition, 0))
    return found, said


SCENARIOS = (
    Scenario(
        "kill",
        "SIGKILL of the worker at 20 random moments of 1,000,000 events, 4 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s; item learning lost at most the snapshot interval and a snapshot's time, each event "
        "of it counted",
        9.5,
        kill_one,
        partitions=4,
        # Without item deltas the store alone tells how much must be counted.
        settings={"item_snapshot_interval_s": SNAPSHOT_S, "exchange_bytes_per_s": 0},
    ),
    Scenario(
        "kill-16",
        "SIGKILL of the worker at 20 random moments of 1,000,000 events, 16 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s; item learning lost at most the snapshot interval and a snapshot's time, each event "
        "of it counted",
        9.5,
        kill_one,
        partitions=16,
        settings={"item_snapshot_interval_s": SNAPSHOT_S},
    ),
    Scenario(
        "kill-of-two",
        "SIGKILL of one of two workers at 20 random moments of 1,000,000 events, 16 partitions",
        "facts and counts are an undisturbed fold's; committing again within the session time-out "
        "+ 3 s; item learning lost at most the snapshot interval and a snapshot's time, each event "
        "of it counted",
        9.5,
        kill_of_two,
        partitions=16,
        settings={"item_snapshot_interval_s": SNAPSHOT_S},
    ),
)
