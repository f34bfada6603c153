"""What people do to an installation: restore, promote, accept a gap, upgrade; all under load."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from agents.backup import back_up, put_in_place
from agents.chaos.bed import Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import verify
from agents.chaos.watcher import Watcher
from agents.chaos.worker_process import WorkerProcess, until
from agents.errors import CheckFailed
from agents.promotion import drop, list_generations, promote, upgrade
from agents.rebuild import Rebuild
from agents.rebuild_into import RebuildInto
from agents.settings import Settings
from agents.store_access import store_of
from profiles.shape import RECORD_VERSION
from streams.manual_reader import ManualReader
from streams.topics import admin_client

RATE_PER_S = 2_000.0
N_EVENTS = 200_000
BACK_S = 30.0
"""A promotion ends a worker's work and starts it anew: some seconds, more on a busy machine."""


async def restore(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A snapshot is taken mid-stream, the work goes on, the store is set back to it; with the
    worker stopped meanwhile, or running on."""
    n_events = plan.scaled(N_EVENTS, 10_000)
    running_on = draw.random() < 0.5
    async with Watcher(bed) as watcher, bed.worker("w0") as worker:
        await worker.ready()
        load = Load(bed, plan.seed, n_events, RATE_PER_S)
        await load.reached(n_events * draw.uniform(0.2, 0.4))
        made = await back_up(bed.settings(), bed.folder / "backup")
        await load.reached(n_events * draw.uniform(0.6, 0.8))
        if not running_on:
            await worker.terminate()
        ahead = watcher.total
        await bed.store.kill()
        kept = bed.folder / "backup" / made.files[0].file
        await asyncio.to_thread(put_in_place, kept, bed.store.folder)
        began = time.monotonic()
        await bed.store.start()
        await watcher.sample()
        report.figure("set back by", ahead - watcher.total, "offsets")
        report.check(watcher.total < ahead, "the store is older than it was")
        if not running_on:
            await worker.start()
        moved = await watcher.reached(ahead, within_s=120.0)
        report.check(moved, "workers fold again what the store lost, and go on")
        report.figure("where it was after", round(time.monotonic() - began, 1), "s")
        report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
        await load.done()
        await verify(bed, report, watcher, falls_allowed=True)
    report.note("the worker ran on" if running_on else "the worker was stopped meanwhile")


async def promotion(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A generation of another shape is folded beside the live one, promoted under two workers,
    taken back, promoted again; the other one is dropped."""
    n_events = plan.scaled(N_EVENTS, 20_000)
    other = replace(bed, overrides={**bed.overrides, "generation": "g2", "n_factors": 32})
    workers = [bed.worker(f"w{n}") for n in range(2)]
    async with Watcher(bed) as watcher, Watcher(other) as watcher2:
        for worker in workers:
            await worker.start()
        for worker in workers:
            await worker.ready()
        load = Load(bed, plan.seed, n_events, RATE_PER_S)
        await load.reached(n_events * draw.uniform(0.2, 0.3))
        await RebuildInto(other.settings(), "g2", lambda done, total, rate: None).run()
        await _switch(bed, "g2", watcher2, report, "promotion")
        await load.reached(n_events * draw.uniform(0.6, 0.7))
        await _switch(bed, "g1", watcher, report, "way back")
        await load.reached(n_events * draw.uniform(0.8, 0.9))
        await RebuildInto(other.settings(), "g2", lambda done, total, rate: None).run()
        await _switch(bed, "g2", watcher2, report, "second promotion")
        await load.done()
        for worker in workers:
            report.check(worker.alive(), f"{worker.name} goes on", worker.log_tail()[-300:])
        await verify(other, report, watcher2)
        report.check(not watcher.falls, "no next_offset of the old generation ever falls")
    n_keys = await drop(bed.settings(), "g1", 100_000, lambda n: None)
    report.figure("keys dropped", n_keys)
    left = [state.name for state in await list_generations(bed.settings())]
    report.check(left == ["g2"], "only the promoted generation is left", str(left))


async def _switch(bed: Bed, name: str, watcher: Watcher, report: Report, what: str) -> None:
    before = watcher.total
    began = time.monotonic()
    followed = await promote(bed.settings(), name, most_behind=10**9)
    report.check(not followed.waiting, "every worker follows", str(followed.waiting))
    moved = await watcher.reached(before + 1, within_s=BACK_S)
    gap_s = time.monotonic() - began
    report.figure(f"{what}: followed and folding after", round(gap_s, 1), "s")
    report.check(moved and gap_s <= BACK_S, f"the service stands still for {BACK_S:g} s at most")


async def gap(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Retention was quicker than the workers: twice, before the first event and later."""
    n_events = plan.scaled(N_EVENTS, 10_000)
    settings = bed.settings()
    first = Load(bed, plan.seed, n_events)
    await first.done()
    wanted = await _cut_beginning(settings, draw, {})
    await _refused(bed, report, wanted)
    async with Watcher(bed) as watcher:
        async with bed.worker("w1", accept_gap=True) as worker:
            await worker.ready()
            await watcher.reached(n_events)
            counted = await worker.metric("foldstream_gap_offsets_total")
            lost = sum(upto - start for start, upto in wanted.values())
            report.check(counted == lost, "the gap is counted", f"{counted} of {lost}")
            bed.loads.clear()  # not all of it is in the log any more
            await verify(bed, report, watcher)
        checked = await Rebuild(settings, lambda done, total: None).check()
        report.check(checked.agrees, "rebuild --check knows the accepted gap")
        report.check(
            {p: tuple(g[0]) for p, g in checked.gaps.items()} == wanted,
            "the checkpoints hold the gap",
            str(checked.gaps),
        )
    second = Load(bed, plan.seed + 1, n_events // 4)
    await second.done()
    async with store_of(settings) as store:
        stand = {p: await store.read_checkpoint(p) for p in range(settings.partitions)}
        starts = {p: found.next_offset for p, found in stand.items() if found is not None}
    wanted = await _cut_beginning(settings, draw, starts)
    await _refused(bed, report, wanted)
    async with bed.worker("w2", accept_gap=True) as worker:
        await worker.ready()
        await until(lambda: _at_end(settings), "everything that is left is folded", 120.0)
        counted = await worker.metric("foldstream_gap_offsets_total")
        lost = sum(upto - start for start, upto in wanted.values())
        report.check(counted == lost, "the second gap is counted", f"{counted} of {lost}")
    report.figure("offsets lost", lost)


async def _at_end(settings: Settings) -> bool:
    return all(state.behind == 0 for state in await list_generations(settings))


async def _cut_beginning(
    settings: Settings, draw: random.Random, starts: dict[int, int]
) -> dict[int, tuple[int, int]]:
    """Delete a part of what was not folded; returns by partition the gap that comes of it."""
    topic = settings.topics().events.name
    reader = ManualReader(settings.kafka, topic)
    await reader.start()
    try:
        ends = await reader.end_offsets(range(settings.partitions))
    finally:
        await reader.stop()
    gaps = {}
    for partition, end in ends.items():
        start = starts.get(partition, 0)
        if end - start > 2 and (partition == 0 or draw.random() < 0.7):
            gaps[partition] = (start, draw.randrange(start + 1, end))
    async with admin_client(settings.kafka) as admin:
        await admin.delete_records(
            {TopicPartition(topic, p): RecordsToDelete(upto) for p, (_, upto) in gaps.items()}
        )
    return gaps


async def _refused(bed: Bed, report: Report, wanted: dict[int, tuple[int, int]]) -> None:
    """A worker that nobody told to accept the gap ends, and names it."""
    async with bed.worker("w0") as worker:
        status = await worker.ended(within_s=120.0)
        told = worker.log_tail()
    report.check(status == 1, "a worker refuses to start over a gap", str(status))
    missing = [
        f"partition {p}: offsets [{start}, {upto})"
        for p, (start, upto) in wanted.items()
        if f"partition {p}: offsets [{start}, {upto}) are gone" not in told
    ]
    report.check(not missing, "it names every gap exactly", f"not {missing}")


async def rolling_upgrade(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Two workers that know only record format 1 are replaced, one after the other."""
    n_events = plan.scaled(N_EVENTS, 10_000)
    old = [bed.worker(f"w{n}", newest_record_format=1) for n in range(2)]
    new: dict[int, WorkerProcess] = {}
    order = draw.sample(range(2), 2)
    async with Watcher(bed, keeps_log=True) as watcher:
        for worker in old:
            await worker.start()
        for worker in old:
            await worker.ready()
        load = Load(bed, plan.seed, n_events, RATE_PER_S)
        for turn, number in enumerate(order):
            await load.reached(n_events * (turn + draw.random()) / 4)
            if draw.random() < 0.5:
                await old[number].kill()
            else:
                await old[number].terminate()
            new[number] = bed.worker(f"w{number}")  # not before: they share a configuration file
            await new[number].start()
            await new[number].ready()
            if turn == 0:
                await _not_yet(bed, old[order[1]].name, report)
        report.check(await _formats(bed) == {1}, "nobody writes what an old worker can't read")
        await until(lambda: _upgraded(bed), "the upgrade is taken", 60.0)
        await load.done()
        await Load(bed, plan.seed + 1, n_events // 4, RATE_PER_S).done()
        await verify(bed, report, watcher)
        formats = await _formats(bed)
        report.check(
            RECORD_VERSION in formats, "records are written in the new format", str(formats)
        )
        for worker in new.values():
            report.check(worker.alive(), f"{worker.name} goes on", worker.log_tail()[-300:])


async def _not_yet(bed: Bed, name: str, report: Report) -> None:
    try:
        await upgrade(bed.settings())
    except CheckFailed as refused:
        report.check(name in str(refused), "the refusal names the old worker", str(refused))
    else:
        report.check(False, "an upgrade is refused while an old worker runs")


async def _upgraded(bed: Bed) -> bool:
    """False while a killed worker's last sign of life is not old enough."""
    try:
        return not (await upgrade(bed.settings())).waiting
    except CheckFailed:
        return False


async def _formats(bed: Bed) -> set[int]:
    async with store_of(bed.settings()) as store:
        return {record[0] async for _, record in store.iter_records()}


SCENARIOS = (
    Scenario(
        "restore",
        "store set back to a snapshot taken mid-stream",
        "after replay facts equal the log; no event lost or doubled",
        default_minutes=3.0,
        default_runs=5,
        run=restore,
    ),
    Scenario(
        "promote",
        "another generation folded beside the live one, promoted under two workers, and back",
        "no event lost or doubled in either; workers follow within 30 s",
        default_minutes=4.0,
        default_runs=3,
        run=promotion,
    ),
    Scenario(
        "gap",
        "events deleted before they were folded",
        "a hard stop that names every gap; accepted, it is counted, and the rest is folded",
        default_minutes=3.0,
        default_runs=3,
        run=gap,
        timed=False,
    ),
    Scenario(
        "upgrade",
        "two workers of the version before replaced one by one",
        "nothing written that the older can't read; no event lost or doubled",
        default_minutes=3.0,
        default_runs=3,
        run=rolling_upgrade,
        timed=False,
    ),
)
