"""The store dies, comes back older than it was, loses its majority, has no memory or disk left."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from agents.chaos.bed import Bed, ServerHandle
from agents.chaos.load import Load
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.small_disk import small_disk
from agents.chaos.verifier import named, positions_of, shape_of, verify
from agents.chaos.watcher import Fall, Watcher
from agents.chaos.worker_process import WorkerProcess, until
from agents.store_access import store_of
from profiles.record import decode_profile
from streams.embedded.store import StoreServer, ask

REWINDS = "foldstream_store_rewinds_total"

N_KILLS = 20
RATE_PER_S = 2_000.0
BACK_S = 10.0
MOST_DOWN_S = 3.0
LEAST_CUT_BYTES = 1
MOST_CUT_BYTES = 64 * 1024
LAG_S = 5.0
MINORITY_S = 10.0
NAMED_S = 10.0
REFUSALS = ("OOM", "MISCONF")
"""Codes of the store's answers to a write while it has no memory, and no disk."""

IN_FLIGHT_S = 0.2
"""For what a frozen worker had already sent to the store."""

DISK_MB = 64


@asynccontextmanager
async def _at_work(
    bed: Bed, plan: Plan, **shop: float
) -> AsyncIterator[tuple[Watcher, WorkerProcess, Load]]:
    """A worker under an endless load, once it has begun to commit."""
    async with Watcher(bed) as watcher, bed.worker("w0") as worker:
        await worker.ready()
        load = Load(bed, plan.seed, 100_000_000, RATE_PER_S, **shop)
        await watcher.reached(int(RATE_PER_S))
        yield watcher, worker, load


async def _back(report: Report, watcher: Watcher, back: list[float]) -> None:
    await asyncio.sleep(0.1)  # a look or two of the watcher at the store as it is now
    took_s = await watcher.all_moved(within_s=6 * BACK_S)
    back.append(6 * BACK_S if took_s is None else took_s)


def _check_back(report: Report, back: list[float]) -> None:
    report.figure("committing again, slowest", round(max(back), 2), "s")
    report.check(
        max(back) <= BACK_S,
        f"every partition commits again within {BACK_S:g} s of the store's return",
        f"slowest {max(back):.1f} s",
    )


