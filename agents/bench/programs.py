"""Programs under measurement: each a process of its own, watched until its work is done.

Owns their start, their progress (our checkpoints in the store, a reference's shared file) and
their end; nothing outlives the bench (`Guarded`).
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import redis

from agents.bench.figures import BenchFailed, Sample
from agents.bench.machine import cpu_seconds
from agents.errors import UsageError
from profiles.store_keys import Keys
from streams.embedded.guard import Guarded

POLL_S = 0.02
"""Between two looks: sixteen small reads of the store each, far below a percent of a core."""

STALL_S = 120.0
"""Without progress: a first start compiles for up to half a minute on a busy machine."""

REFERENCES = Path(__file__).parents[2] / "tests" / "bench"


def reference(name: str, order: Mapping[str, object], *more: str) -> list[str]:
    """The command of a program in tests/bench. Raises UsageError outside a checkout."""
    script = REFERENCES / f"{name}.py"
    if not script.exists():
        raise UsageError(
            f"{script} is not there: the references stand in the repository, run `foldstream "
            "bench` from a checkout"
        )
    return [sys.executable, str(script), msgspec.json.encode(order).decode(), *more]


def worker(settings: Mapping[str, object]) -> list[str]:
    """The command of a worker; settings by name, given as the environment."""
    assigned = [f"FOLDSTREAM_{name.upper()}={value}" for name, value in settings.items()]
    return ["env", *assigned, sys.executable, "-m", "agents", "worker"]


@contextmanager
def running(name: str, command: Sequence[str], folder: Path) -> Iterator[Guarded]:
    """The program from here to the end of the block; its output goes to a file in `folder`."""
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    program = Guarded(name, command, log, grace_s=10.0)
    try:
        yield program
    finally:
        program.stop()


def watch(
    program: Guarded,
    count: Callable[[], int],
    n: int,
    on_progress: Callable[[int], None],
    processes: Mapping[str, int] | None = None,
) -> list[Sample]:
    """Look at the progress until n events are done; every change is a sample.

    processes: name -> pid, whose processor time is noted. Raises BenchFailed.
    """
    samples: list[Sample] = []
    moved_s = time.monotonic()
    while not samples or samples[-1].count < n:
        done, now_s = count(), time.monotonic()
        if not samples or done != samples[-1].count:
            cpu_s = {name: cpu_seconds(pid) for name, pid in (processes or {}).items()}
            samples.append(Sample(now_s, done, cpu_s))
            moved_s = now_s
            on_progress(done)
            continue
        if not program.alive():
            raise BenchFailed(f"{program.name} ended after {done:,} events:\n{program.log_tail()}")
        if now_s - moved_s > STALL_S:
            raise BenchFailed(
                f"{program.name} stands at {done:,} of {n:,} events for {STALL_S:.0f} s:\n"
                f"{program.log_tail()}"
            )
        time.sleep(POLL_S)
    return samples


def finished(program: Guarded) -> None:
    """Wait for a program that ends by itself. Raises BenchFailed."""
    status = program.wait(2 * STALL_S)
    if status != 0:
        raise BenchFailed(f"{program.name} ended with {status}:\n{program.log_tail()}")


def file_count(path: Path) -> Callable[[], int]:
    """Progress of a reference: eight bytes in a file."""
    path.write_bytes(bytes(8))
    return lambda: int(struct.unpack("<q", path.read_bytes().ljust(8, b"\0"))[0])


def checkpoint_count(
    store: redis.Redis, prefix: str, generation: str, partitions: int
) -> Callable[[], int]:
    """Progress of a worker: the sum of its checkpoints' next_offset."""
    keys = Keys(prefix, generation, partitions).checkpoint

    def count() -> int:
        pipeline = store.pipeline(transaction=False)
        for key in keys:
            pipeline.hget(key, "next_offset")
        return sum(int(value or 0) for value in pipeline.execute())

    return count


def drop_keys(store: redis.Redis, prefix: str) -> None:
    """Remove what a run left in the store; prefix: unlike any other run's."""
    batch: list[bytes] = []
    for key in store.scan_iter(match=f"{prefix}*", count=5_000):
        batch.append(key)
        if len(batch) == 5_000:
            store.unlink(*batch)
            batch.clear()
    if batch:
        store.unlink(*batch)
