"""Workers under measurement: started, ready, given their events, and how large they are."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents.bench.bed import Bed
from agents.bench.figures import BenchFailed
from agents.bench.programs import STALL_S, running, worker
from streams.embedded.guard import Guarded
from streams.embedded.ports import free_ports

ANSWER_S = 2.0
LOOK_S = 0.01
"""Between two looks at a worker that starts: less than any stage that a person would notice."""


@dataclass(frozen=True, slots=True)
class Started:
    """One worker. name: what it says it is. port: of its pages."""

    program: Guarded
    port: int


@contextmanager
def workers(bed: Bed, name: str, n: int, settings: Mapping[str, object]) -> Iterator[list[Started]]:
    """n workers of one group, ready and with all partitions between them.

    name: first part of their keys, at most 32 characters, unlike any other run's.
    """
    with ExitStack() as stack:
        started = []
        for number, port in enumerate(free_ports(n)):
            command = worker(settings_of(bed, name, settings) | {"port": port})
            program = stack.enter_context(running(f"{name}-{number}", command, bed.folder))
            started.append(Started(program, port))
        for one in started:
            until_ready(one.program, one.port)
        yield started


@contextmanager
def standing_still(programs: Sequence[Guarded]) -> Iterator[None]:
    """Frozen for the length of the block, which must be shorter than the workers' session."""
    for program in programs:
        program.pause()
    try:
        yield
    finally:
        for program in programs:
            program.resume()


def settings_of(bed: Bed, name: str, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings of a worker on this bed, under a name of its own."""
    return {
        "kafka": bed.kafka,
        "redis": bed.redis,
        "data_dir": bed.folder / name,
        "topic_prefix": bed.topics.prefix,
        "partitions": bed.topics.partitions,
        "store_prefix": name,
        "generation": "g1",
        "group": name,
        **settings,
    }


def until_ready(
    program: Guarded,
    port: int,
    on_causes: Callable[[Sequence[str] | None], None] | None = None,
    within_s: float = STALL_S,
) -> None:
    """Return when /readyz says yes. on_causes: told at each look what is missing; None: no answer.

    Raises BenchFailed when the worker ends, or isn't ready in time.
    """
    give_up = time.monotonic() + within_s
    while True:
        ready, causes = ask(port)
        if on_causes is not None:
            on_causes(causes)
        if ready:
            return
        if not program.alive():
            raise BenchFailed(f"{program.name} ended at its start:\n{program.log_tail()}")
        if time.monotonic() > give_up:
            raise BenchFailed(
                f"{program.name} was not ready within {within_s:.0f} s ({causes}):\n"
                f"{program.log_tail()}"
            )
        time.sleep(LOOK_S)


def ask(port: int) -> tuple[bool, list[str] | None]:
    """Whether the worker on this port of the loopback is ready, and why not; None: no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        document = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError):
        return False, None
    finally:
        connection.close()
    causes = [f"{one['part']}: {one['cause']}" for one in document.get("causes", [])]
    return answer.status == 200, causes


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM. Raises BenchFailed when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    except (OSError, IndexError) as error:
        raise BenchFailed(f"process {pid} is gone") from error
    return pages * os.sysconf("SC_PAGE_SIZE")
