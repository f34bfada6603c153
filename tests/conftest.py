"""Fixtures for the real broker and store: one of each a session, shared by all tests.

They start when the first test asks for them and die with pytest, also on SIGKILL. Each test keeps
to its own topics (`topics`) and its own keys (`generation`).
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import aiokafka.client
import aiokafka.conn
import pytest

from streams.embedded.kafka import KafkaServer, new_cluster_id
from streams.embedded.stack import Stack
from streams.embedded.store import StoreCluster
from streams.topics import TopicSet, admin_client, ensure_topics

CHECKOUT = Path(__file__).parent.parent

# `TopicSets` talks to the broker beside the tests, and hypothesis takes it amiss when anybody draws
# from the common generator meanwhile.
for module in (aiokafka.client, aiokafka.conn):
    setattr(module, "random", random.Random())  # noqa: B010


@pytest.fixture(scope="session", autouse=True)
def formatted_once() -> Iterator[None]:
    """A new broker's folder is formatted by Kafka's tool once, and copied under an id of its own
    afterwards: some forty tests start a broker, and the tool takes as long as the broker."""
    format_by_tool = KafkaServer._format
    kept: dict[str, bytes] = {}

    def formatted(server: KafkaServer, config: Path) -> None:
        log = server.folder / "log"
        whole = len(server._jars or ()) > 1  # not the broken jar of a test
        if not kept or not whole:
            format_by_tool(server, config)
            if whole:
                kept.update({file.name: file.read_bytes() for file in log.iterdir()})
            return
        log.mkdir()
        for name, content in kept.items():
            own = content
            for key in (b"cluster.id", b"directory.id") if name == "meta.properties" else ():
                line = key + b"=" + new_cluster_id().encode()
                own = re.sub(rb"(?m)^" + re.escape(key) + rb"=.*$", line, own)
            (log / name).write_bytes(own)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KafkaServer, "_format", formatted)
        yield


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A throw-away broker and store."""
    with Stack(tmp_path_factory.mktemp("stack"), ephemeral=True) as running:
        yield running


@pytest.fixture(scope="session")
def kafka(stack: Stack) -> str:
    """``host:port`` of the broker."""
    return stack.kafka


@pytest.fixture(scope="session")
def redis_url(stack: Stack) -> str:
    """URL of the standalone store."""
    return stack.redis


@pytest.fixture(scope="session")
def store_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreCluster]:
    """A store cluster of three masters; `.url` is one of them."""
    cluster = StoreCluster(tmp_path_factory.mktemp("cluster"), 3)
    cluster.start()
    yield cluster
    cluster.stop()


class TopicSets:
    """Sets of topics, made some at a time in a thread of their own, beside the tests.

    Deleted in the same way: a broker that keeps forty partitions a test grows slow.
    """

    AT_ONCE = 4

    def __init__(self, kafka: str) -> None:
        self._kafka = kafka
        self._beside = ThreadPoolExecutor(1, "topics")
        self._ready: list[TopicSet] = []
        self._used: list[TopicSet] = []
        self._coming: Future[list[TopicSet]] = self._beside.submit(self._make)

    def take(self) -> TopicSet:
        if not self._ready:
            self._ready = self._coming.result(timeout=120)
            self._coming = self._beside.submit(self._make)
        return self._ready.pop()

    def give_back(self, topics: TopicSet) -> None:
        self._used.append(topics)
        if len(self._used) == self.AT_ONCE:
            used, self._used = self._used, []
            self._beside.submit(self._delete, used)

    def close(self) -> None:
        self._beside.shutdown(cancel_futures=True)

    def _make(self) -> list[TopicSet]:
        made = [TopicSet(f"t{uuid.uuid4().hex[:12]}", partitions=4) for _ in range(self.AT_ONCE)]
        asyncio.run(ensure_topics(self._kafka, [topic for one in made for topic in one.all()]))
        return made

    def _delete(self, used: list[TopicSet]) -> None:
        async def delete() -> None:
            async with admin_client(self._kafka) as admin:
                await admin.delete_topics([topic.name for one in used for topic in one.all()])

        asyncio.run(delete())


