"""`bench scale`: the updater's rate around one point, one size changed at a time.

Users (each with a profile in the store before), items, history, partitions, workers. Workers are
ready before the first event is sent, and stand still until the last one is in the log. In each
round all points run, the default one first; a point's ratio is to the default of its round.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import redis
from numpy.typing import NDArray

from agents.bench.bed import Bed, fresh_bed
from agents.bench.figures import Figure, Rate, figure, ratio, steady_rate
from agents.bench.load import Load, fill
from agents.bench.machine import this_machine
from agents.bench.programs import checkpoint_count, watch
from agents.bench.record_sizes import MEAN_EVENTS, made_up
from agents.bench.report import Report, Table
from agents.bench.worker_runs import standing_still, workers
from profiles.shape import RECORD_VERSION, ModelShape
from profiles.store_keys import Keys
from streams.partitioner import partition_of

N_RECORDS = 2_000
"""Different records that the users before the run share."""

AT_ONCE = 2_000

SESSION_MS = 300_000
"""A worker that stands still while the log is filled stays in its group."""


@dataclass(frozen=True, slots=True)
class Point:
    """A place of the matrix. exchange: whether several workers tell each other what they learn."""

    users: int = 50_000
    items: int = 3_000
    history: int = 10
    partitions: int = 16
    workers: int = 1
    exchange: bool = True


DEFAULT = Point()
DIMENSIONS = ("users", "items", "history", "partitions", "workers")


def points(values: dict[str, Sequence[int]]) -> dict[str, Point]:
    """The default and its neighbours by name; several workers also without the exchange.

    >>> list(points({"items": [3_000, 100_000], "workers": [2]}))
    ['default', 'items 100,000', 'workers 2', 'workers 2, no exchange']
    """
    found = {"default": DEFAULT}
    for dimension in DIMENSIONS:
        for value in values.get(dimension, ()):
            sizes = {name: getattr(DEFAULT, name) for name in DIMENSIONS} | {dimension: value}
            point = Point(**sizes)
            if point == DEFAULT:
                continue
            found[f"{dimension} {value:,}"] = point
            if dimension == "workers":
                found[f"{dimension} {value:,}, no exchange"] = replace(point, exchange=False)
    return found


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a point. to_store, from_store: bytes an event on the store's connections."""

    rate: Rate
    to_store: float
    from_store: float

    @property
    def worker_us(self) -> float:
        """Microseconds of processor an event, of all workers."""
        return sum(us for name, us in self.rate.cpu_us.items() if name.startswith("worker"))

    @property
    def server_us(self) -> float:
        """The same of broker and store."""
        return sum(self.rate.cpu_us.values()) - self.worker_us


def scale(
    bed: Bed,
    chosen: dict[str, Point],
    n_events: int,
    repeats: int,
    on_progress: Callable[[str, int, int], None],
) -> Report:
    """Run every point `repeats` times. Raises BenchFailed."""
    machine = this_machine(bed.versions)
    rates: dict[str, list[Run]] = {}
    for number in range(1, repeats + 1):
        for place, (name, point) in enumerate(chosen.items()):

            def on_count(
                done: int, what: str = f"{name} ({number} of {repeats})", n: int = n_events
            ) -> None:
                on_progress(what, min(done, n), n)

            on_count(0)
            with fresh_bed(bed, f"{bed.name}-{number}-{place}", point.partitions) as own:
                rates.setdefault(name, []).append(_rate(own, point, n_events, on_count))
    return Report(
        bench="scale",
        machine=machine,
        settings={"events": n_events, "repeats": repeats, "points": list(chosen)},
        tables={
            "rates": Table("rate", "", {n: _row(runs) for n, runs in rates.items()}),
            "ratios": Table("ratio within a round", "", _ratios(rates)),
        },
        notes=[
            f"default: {DEFAULT.users:,} users, {DEFAULT.items:,} items, history "
            f"{DEFAULT.history}, {DEFAULT.partitions} partitions, one worker",
            "workers, broker and store share the cores of this machine: more workers than cores "
            "left say nothing of more machines",
        ],
    )


