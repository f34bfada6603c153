"""`bench latency`: from an event's append to its recommendation readable, at a fixed rate.

The worker runs as it does by default. A process of its own sends; this one reads `recommendations`
as a shop would and notes when the list that knows a probe user's event came. Stages come from the
stamps in the list.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis
import uvloop
from aiokafka import AIOKafkaConsumer

from agents.bench.bed import Bed
from agents.bench.figures import BenchFailed, Figure, figure, percentile
from agents.bench.load import Load, fill
from agents.bench.machine import Machine, this_machine
from agents.bench.open_loop import LoadOrder, LoadResult, Probe
from agents.bench.programs import checkpoint_count, running, watch, worker
from streams.embedded.guard import Guarded
from streams.events import Recommendation, Stamps

PREFILL = 20_000
"""Events folded before: vectors, counts and caches as in a shop that has been open for a while."""

WARM_S = 5.0
PATIENCE_S = 5.0
"""How long after the last event a list may still come; later it is missing."""

QUIET_S = 1.0
"""Without a list for this long, the worker is done with what was there before."""

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True)
class LatencyPlan:
    """rate_per_s for `seconds`, `repeats` times. probe_share: of the users."""

    rate_per_s: float
    seconds: float
    repeats: int
    probe_share: float
    seed: int = 2


class LatencyReport(msgspec.Struct, frozen=True):
    """milliseconds: by stage and quantile over the repeats, None: late in at least one of them.

    late_share: of the probes, those skipped and those missing; in "appended to readable" they
    count as late, the stages are of the lists that came.
    """

    bench: str
    machine: Machine
    settings: dict[str, Any]
    milliseconds: dict[str, dict[str, Figure | None]]
    n_probes: int
    n_skipped: int
    n_missing: int
    late_share: float
    load_behind_ms: float


@dataclass(frozen=True, slots=True)
class Arrival:
    """A probe user's list: the newest event it knows, its stamps, when it could be read."""

    profile_offset: int
    stamps: Stamps
    read_ms: float


