"""Fixtures for the real broker and store: one of each a session, shared by all tests.

They start when the first test asks for them and die with pytest, also on SIGKILL. Each test keeps
to its own topics (`topics`) and its own keys (`generation`).
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka.admin import AIOKafkaAdminClient

from streams.embedded.stack import Stack
from streams.embedded.store import StoreCluster
from streams.topics import TopicSet, ensure_topics

CHECKOUT = Path(__file__).parent.parent


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


@pytest.fixture
def generation() -> str:
    """A generation name no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest_asyncio.fixture
async def topics(kafka: str, generation: str) -> AsyncIterator[TopicSet]:
    """A `TopicSet` of four partitions under a prefix of its own, created; deleted afterwards.

    Four, not sixteen: a broker that makes eighty partitions a test grows slow.
    """
    chosen = TopicSet(prefix=generation, partitions=4)
    await ensure_topics(kafka, chosen.all())
    yield chosen
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_topics([topic.name for topic in chosen.all()])
    finally:
        await admin.close()


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

_SKIPPED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the forbidden skips of this run; let Ctrl-C end it."""
    config.stash[_SKIPPED] = []
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
    """Note a skip of a browser test, and of a data test where the data sets are."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        browser = item.get_closest_marker("browser")
        data = item.get_closest_marker("data") and _data_root().is_dir()
        if browser or data:
            item.config.stash[_SKIPPED].append(item.nodeid)
    return report


def _forbidden_skips(config: pytest.Config) -> list[str]:
    return config.stash[_SKIPPED] if os.environ.get("FOLDSTREAM_NO_SKIP") == "1" else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run for its forbidden skips."""
    if session.exitstatus == pytest.ExitCode.OK and _forbidden_skips(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Name them."""
    for nodeid in _forbidden_skips(config):
        terminalreporter.write_line(f"SKIPPED WHERE IT MAY NOT BE: {nodeid}", red=True)
