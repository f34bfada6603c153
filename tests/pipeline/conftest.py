"""Kafka's own console tools, and a worker with every agent that tests may share."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.embedded.jars import KAFKA_VERSION, cache_folder, kafka_jars, read_pins
from streams.embedded.kafka import java_program
from streams.embedded.stack import Stack
from streams.topics import TopicSet, ensure_topics
from tests.builders import WorkerProcess, settings_of

PINS = Path(__file__).with_name(f"kafka-tools-{KAFKA_VERSION}.sha256")

Tool = Callable[..., str]


def _tools_jars(scratch: Path) -> list[Path]:
    """The one jar with the console tools; what else they need the broker has."""
    import jgo  # here: only a machine's first run needs it

    return list(jgo.build(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}").all_jars)


@pytest.fixture(scope="session")
def kafka_tool(stack: Stack) -> Tool:
    """``kafka_tool("ConsoleProducer", "--topic", "t", stdin="...")`` -> what it printed."""
    from streams.embedded.jars import _fetch_missing, _only_one

    pins = read_pins(PINS)
    folder = cache_folder() / f"kafka-tools-{KAFKA_VERSION}"
    faults: list[str] = []
    with _only_one(folder):
        assert not _fetch_missing(folder, pins, [_tools_jars], faults), faults
    jars = [*kafka_jars(), *(folder / name for name in pins)]

    def run(name: str, *arguments: str, stdin: str = "") -> str:
        done = subprocess.run(
            [
                java_program(),
                "-XX:TieredStopAtLevel=1",
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
                *("-cp", ":".join(str(jar) for jar in jars)),
                f"org.apache.kafka.tools.{name}",
                *("--bootstrap-server", stack.kafka),
                *arguments,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    return run


@pytest.fixture(scope="session")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker process with updater, catalogue and scorer, on topics of its own."""
    topics = TopicSet("shop", 4)
    asyncio.run(ensure_topics(stack.kafka, topics.all()))
    settings = settings_of(
        stack.kafka,
        stack.redis,
        topics,
        "shop",
        tmp_path_factory.mktemp("shop"),
        agents=["updater", "catalogue", "scorer"],
        item_snapshot_interval_s=0.5,
    )
    worker = WorkerProcess(settings).launch()
    try:
        asyncio.run(worker.ready())
        yield worker
    finally:
        worker.process.stop()
