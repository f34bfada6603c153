"""`bench throughput`: sustained events/s of the worker beside references and limits, in one run.

Every system reads the same topic, filled before, as a process of its own; one after the other
within a repeat, so that a busy minute meets all of them. A system's rate is that of events visible
in the store, from the tenth part of its events on.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import redis

from agents.bench.bed import Bed
from agents.bench.figures import Figure, Rate, figure, ratio, steady_rate
from agents.bench.load import Load, fill
from agents.bench.machine import Machine, this_machine
from agents.bench.programs import (
    checkpoint_count,
    drop_keys,
    file_count,
    finished,
    reference,
    running,
    watch,
    worker,
)

OnProgress = Callable[[str, int, int], None]
"""Told what runs, how far it is, and of how many."""


@dataclass(frozen=True, slots=True)
class System:
    """One thing measured. share: of the run's events it gets, so that slow ones take no longer.

    settings: of a worker of ours. script, argument: of a reference or a limit.
    """

    name: str
    about: str
    share: float = 1.0
    settings: Mapping[str, object] | None = None
    script: str = ""
    argument: str = ""

    @property
    def is_limit(self) -> bool:
        """Whether it does only a part of the work, and times itself."""
        return self.script == "limits"


SYSTEMS = (
    System(
        "foldstream_small",
        "foldstream, 1 + 4 negatives, weights not learned",
        settings={"n_recent_negatives": 0, "n_uniform_negatives": 4, "blend_every": 0},
    ),
    System("faust_take", "Faust take(1000), MGET/MSET", 0.2, script="faust_take"),
    System(
        "foldstream_scored",
        "the small work, and lists of whom it changes",
        settings={
            "n_recent_negatives": 0,
            "n_uniform_negatives": 4,
            "blend_every": 0,
            "agents": "updater,scorer",
        },
    ),
    System("foldstream_full", "foldstream, 1 + 8 + 8 negatives", settings={}),
    System("foldstream_no_blend", "the same, weights not learned", settings={"blend_every": 0}),
    System("foldstream_no_own", "the same, without own tables", settings={"own_items": 0}),
    System(
        "foldstream_trials",
        "the same, each hundredth event ranked before it is learned",
        settings={"trials_sampling": 0.01},
    ),
    System("faust_per_event", "Faust, GET/SET an event", 0.04, script="faust_per_event"),
    System("limit_consume", "limit: aiokafka getmany", 1.0, None, "limits", "consume"),
    System("limit_decode", "limit: msgspec decode", 1.0, None, "limits", "decode"),
    System("limit_kernel_small", "limit: kernel, 1 + 4", 1.0, None, "limits", "kernel"),
    System("limit_kernel_full", "limit: kernel, 1 + 16", 1.0, None, "limits", "kernel-full"),
    System("limit_store", "limit: redis-py MSET", 1.0, None, "limits", "store"),
)

OURS = {
    "foldstream_small": "limit_kernel_small",
    "foldstream_scored": "foldstream_small",
    "foldstream_full": "limit_kernel_full",
    "foldstream_no_blend": "foldstream_full",
    "foldstream_no_own": "foldstream_full",
    "foldstream_trials": "foldstream_full",
}
"""Our systems, and what stands beside them: the limit of the kernel that each folds with, or the
one of ours from which it differs in one thing."""


class ThroughputReport(msgspec.Struct, frozen=True):
    """rates: events/s by system. cpu_us: median microseconds of processor an event, by system and
    process. ratios: repeat by repeat, ``a / b``."""

    bench: str
    machine: Machine
    settings: dict[str, Any]
    about: dict[str, str]
    rates: dict[str, Figure]
    cpu_us: dict[str, dict[str, float]]
    ratios: dict[str, Figure]


def throughput(
    bed: Bed,
    systems: tuple[System, ...],
    n_events: int,
    repeats: int,
    on_progress: OnProgress,
) -> ThroughputReport:
    """Fill the topic, run every system `repeats` times. Raises BenchFailed, UsageError."""
    load = Load(seed=1, first_ms=time.time_ns() // 1_000_000)
    machine = this_machine(bed.versions)
    on_progress("filling the topic", 0, n_events)
    asyncio.run(
        fill(
            bed.kafka,
            bed.topics.events.name,
            load,
            n_events,
            lambda n: on_progress("filling the topic", n, n_events),
        )
    )
    rates: dict[str, list[Rate]] = {system.name: [] for system in systems}
    with redis.Redis.from_url(bed.redis) as store:
        for number in range(1, repeats + 1):
            for system in systems:
                run = _Run(bed, store, system, number, repeats, n_events, on_progress)
                rates[system.name].append(run.measure())
    return ThroughputReport(
        bench="throughput",
        machine=machine,
        settings={
            "events": {s.name: max(1, int(n_events * s.share)) for s in systems},
            "repeats": repeats,
            "users": load.n_users,
            "items": load.n_items,
            "zipf": load.zipf,
            "partitions": bed.topics.partitions,
            "n_factors": 64,
            "agents": "updater, but where it is said",
        },
        about={system.name: system.about for system in systems},
        rates={name: figure([rate.events_per_s for rate in runs]) for name, runs in rates.items()},
        cpu_us={
            name: {
                process: figure([rate.cpu_us[process] for rate in runs]).median
                for process in runs[0].cpu_us
            }
            for name, runs in rates.items()
            if runs[0].cpu_us
        },
        ratios=ratios({n: [rate.events_per_s for rate in runs] for n, runs in rates.items()}),
    )


def ratios(rates: Mapping[str, list[float]]) -> dict[str, Figure]:
    """Ours to each reference, and to the tightest limit of the run.

    >>> list(ratios({"foldstream_small": [8.0], "faust_take": [1.0], "limit_store": [16.0]}))
    ['foldstream_small / faust_take', 'foldstream_small / tightest limit (limit_store)']
    """
    found: dict[str, Figure] = {}
    for ours, beside in OURS.items():
        if ours not in rates:
            continue
        for theirs in ("faust_take", "faust_per_event"):
            if theirs in rates:
                found[f"{ours} / {theirs}"] = ratio(rates[ours], rates[theirs])
        if beside in OURS and beside in rates:
            found[f"{ours} / {beside}"] = ratio(rates[ours], rates[beside])
        limits = [
            name
            for name in rates
            if name.startswith("limit_") and (name == beside or "kernel" not in name)
        ]
        if limits:
            tightest = min(limits, key=lambda name: figure(rates[name]).median)
            found[f"{ours} / tightest limit ({tightest})"] = ratio(rates[ours], rates[tightest])
    return found


@dataclass(frozen=True, slots=True)
class _Run:
    """One system, once."""

    bed: Bed
    store: redis.Redis
    system: System
    number: int
    repeats: int
    n_events: int
    on_progress: OnProgress

    def measure(self) -> Rate:
        prefix = f"{self.bed.name}-{self.system.name}-{self.number}"
        n = max(1, int(self.n_events * self.system.share))
        self.show(0, n)
        try:
            if self.system.settings is not None:
                return self._worker(prefix, n, self.system.settings)
            if self.system.is_limit:
                return self._limit(prefix, n)
            return self._reference(prefix, n)
        finally:
            drop_keys(self.store, prefix)

    def show(self, done: int, n: int) -> None:
        of = f" ({self.number} of {self.repeats})" if self.repeats > 1 else ""
        self.on_progress(f"{self.system.name}{of}", done, n)

    def _worker(self, prefix: str, n: int, settings: Mapping[str, object]) -> Rate:
        bed = self.bed
        short = prefix.replace("foldstream_", "")[:32]  # the store's prefix has a bound
        command = worker(
            {
                "kafka": bed.kafka,
                "redis": bed.redis,
                "data_dir": bed.folder / prefix,
                "topic_prefix": bed.topics.prefix,
                "partitions": bed.topics.partitions,
                "store_prefix": short,
                "generation": "g1",
                "group": prefix,
                "agents": "updater",
                **settings,
            }
        )
        count = checkpoint_count(self.store, short, "g1", bed.topics.partitions)
        try:
            with running(self.system.name, command, bed.folder) as program:
                return self._watched(program, count, n)
        finally:
            drop_keys(self.store, short)

    def _reference(self, prefix: str, n: int) -> Rate:
        progress = self.bed.folder / "progress"
        count = file_count(progress)
        command = reference(self.system.script, self._order(prefix, n, progress))
        with running(self.system.name, command, self.bed.folder) as program:
            return self._watched(program, count, n)

    def _watched(self, program: Any, count: Callable[[], int], n: int) -> Rate:
        processes = {"system": program.pid, **self.bed.processes}
        samples = watch(program, count, n, lambda done: self.show(min(done, n), n), processes)
        return steady_rate(samples, n)

    def _limit(self, prefix: str, n: int) -> Rate:
        order = self._order(prefix, n, self.bed.folder / "progress")
        command = reference(self.system.script, order, self.system.argument)
        with running(self.system.name, command, self.bed.folder) as program:
            finished(program)
        result = json.loads(Path(str(order["result"])).read_text("utf-8"))
        n, seconds = result["n"], result["seconds"]
        return Rate(n / seconds, n, seconds, {"system": result["cpu_s"] / n * 1e6})

    def _order(self, prefix: str, n: int, progress: Path) -> dict[str, object]:
        return {
            "kafka": self.bed.kafka,
            "redis": self.bed.redis,
            "topic": self.bed.topics.events.name,
            "prefix": prefix,
            "n_events": n,
            "progress": str(progress),
            "result": str(self.bed.folder / "result.json"),
            "folder": str(self.bed.folder),
        }