@pytest.fixture(scope="session")
def topic_sets(kafka: str) -> Iterator[TopicSets]:
    """Where `topics` come from."""
    sets = TopicSets(kafka)
    yield sets
    sets.close()


@pytest.fixture
def topics(topic_sets: TopicSets) -> Iterator[TopicSet]:
    """A `TopicSet` of four partitions under a prefix of its own, created; deleted afterwards.

    Four, not sixteen: a broker that makes eighty partitions a test grows slow.
    """
    chosen = topic_sets.take()
    yield chosen
    topic_sets.give_back(chosen)


@pytest.fixture
def generation(request: pytest.FixtureRequest) -> str:
    """A generation name no other test uses; where a test has `topics`, their prefix."""
    if "topics" in request.fixturenames:
        topics: TopicSet = request.getfixturevalue("topics")
        return topics.prefix
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def _restartable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaServer]:
    server = KafkaServer(tmp_path_factory.mktemp("restartable") / "kafka", ephemeral=False)
    yield server
    server.stop()


@pytest.fixture
def broker(_restartable: KafkaServer) -> KafkaServer:
    """A broker that a test may stop, kill and start; it keeps its data. Give topics names of one's
    own: the tests that ask for it share it."""
    if not _restartable.alive():
        _restartable.start()
    return _restartable


@pytest.fixture
def broker_topics(broker: KafkaServer, generation: str) -> TopicSet:
    """A `TopicSet` of four partitions on `broker`, created under a name of the test's own."""
    topics = TopicSet(generation, partitions=4)
    asyncio.run(ensure_topics(broker.bootstrap, topics.all()))
    return topics


def _data_root() -> Path:
    return Path(os.environ.get("FOLDSTREAM_DATA") or CHECKOUT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def require_data() -> Callable[[str], Path]:
    """``require_data(name)``: the folder of one public data set, or a skip with the reason."""

    def require(name: str) -> Path:
        folder = _data_root() / name
        if not folder.is_dir():
            pytest.skip(f"no data set {name} in {_data_root()}: set FOLDSTREAM_DATA")
        return folder

    return require


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder that holds the public data sets, or a skip with the reason."""
    if not _data_root().is_dir():
        pytest.skip(f"no folder {_data_root()}: set FOLDSTREAM_DATA")
    return _data_root()


# Where the parts are there, a skip is a failure: FOLDSTREAM_NO_SKIP=1, set by .ci/run.

FORBIDDEN = "may not be skipped"


class ForbiddenSkips:
    """Fails the run for skips that it may not have, and names them. Where tests run in processes of
    their own, their reports come to the first process, and there they count."""

    def __init__(self) -> None:
        self._skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and (FORBIDDEN, True) in report.user_properties:
            self._skipped.append(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if session.exitstatus == pytest.ExitCode.OK and self._skipped:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for nodeid in self._skipped:
            terminalreporter.write_line(f"SKIPPED WHERE IT MAY NOT BE: {nodeid}", red=True)


def pytest_configure(config: pytest.Config) -> None:
    """Watch for forbidden skips; let Ctrl-C end the run."""
    if os.environ.get("FOLDSTREAM_NO_SKIP") == "1":
        config.pluginmanager.register(ForbiddenSkips())
    # With Python's own handler in place, asyncio would replace it while a test runs and only cancel
    # that test: the run would go on with the next one.
    signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever asks for the data sets is a `data` test."""
    for item in items:
        if {"require_data", "data_folder"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("data")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Mark a skip of a browser test, and of a data test where the data sets are."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        browser = item.get_closest_marker("browser")
        data = item.get_closest_marker("data") and _data_root().is_dir()
        if browser or data:
            report.user_properties.append((FORBIDDEN, True))
    return report
