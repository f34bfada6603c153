"""`bench startup`: a worker from exec to ready, by stage, as /readyz tells from outside.

First on an empty store; then again over what the first left, after a stop in order and after a
kill -9. The reference in the same round is an interpreter that imports what a worker imports.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import redis

from agents.bench.bed import Bed
from agents.bench.figures import Figure, figure
from agents.bench.load import Load, fill
from agents.bench.machine import cpu_seconds, this_machine
from agents.bench.programs import STALL_S, checkpoint_count, finished, running, watch, worker
from agents.bench.report import Report, Table
from agents.bench.worker_runs import settings_of, until_ready
from streams.embedded.guard import Guarded
from streams.embedded.ports import free_ports

STAGES = ("until it answers", "starting", "waiting for the group", "taking over", "other")
"""Until the first answer: the interpreter, its imports, topics and store. Starting: catalogue,
item table and kernels. What /readyz names first counts."""

COMPILING_S = 900.0
"""For a start with an empty compile cache: two minutes and a half on a slow machine."""

IMPORTS = ("agents.app", "agents.worker")


def startup(
    bed: Bed, n_events: int, repeats: int, cold: bool, on_step: Callable[[str], None]
) -> Report:
    """Start workers; n_events: folded between the first start and the next ones.

    cold: also with an empty compile cache, once each round. Raises BenchFailed.
    """
    machine = this_machine(bed.versions)
    load = Load(seed=1, first_ms=time.time_ns() // 1_000_000)
    asyncio.run(fill(bed.kafka, bed.topics.events.name, load, n_events, lambda n: None))
    seen: dict[str, list[dict[str, float]]] = {}
    imports: list[float] = []
    for number in range(1, repeats + 1):
        of = f"round {number} of {repeats}"
        on_step(f"{of}: imports alone")
        imports.append(_imports(bed.folder))

        def on_start(step: str, of: str = of) -> None:
            on_step(f"{of}: {step}")

        for name, stages in _starts(bed, number, n_events, on_start):
            seen.setdefault(name, []).append(stages)
        if cold:
            on_step(f"{of}: with an empty compile cache")
            cache = bed.folder / f"cache-{number}"
            with _started(bed, f"{bed.name}-c{number}", "cold", cache) as (_, stages):
                seen.setdefault("cold: no compile cache", []).append(stages)
    tables = {name: Table(name, "s", _rows(rounds)) for name, rounds in seen.items()}
    tables["reference"] = Table("reference", "s", {"python and its imports": {"": figure(imports)}})
    return Report(
        bench="startup",
        machine=machine,
        settings={"events": n_events, "repeats": repeats, "partitions": bed.topics.partitions},
        tables=tables,
        notes=["all agents in one process, the compile cache warm unless it says cold"],
    )


def _starts(
    bed: Bed, number: int, n_events: int, on_step: Callable[[str], None]
) -> list[tuple[str, dict[str, float]]]:
    """A first start, one after a stop in order and one after a kill -9."""
    name = f"{bed.name}-s{number}"
    found = []
    on_step("on an empty store")
    with (
        redis.Redis.from_url(bed.redis) as store,
        _started(bed, name, "first") as (program, stages),
    ):
        found.append(("first start, empty store", stages))
        count = checkpoint_count(store, name, "g1", bed.topics.partitions)
        watch(program, count, n_events, lambda n: on_step(f"folding, {n:,} of {n_events:,}"))
    on_step("after a stop")
    with _started(bed, name, "again") as (program, stages):
        found.append(("after a stop", stages))
        program.kill()
    on_step("after kill -9")
    with _started(bed, name, "killed") as (_, stages):
        found.append(("after kill -9", stages))
    return found


@contextmanager
def _started(
    bed: Bed, name: str, log: str, cache: Path | None = None
) -> Iterator[tuple[Guarded, dict[str, float]]]:
    """A worker that is ready, and the seconds of each stage from its exec on."""
    (port,) = free_ports(1)
    command = worker(settings_of(bed, name, {"port": port}))
    if cache is not None:
        command.insert(1, f"NUMBA_CACHE_DIR={cache}")
    clock = StageClock(time.monotonic())
    with running(f"{name}-{log}", command, bed.folder) as program:
        until_ready(
            program,
            port,
            lambda causes: clock.note(causes, time.monotonic()),
            STALL_S if cache is None else COMPILING_S,
        )
        took_s = clock.end(time.monotonic())
        yield program, took_s | {"processor": cpu_seconds(program.pid)}


class StageClock:
    """Adds up how long each stage was seen.

    >>> clock = StageClock(0.0)
    >>> clock.note(None, 0.1); clock.note(["worker: starting"], 1.0)
    >>> clock.note(["updater: taking over partitions 1"], 3.0)
    >>> {stage: s for stage, s in clock.end(3.5).items() if s}
    {'until it answers': 1.0, 'starting': 2.0, 'taking over': 0.5, 'exec to ready': 3.5}
    """

    def __init__(self, began_s: float) -> None:
        self._began_s = self._since_s = began_s
        self._stage = STAGES[0]
        self._took_s = dict.fromkeys(STAGES, 0.0)

    def note(self, causes: Sequence[str] | None, now_s: float) -> None:
        """What /readyz said at that time; None: nothing."""
        stage = stage_of(causes)
        if stage != self._stage:
            self._took_s[self._stage] += now_s - self._since_s
            self._stage, self._since_s = stage, now_s

    def end(self, now_s: float) -> dict[str, float]:
        """Seconds by stage, and of all."""
        self._took_s[self._stage] += now_s - self._since_s
        return self._took_s | {"exec to ready": now_s - self._began_s}


def stage_of(causes: Sequence[str] | None) -> str:
    """The stage that a worker's reasons for not being ready belong to.

    >>> stage_of(None), stage_of(["updater: not yet assigned: waiting for the group"])
    ('until it answers', 'waiting for the group')
    """
    if causes is None:
        return STAGES[0]
    text = " ".join(causes)
    named = {"starting": "worker: starting", "waiting for the group": "not yet assigned"}
    for stage, words in (named | {"taking over": "taking over partitions"}).items():
        if words in text:
            return stage
    return "other"


def _imports(folder: Path) -> float:
    code = "; ".join(f"import {module}" for module in IMPORTS)
    began = time.monotonic()
    with running("imports", [sys.executable, "-c", code], folder) as program:
        finished(program)
        return time.monotonic() - began


def _rows(rounds: list[dict[str, float]]) -> dict[str, dict[str, Figure]]:
    names = ["exec to ready", *STAGES, "processor"]
    return {name: {"": figure([stages[name] for stages in rounds])} for name in names}