def latency(bed: Bed, plan: LatencyPlan, on_step: Callable[[str], None]) -> LatencyReport:
    """Run it on `bed`. Raises BenchFailed."""
    machine = this_machine(bed.versions)
    load = Load(seed=1, first_ms=time.time_ns() // 1_000_000)
    on_step("filling the topic")
    asyncio.run(fill(bed.kafka, bed.topics.events.name, load, PREFILL, lambda n: None))
    command = worker(
        {
            "kafka": bed.kafka,
            "redis": bed.redis,
            "data_dir": bed.folder / "worker",
            "topic_prefix": bed.topics.prefix,
            "partitions": bed.topics.partitions,
            "store_prefix": bed.name,
            "group": bed.name,
        }
    )
    with (
        redis.Redis.from_url(bed.redis) as store,
        running("worker", command, bed.folder) as program,
    ):
        count = checkpoint_count(store, bed.name, "g1", bed.topics.partitions)
        on_step("starting the worker")
        watch(program, count, PREFILL, lambda n: on_step(f"worker folds, {n:,} of {PREFILL:,}"))
        result, arrivals = uvloop.run(_measure(bed, plan, program, on_step))
    return _report(plan, machine, bed.topics.partitions, result, arrivals)


async def _measure(
    bed: Bed, plan: LatencyPlan, program: Guarded, on_step: Callable[[str], None]
) -> tuple[LoadResult, dict[str, list[Arrival]]]:
    probes = {f"u{u}".encode() for u in Load(plan.seed, 0).probes(plan.probe_share)}
    arrivals: dict[str, list[Arrival]] = {}
    consumer = AIOKafkaConsumer(
        bed.topics.recommendations.name,
        bootstrap_servers=bed.kafka,
        enable_auto_commit=False,
        auto_offset_reset="latest",
        fetch_max_wait_ms=500,
    )
    await consumer.start()
    try:
        on_step("waiting for the lists of what was there before")
        while await consumer.getmany(timeout_ms=int(QUIET_S * 1_000)):
            pass
        result_file = bed.folder / "load.json"
        order = LoadOrder(
            kafka=bed.kafka,
            topic=bed.topics.events.name,
            rate_per_s=plan.rate_per_s,
            warm_s=WARM_S,
            seconds=plan.seconds,
            rounds=plan.repeats,
            seed=plan.seed,
            probe_share=plan.probe_share,
            result=str(result_file),
        )
        command = _load_command(order)
        with running("load", command, bed.folder) as sender:
            await _collect(consumer, probes, arrivals, (program, sender), on_step)
        return msgspec.json.decode(result_file.read_bytes(), type=LoadResult), arrivals
    finally:
        await consumer.stop()


def _load_command(order: LoadOrder) -> list[str]:
    return [sys.executable, "-m", "agents.bench.open_loop", msgspec.json.encode(order).decode()]


async def _collect(
    consumer: Any,
    probes: set[bytes],
    arrivals: dict[str, list[Arrival]],
    programs: tuple[Guarded, Guarded],
    on_step: Callable[[str], None],
) -> None:
    """Note the lists of probe users until the load is done and nothing more comes."""
    worker_program, sender = programs
    decoder = msgspec.json.Decoder(Recommendation)
    n_lists, end_s = 0, math.inf
    said_s = looked_s = time.monotonic()
    while time.monotonic() < end_s:
        fetched = await consumer.getmany(timeout_ms=100)
        read_ms = time.time() * 1_000
        for records in fetched.values():
            n_lists += len(records)
            for record in records:
                if record.key not in probes:
                    continue
                found = decoder.decode(record.value)
                if found.kind == "push" and found.profile_offset is not None:
                    arrivals.setdefault(found.user_id, []).append(
                        Arrival(found.profile_offset, found.stamps, read_ms)
                    )
        now_s = time.monotonic()
        if now_s - looked_s < 0.1:
            continue
        looked_s = now_s
        if now_s - said_s > 0.5:
            said_s = now_s
            on_step(f"events at a fixed rate; {n_lists:,} lists read")
        if not worker_program.alive():
            raise BenchFailed(f"the worker ended:\n{worker_program.log_tail()}")
        if end_s == math.inf and not sender.alive():
            end_s = now_s + PATIENCE_S
            if sender.wait(0.0) != 0:
                raise BenchFailed(f"the load ended:\n{sender.log_tail()}")


def _report(
    plan: LatencyPlan,
    machine: Machine,
    partitions: int,
    result: LoadResult,
    arrivals: dict[str, list[Arrival]],
) -> LatencyReport:
    rounds = [
        round_figures([probe for probe in result.probes if probe.round == number], arrivals)
        for number in range(plan.repeats)
    ]
    n_skipped = sum(found.n_skipped for found in rounds)
    n_missing = sum(found.n_missing for found in rounds)
    n_probes = len(result.probes)
    return LatencyReport(
        bench="latency",
        machine=machine,
        settings={
            "rate_per_s": plan.rate_per_s,
            "seconds": plan.seconds,
            "repeats": plan.repeats,
            "users": Load(plan.seed, 0).n_users,
            "probe_users": len(Load(plan.seed, 0).probes(plan.probe_share)),
            "partitions": partitions,
            "agents": "all",
        },
        milliseconds={
            stage: {
                name: _over_rounds([percentile(found.stages[stage], q) for found in rounds])
                for name, q in QUANTILES.items()
            }
            for stage in rounds[0].stages
        },
        n_probes=n_probes,
        n_skipped=n_skipped,
        n_missing=n_missing,
        late_share=(n_skipped + n_missing) / n_probes if n_probes else 0.0,
        load_behind_ms=result.behind_ms,
    )


def _over_rounds(values: Sequence[float | None]) -> Figure | None:
    known = [value for value in values if value is not None]
    return figure(known) if known and len(known) == len(values) else None


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """stages: milliseconds of each probe by stage; inf in the first for a late one."""

    stages: dict[str, list[float]]
    n_skipped: int
    n_missing: int


def round_figures(probes: Sequence[Probe], arrivals: dict[str, list[Arrival]]) -> RoundFigures:
    """Match each probe with the first list that knows exactly its event.

    One that only a newer list covers was skipped; one that none covers is missing. "Folded to
    scored" holds the commit, its announcement, the wait for a turn and the read from the store.
    """
    names = (
        "appended to readable",
        "sent to appended",
        "appended to folded",
        "folded to scored",
        "scored to emitted",
        "emitted to readable",
    )
    stages: dict[str, list[float]] = {name: [] for name in names}
    n_skipped = n_missing = 0
    for probe in probes:
        lists = arrivals.get(probe.user_id, [])
        exact = next((one for one in lists if one.profile_offset == probe.offset), None)
        if exact is None:
            stages[names[0]].append(math.inf)
            if any(one.profile_offset > probe.offset for one in lists):
                n_skipped += 1
            else:
                n_missing += 1
            continue
        stamps = exact.stamps
        appended, folded = stamps.appended_ms or 0, stamps.folded_ms or 0
        steps = (
            exact.read_ms - probe.appended_ms,
            probe.appended_ms - probe.sent_ms,
            folded - appended,
            stamps.scored_ms - folded,
            stamps.emitted_ms - stamps.scored_ms,
            exact.read_ms - stamps.emitted_ms,
        )
        for name, milliseconds in zip(names, steps, strict=True):
            stages[name].append(milliseconds)
    return RoundFigures(stages, n_skipped, n_missing)
