"""`bench memory`: what a user and an item take, in the store and in a worker.

The store: records of real and made-up users (`record_sizes`), and a worker's own item snapshot.
A worker: its resident memory while users come who never come again (it must stop growing once its
cache is full), and while every event brings a new item.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
import numpy as np
import redis

from agents.bench.bed import Bed, fresh_bed
from agents.bench.figures import BenchFailed, Figure, figure
from agents.bench.machine import this_machine
from agents.bench.programs import POLL_S, STALL_S, checkpoint_count
from agents.bench.record_sizes import user_bytes
from agents.bench.report import Report, Table
from agents.bench.worker_runs import Started, resident_bytes, workers
from profiles.shape import OWN_FORMAT, ModelShape
from profiles.store_keys import Keys
from streams.bulk import BulkProducer

N_ITEMS, N_USERS = 3_000, 5_000
"""Items of the run with many users, and users of the run with many items."""

STEPS = 40
"""Parts in which the events of a run are sent; the memory is read after each."""

SNAPSHOT_S = 2.0
MIB = 2**20


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """one_visit: users who come once. cache: users in the worker's cache. items: new ones, an event
    each. store_users: of each made-up shop in the store. record_format, own_items: of records."""

    one_visit: int
    cache: int
    items: int
    store_users: int
    repeats: int
    record_format: int
    own_items: int


@dataclass(frozen=True, slots=True)
class Growth:
    """counts: of users or items folded. resident: bytes then; idle: before the first event."""

    counts: list[int]
    resident: list[int]
    idle: int


def memory(bed: Bed, plan: MemoryPlan, on_step: Callable[[str], None]) -> Report:
    """Run it on `bed`. Raises BenchFailed."""
    machine = this_machine(bed.versions)
    own = plan.own_items if plan.record_format >= OWN_FORMAT else 0
    users = user_bytes(plan.store_users, plan.record_format, ModelShape(own_items=own), on_step)
    by_users: list[Growth] = []
    by_items: list[tuple[Growth, float]] = []
    for number in range(1, plan.repeats + 1):
        for kind in ("users", "items"):

            def on_count(text: str, of: str = f"round {number} of {plan.repeats}: {kind}") -> None:
                on_step(f"{of}, {text}")

            with (
                fresh_bed(bed, f"{bed.name}-{kind[0]}{number}") as own_bed,
                redis.Redis.from_url(bed.redis) as store,
            ):
                if kind == "users":
                    by_users.append(_many_users(own_bed, store, plan, on_count))
                else:
                    by_items.append(_many_items(own_bed, store, plan, on_count))
    return Report(
        bench="memory",
        machine=machine,
        settings={
            "store_users": {name: found.n_users for name, found in users.items()},
            "record_format": plan.record_format,
            "own_items": own,
            "one_visit_users": plan.one_visit,
            "cache_users": plan.cache,
            "items": plan.items,
            "repeats": plan.repeats,
        },
        tables={
            "store, users": Table(
                "store: bytes a user",
                "bytes",
                {
                    name: {
                        "record": figure([found.record]),
                        "in the store": figure([found.store]),
                        "formula": figure([found.formula]),
                        "GiB a million": figure([found.store * 1e6 / 2**30]),
                    }
                    for name, found in users.items()
                },
            ),
            "worker, users": _user_table(by_users, plan),
            "items": _item_table(by_items),
        },
        notes=[
            "after its cache is full a worker must not grow: see the slope over users who come once"
        ],
    )


def worker_settings(plan: MemoryPlan) -> dict[str, object]:
    """Of both workers: their users are those of the store's tables."""
    return {
        "agents": "updater",
        "own_items": plan.own_items,
        "newest_record_format": plan.record_format,
    }


def _many_users(
    bed: Bed, store: redis.Redis, plan: MemoryPlan, on_step: Callable[[str], None]
) -> Growth:
    settings = worker_settings(plan) | {"cache_users": plan.cache}
    pairs = ((f"v{n}", f"i{n * 7919 % N_ITEMS}") for n in range(plan.one_visit))
    with workers(bed, bed.name, 1, settings) as (started,):
        return _grown(bed, store, started, pairs, plan.one_visit, on_step)


def _many_items(
    bed: Bed, store: redis.Redis, plan: MemoryPlan, on_step: Callable[[str], None]
) -> tuple[Growth, float]:
    """And the bytes that an item takes in the newest snapshot in the store."""
    settings = worker_settings(plan) | {"item_snapshot_interval_s": SNAPSHOT_S}
    pairs = ((f"u{n * 7919 % N_USERS}", f"new{n}") for n in range(plan.items))
    with workers(bed, bed.name, 1, settings) as (started,):
        growth = _grown(bed, store, started, pairs, plan.items, on_step)
    # A worker that stops in order writes a last snapshot.
    return growth, _snapshot_bytes(store, Keys(bed.name, "g1", bed.topics.partitions)) / plan.items