def _rate(bed: Bed, point: Point, n_events: int, on_count: Callable[[int], None]) -> Run:
    load = Load(
        seed=1,
        first_ms=time.time_ns() // 1_000_000,
        n_users=point.users,
        n_items=point.items,
    )
    settings: dict[str, object] = {
        "agents": "updater",
        "history": point.history,
        "session_timeout_ms": SESSION_MS,
    }
    if not point.exchange:
        settings["exchange_bytes_per_s"] = 0
    with redis.Redis.from_url(bed.redis) as store:
        put_users(store, bed.name, point)
        with workers(bed, bed.name, point.workers, settings) as started:
            count = checkpoint_count(store, bed.name, "g1", point.partitions)
            processes = {f"worker {n}": one.program.pid for n, one in enumerate(started)}
            before = _store_bytes(store)
            with standing_still([one.program for one in started]):
                asyncio.run(fill(bed.kafka, bed.topics.events.name, load, n_events, lambda n: None))
            samples = watch(
                started[0].program, count, n_events, on_count, processes | bed.processes
            )
            carried = _store_bytes(store) - before
    to_store, from_store = (carried / n_events).tolist()
    return Run(steady_rate(samples, n_events), to_store, from_store)


def _store_bytes(store: redis.Redis) -> NDArray[np.float64]:
    """Received and sent by the server so far; what the bench itself asks is a percent of it."""
    stats = store.info("stats")
    return np.array([stats["total_net_input_bytes"], stats["total_net_output_bytes"]], np.float64)


def put_users(store: redis.Redis, name: str, point: Point) -> None:
    """A profile in the store for each user of a point, as from earlier events of other items."""
    generator = np.random.default_rng(7)
    shape = ModelShape(history=point.history)
    lengths = generator.geometric(1 / MEAN_EVENTS, N_RECORDS).tolist()
    records = list(made_up(lengths, generator, RECORD_VERSION, shape))
    keys = Keys(name, "g1", point.partitions)
    for first in range(0, point.users, AT_ONCE):
        pipeline = store.pipeline(transaction=False)
        for user in range(first, min(first + AT_ONCE, point.users)):
            user_id = f"u{user}"
            partition = partition_of(user_id, point.partitions)
            pipeline.set(keys.record(partition, user_id), records[user % N_RECORDS])
        pipeline.execute()


def _row(runs: Sequence[Run]) -> dict[str, Figure]:
    return {
        "events/s": figure([run.rate.events_per_s for run in runs]),
        "us of workers": figure([run.worker_us for run in runs]),
        "us of servers": figure([run.server_us for run in runs]),
        "bytes to store": figure([run.to_store for run in runs]),
        "bytes from store": figure([run.from_store for run in runs]),
    }


def _ratios(rates: dict[str, list[Run]]) -> dict[str, dict[str, Figure]]:
    def values(name: str) -> list[float]:
        return [run.rate.events_per_s for run in rates[name]]

    found = {
        f"{name} / default": {"": ratio(values(name), values("default"))}
        for name in rates
        if name != "default"
    }
    for name, runs in rates.items():
        alone = rates.get(f"{name}, no exchange")
        if alone is not None:
            pairs = list(zip(runs, alone, strict=True))
            lost = [1 - a.rate.events_per_s / b.rate.events_per_s for a, b in pairs]
            found[f"share lost to the exchange, {name}"] = {"": figure(lost)}
            # A clock of 10 ms tells nothing of a run that took less.
            if all(run.worker_us > 0 for run in runs):
                cpu = [1 - b.worker_us / a.worker_us for a, b in pairs]
                found[f"the same of the workers' processor time, {name}"] = {"": figure(cpu)}
    return found