async def store_kills(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """SIGKILL of the server alone: what it had acknowledged is in the system's buffers."""
    n_kills, back = plan.scaled(N_KILLS, 2), list[float]()
    async with _at_work(bed, plan) as (watcher, worker, load):
        for number in range(n_kills):
            await asyncio.sleep(draw.uniform(0.2, 2.0))
            report.step(f"kill {number + 1} of {n_kills}")
            await bed.store.kill()
            await asyncio.sleep(draw.uniform(0.0, MOST_DOWN_S))
            await bed.store.start()
            await _back(report, watcher, back)
            report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
        await load.stop()
        await verify(bed, report, watcher)
    report.figure("kills", n_kills)
    _check_back(report, back)


async def aof_cuts(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A power cut: the end of the append-only file never reached the disk.

    Every second time the worker is frozen meanwhile, so that the store can be looked at as it came
    back, before anything is folded again.
    """
    n_cuts, back, n_bytes = plan.scaled(N_KILLS, 2), list[float](), 0
    set_back: list[SetBack] = []
    async with _at_work(bed, plan) as (watcher, worker, load):
        for number in range(n_cuts):
            await asyncio.sleep(draw.uniform(0.2, 2.0))
            size = int(LEAST_CUT_BYTES * (MOST_CUT_BYTES / LEAST_CUT_BYTES) ** draw.random())
            report.step(f"cut {number + 1} of {n_cuts}: {size} bytes")
            frozen = number % 2 == 0
            rewinds, began_s = await worker.metric(REWINDS), time.monotonic()
            if frozen:
                worker.pause()
            await bed.store.kill()
            n_bytes += cut_tail(bed.store.folder, size)
            await bed.store.start()
            if frozen:
                await _check_not_newer(bed, report)
                worker.resume()
            await _back(report, watcher, back)
            counted = await worker.metric(REWINDS) - rewinds
            set_back.append(SetBack(began_s, time.monotonic(), counted))
            report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
        await load.stop()
        await verify(bed, report, watcher, falls_allowed=True)
        rewinds = await worker.metric(REWINDS)
    report.figure("cuts", n_cuts)
    report.figure("cut off", n_bytes, "bytes")
    check_rewinds(report, watcher.falls, set_back, rewinds)
    report.check(rewinds > 0, "the cuts set the store back")
    _check_back(report, back)


async def _check_not_newer(bed: Bed, report: Report) -> None:
    """While the worker is frozen: afterwards replay makes it true by itself."""
    newer = await _newer(bed)
    report.check(
        not newer,
        "in the store as it came back no profile is newer than its checkpoint",
        f"{len(newer)}: {newer[:3]}",
    )


def cut_tail(folder: Path, size: int) -> int:
    """Take so many bytes off the end of the append-only file; returns how many it had to give."""
    files = sorted(folder.glob("appendonlydir/*.incr.aof")) or [folder / "appendonly.aof"]
    path = max(files, key=lambda file: file.stat().st_mtime)
    cut = min(size, path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - cut)
    return cut


async def _newer(bed: Bed) -> list[str]:
    settings, found = bed.settings(), []
    async with store_of(settings) as store:
        positions = await positions_of(store, settings.partitions)
        for partition, position in enumerate(positions):
            async for user, record in store.iter_records(partition):
                profile = decode_profile(record, shape_of(settings), user)
                if profile.last_offset >= position:
                    found.append(f"{user} at {partition}/{profile.last_offset}, {position}")
    return found


@dataclass(frozen=True, slots=True)
class SetBack:
    """The store was set back once. Monotonic seconds from before the fault until every partition
    had moved on; counted: rewinds that the worker reported in between."""

    begin_s: float
    end_s: float
    counted: float

    def holds(self, fall: Fall) -> bool:
        """Whether this explains the fall."""
        return self.begin_s <= fall.at_s <= self.end_s


def check_rewinds(
    report: Report, falls: Sequence[Fall], set_back: Sequence[SetBack], rewinds: float
) -> None:
    """A checkpoint falls only where the store was set back, and each time the worker says so.

    rewinds: what it reported in all.
    """
    report.figure("checkpoints that fell", len(falls))
    report.figure("rewinds reported", rewinds)
    unexplained = [fall for fall in falls if not any(one.holds(fall) for one in set_back)]
    report.check(
        not unexplained,
        "a next_offset falls only where the store was set back",
        named([f"partition {f.partition} from {f.before} to {f.after}" for f in unexplained]),
    )
    # The watcher may miss one that was made good at once; the worker may not.
    silent = [
        f"fault {number}: {one.counted:.0f} counted, {n_seen} seen"
        for number, one in enumerate(set_back, 1)
        if one.counted < (n_seen := sum(map(one.holds, falls)))
    ]
    report.check(
        not silent, "every rewind of the store is counted by the worker, fault by fault",
        named(silent),
    )  # fmt: skip
    said = sum(one.counted for one in set_back)
    report.check(
        rewinds == said, "no rewind is counted where the store was not set back",
        f"{rewinds:.0f}, {said:.0f} of them after a fault",
    )  # fmt: skip


async def failover(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """A master that its replica no longer follows dies; the replica, 5 s behind, takes over.

    Every second time, the first included, the worker is frozen meanwhile, as in `aof_cuts`.
    """
    back, set_back = list[float](), list[SetBack]()
    n_masters = len(bed.nodes) // 2
    async with _at_work(bed, plan) as (watcher, worker, load):
        for turn, number in enumerate(draw.sample(range(n_masters), plan.scaled(n_masters))):
            master, replica = bed.nodes[number], bed.nodes[n_masters + number]
            report.step(f"master {number}: cut from its replica")
            _cut_replication(master)
            await asyncio.sleep(LAG_S)
            n_falls = len(watcher.falls)
            rewinds, began_s = await worker.metric(REWINDS), time.monotonic()
            frozen = turn % 2 == 0
            if frozen:
                worker.pause()
            await master.kill()
            await asyncio.to_thread(_take_over, replica)
            if frozen:
                await _check_not_newer(bed, report)
                worker.resume()
            await _back(report, watcher, back)
            report.check(
                await _fell(watcher, n_falls), "the replica was older than what was committed"
            )
            counted = await worker.metric(REWINDS) - rewinds
            set_back.append(SetBack(began_s, time.monotonic(), counted))
            report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
            # The old master comes back and becomes the replica.
            await master.start()
            await asyncio.sleep(LAG_S)
        await load.stop()
        await verify(bed, report, watcher, falls_allowed=True)
        rewinds = await worker.metric(REWINDS)
    check_rewinds(report, watcher.falls, set_back, rewinds)
    _check_back(report, back)


async def _fell(watcher: Watcher, n_falls: int) -> bool:
    with contextlib.suppress(AssertionError):
        await until(lambda: len(watcher.falls) > n_falls, "a checkpoint fell", 10.0)
    return len(watcher.falls) > n_falls


def _cut_replication(master: ServerHandle[StoreServer]) -> None:
    """It goes on alone: what it acknowledges from now on, its replica never gets."""
    with _client(master) as plain:
        plain.execute_command("ACL SETUSER", "default", "-psync", "-sync")  # type: ignore[no-untyped-call]
        plain.execute_command("CLIENT KILL", "TYPE", "replica")  # type: ignore[no-untyped-call]


def _take_over(replica: ServerHandle[StoreServer]) -> None:
    """It becomes master without asking anybody."""
    give_up = time.monotonic() + 30.0
    while "role:master" not in (ask(replica.server.port, "INFO", "replication") or ""):
        ask(replica.server.port, "CLUSTER", "FAILOVER", "TAKEOVER")
        if time.monotonic() > give_up:
            raise TimeoutError("the replica did not take over within 30 s")
        time.sleep(0.1)


@contextmanager
def _client(node: ServerHandle[StoreServer]) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(node.server.url) as plain:
        yield plain


async def minority(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Two of three masters die: the third answers no more either, until they are back."""
    back = list[float]()
    async with _at_work(bed, plan) as (watcher, worker, load):
        for _ in range(plan.scaled(3)):
            lost = draw.sample(bed.nodes, 2)
            report.step(f"killed: {', '.join(node.name for node in lost)}")
            for node in lost:
                await node.kill()
            said = await _says_not_ready(worker, MINORITY_S)
            report.check(said is not None, f"/readyz says so within {MINORITY_S:g} s")
            await asyncio.sleep(draw.uniform(0.0, MINORITY_S))
            for node in lost:
                await node.start()
            await _back(report, watcher, back)
            report.check(worker.alive(), "the worker goes on", worker.log_tail()[-300:])
            await asyncio.sleep(2.0)
        await load.stop()
        await verify(bed, report, watcher)
    _check_back(report, back)


async def _says_not_ready(
    worker: WorkerProcess, within_s: float, *words: str
) -> tuple[float, str] | None:
    """Seconds until `/readyz` gives a cause with one of the words, and the cause."""
    began = time.monotonic()
    while time.monotonic() - began < within_s:
        status, document = await worker.readyz()
        for cause in document.get("causes", []):
            text = str(cause)
            if status != 200 and (not words or any(word in text for word in words)):
                return time.monotonic() - began, text
        await asyncio.sleep(0.1)
    return None


async def store_memory(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """The store's memory limit is reached under users who never come back."""
    back = list[float]()
    async with _at_work(bed, plan, n_users=1_000_000) as (watcher, worker, load):
        for number in range(plan.scaled(3)):
            n_refused = await n_refusals(bed.store)
            with _client(bed.store) as plain:
                used = int(plain.info("memory")["used_memory"])
                limit = used + draw.randrange(200_000, 2_000_000)
                report.step(f"limit {number + 1}: {limit} bytes, used {used}")
                plain.config_set("maxmemory", limit)
            await _full(bed, report, worker, n_refused, "maxmemory")
            with _client(bed.store) as plain:
                plain.config_set("maxmemory", 0)
            await _back(report, watcher, back)
        await load.stop()
        await verify(bed, report, watcher)
    _check_back(report, back)


async def n_refusals(store: ServerHandle[StoreServer]) -> int:
    """Commands that the store refused for want of memory or disk since it started: its own count,
    which knows of no worker."""

    def ask_it() -> int:
        with _client(store) as plain:
            errors: dict[str, Any] = plain.info("errorstats")
        return sum(int(errors.get(f"errorstat_{code}", {"count": 0})["count"]) for code in REFUSALS)

    return await asyncio.to_thread(ask_it)


async def _full(
    bed: Bed, report: Report, worker: WorkerProcess, n_refused: int, *words: str
) -> None:
    """Wait until the store refuses, see that it is said, and that nothing is half-applied.

    n_refused: what the store had refused before its room was taken.
    """
    await check_named(bed.store, report, worker, n_refused, words)
    worker.pause()  # now and then a small commit fits in, and would be seen by half
    await asyncio.sleep(IN_FLIGHT_S)
    newer = await _newer(bed)
    worker.resume()
    report.check(not newer, "nothing is half-applied while the store is full", f"{newer[:3]}")


async def check_named(
    store: ServerHandle[StoreServer],
    report: Report,
    worker: WorkerProcess,
    n_refused: int,
    words: Sequence[str],
    within_s: float = NAMED_S,
) -> None:
    """The worker names the cause in time, counted from the first refusal in the store's count."""

    async def refuses() -> bool:
        return await n_refusals(store) > n_refused

    await until(refuses, "the store refuses a write", 120.0)
    said = await _says_not_ready(worker, within_s, *words)
    report.check(
        said is not None,
        f"/readyz names the cause ({' or '.join(words)}) within {within_s:g} s of the store's "
        "first refusal",
        str(await worker.readyz()),
    )
    if said is not None:
        report.figure("cause named after", round(said[0], 1), "s")
        report.note(f"/readyz said: {said[1]}")


async def disk_full(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """The disk of the append-only file fills up: a small tmpfs, so it wants root."""
    back = list[float]()
    await bed.store.terminate()
    with small_disk(bed.store.folder, DISK_MB):
        try:
            await bed.store.start()
            await _fill_and_free(bed, draw, report, plan, back)
        finally:
            await bed.store.terminate()
    report.figure("disk", DISK_MB, "MB")
    _check_back(report, back)


async def _fill_and_free(
    bed: Bed, draw: random.Random, report: Report, plan: Plan, back: list[float]
) -> None:
    filler = bed.store.folder / "somebody-else's"
    async with _at_work(bed, plan) as (watcher, worker, load):
        for number in range(plan.scaled(3)):
            n_refused = await n_refusals(bed.store)
            free = shutil.disk_usage(bed.store.folder).free
            left = draw.randrange(50_000, 500_000)
            report.step(f"disk {number + 1}: {left} bytes left")
            with contextlib.suppress(OSError):  # the append-only file was quicker: it is full
                await asyncio.to_thread(filler.write_bytes, bytes(max(0, free - left)))
            await _full(bed, report, worker, n_refused, "disk", "AOF", "space")
            filler.unlink()
            await _back(report, watcher, back)
        await load.stop()
        await verify(bed, report, watcher)


_SETTINGS: dict[str, Any] = {"store_timeout_s": 1.0}

SCENARIOS = (
    Scenario(
        "store-kill",
        "store SIGKILL x20 under load, away for up to 3 s",
        "facts are an undisturbed fold's; committing again within 10 s of its return",
        2.0,
        store_kills,
    ),
    Scenario(
        "aof-cut",
        "store SIGKILL x20, each time 1 B to 64 KB off the end of the append-only file",
        "after replay the digest is equal; every rewind is reported; no profile is newer than its "
        "checkpoint",
        2.0,
        aof_cuts,
    ),
    Scenario(
        "failover",
        "each master of a cluster dies 5 s after its replica lost the link; the replica takes over",
        "after replay the digest is equal; every rewind is reported; no profile is newer than its "
        "checkpoint",
        1.5,
        failover,
        store="replicated",
        settings=_SETTINGS,
    ),
    Scenario(
        "minority",
        "two of three masters of a cluster die, and come back",
        "nothing is lost; said in /readyz within 10 s; committing again within 10 s",
        1.5,
        minority,
        store="cluster",
        settings=_SETTINGS,
    ),
    Scenario(
        "store-memory",
        "the store is at its memory limit, three times",
        "nothing is half-applied; the cause is in /readyz within 10 s; digest equal afterwards",
        1.5,
        store_memory,
    ),
    Scenario(
        "disk-full",
        "the store's disk is full, three times (small tmpfs)",
        "nothing is half-applied; the cause is in /readyz within 10 s; digest equal afterwards",
        1.5,
        disk_full,
    ),
)