def _snapshot_bytes(store: redis.Redis, keys: Keys) -> int:
    """What the newest item snapshot takes in the store, without those kept for a minute."""
    told = store.hget(keys.manifest, "chunks") or b"[]"
    chunks = msgspec.json.decode(told, type=list[tuple[str, str]])
    names = [keys.chunk(number, version) for number, (version, _) in enumerate(chunks)]
    return sum(int(store.memory_usage(name, samples=0) or 0) for name in names)


def _grown(
    bed: Bed,
    store: redis.Redis,
    started: Started,
    pairs: Iterator[tuple[str, str]],
    n: int,
    on_step: Callable[[str], None],
) -> Growth:
    """Send one event for each pair of user and item, in steps; read the memory after each."""
    count = checkpoint_count(store, bed.name, "g1", bed.topics.partitions)
    idle = resident_bytes(started.program.pid)
    counts, resident = [], []
    for step in range(1, STEPS + 1):
        done = n * step // STEPS
        asyncio.run(_send(bed, list(islice(pairs, done - n * (step - 1) // STEPS))))
        _wait_for(count, done, started)
        counts.append(done)
        resident.append(resident_bytes(started.program.pid))
        on_step(f"{done:,} of {n:,}, worker at {resident[-1] / MIB:,.0f} MiB")
    return Growth(counts, resident, idle)


def _wait_for(count: Callable[[], int], n: int, started: Started) -> None:
    give_up = time.monotonic() + STALL_S
    while (done := count()) < n:
        _must_run(started)
        if time.monotonic() > give_up:
            raise BenchFailed(f"{started.program.name} stands at {done:,} of {n:,}")
        time.sleep(POLL_S)


def _must_run(started: Started) -> None:
    if not started.program.alive():
        raise BenchFailed(f"{started.program.name} ended:\n{started.program.log_tail()}")


async def _send(bed: Bed, pairs: Sequence[tuple[str, str]]) -> None:
    producer = BulkProducer(bed.kafka, "foldstream-bench")
    await producer.start()
    ts = time.time_ns() // 1_000_000
    try:
        for user, item in pairs:
            value = f'{{"type":"click","user_id":"{user}","item_id":"{item}","ts":{ts}}}'
            await producer.put(bed.topics.events.name, user.encode(), value.encode())
        await producer.flush()
    finally:
        await producer.stop()


def slope(counts: Sequence[int], values: Sequence[int]) -> float:
    """Bytes that one more adds: least squares.

    >>> round(slope([10, 20, 30], [100, 120, 140]), 3)
    2.0
    """
    return float(np.polyfit(np.array(counts, float), np.array(values, float), 1)[0])


def after_warm_up(growth: Growth, warm: int) -> tuple[list[int], list[int]]:
    """The readings from count `warm` on. Raises BenchFailed when fewer than three are left."""
    kept = [(n, size) for n, size in zip(growth.counts, growth.resident, strict=True) if n >= warm]
    if len(kept) < 3:
        raise BenchFailed(f"{growth.counts[-1]:,} users end before the warm-up of {warm:,} does")
    return [n for n, _ in kept], [size for _, size in kept]


def _user_table(found: Sequence[Growth], plan: MemoryPlan) -> Table:
    warm = 2 * plan.cache
    filled = [next(i for i, n in enumerate(g.counts) if n >= plan.cache) for g in found]
    full = [g.resident[i] - g.idle for g, i in zip(found, filled, strict=True)]
    return Table(
        f"a worker with {plan.cache:,} users in its cache",
        "",
        {
            "before the first event": _row([g.idle / MIB for g in found], "MiB"),
            "at the end": _row([g.resident[-1] / MIB for g in found], "MiB"),
            "a cached user": _row([size / plan.cache for size in full], "bytes"),
            f"slope from {warm:,} users on, a user": _row(
                [slope(*after_warm_up(g, warm)) for g in found], "bytes"
            ),
        },
    )


def _item_table(found: Sequence[tuple[Growth, float]]) -> Table:
    return Table(
        "items that somebody had",
        "",
        {
            "worker, before the first event": _row([g.idle / MIB for g, _ in found], "MiB"),
            "worker, at the end": _row([g.resident[-1] / MIB for g, _ in found], "MiB"),
            "worker, an item": _row(
                [(g.resident[-1] - g.idle) / g.counts[-1] for g, _ in found], "bytes"
            ),
            "store, an item": _row([taken for _, taken in found], "bytes"),
        },
    )


def _row(values: Sequence[float], unit: str) -> dict[str, Figure]:
    return {unit: figure(list(values))}
