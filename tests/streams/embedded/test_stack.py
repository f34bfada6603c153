"""The embedded stack: one owner, found by others, gone with its parent, back with its data."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from streams.embedded.guard import wait_gone
from streams.embedded.stack import Stack, StackInfo, lock_is_held, read_stack
from streams.embedded.store import ask
from streams.errors import EmbeddedError
from streams.topics import TopicSet, ensure_topics

WAIT_S = 30.0

HOLDER = """
import json, sys, time
from pathlib import Path
from streams.embedded.stack import Stack

options = json.loads(sys.argv[1])
options["data_dir"] = Path(options["data_dir"])
with Stack(**options):
    print("ready", flush=True)
    time.sleep(600)
"""


class Holder:
    """Another process that holds a stack."""

    def __init__(self, data_dir: Path, **options: str | bool) -> None:
        self.data_dir = data_dir
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, json.dumps({"data_dir": str(data_dir), **options})],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        with self.process.stdout:
            assert self.process.stdout.readline() == "ready\n"
        info = read_stack(data_dir)
        assert info is not None
        self.info: StackInfo = info

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def holder(tmp_path: Path, kafka: str) -> Iterator[Holder]:
    """A stack of a store only (quick), held by another process."""
    held = Holder(tmp_path / "data", kafka_url=kafka)
    yield held
    held.kill()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1].split("/")[0])


def test_a_running_stack_says_where_it_is(stack: Stack) -> None:
    info = read_stack(stack.data_dir)
    assert info == stack.info
    assert info is not None
    assert info.kafka.startswith("127.0.0.1:")
    assert info.redis.startswith("redis://127.0.0.1:")
    assert set(info.pids) == set(info.versions) == {"kafka", "redis"}


def test_a_folder_has_one_stack_at_a_time(holder: Holder, kafka: str) -> None:
    with pytest.raises(
        EmbeddedError, match=rf"in use by process {holder.process.pid}.*foldstream down"
    ):
        Stack(holder.data_dir, kafka_url=kafka).start()
    assert read_stack(holder.data_dir) == holder.info


def test_a_dead_run_is_recovered(holder: Holder, kafka: str) -> None:
    assert ask(port_of(holder.info.redis), "SET", "key", "value") == "OK"
    holder.kill()
    assert read_stack(holder.data_dir) is None
    with Stack(holder.data_dir, kafka_url=kafka) as again:
        # The lock was free only when the dead run's store was gone, so the port was free again.
        assert again.recovered
        assert again.redis == holder.info.redis
        assert ask(port_of(again.redis), "GET", "key") == "value"
        assert wait_gone(holder.info.pids["redis"], 0)
    assert not lock_is_held(holder.data_dir)
    assert not (holder.data_dir / "stack.json").exists()


async def test_topics_and_keys_survive_the_kill_of_the_process_that_holds_the_stack(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "données 1"  # a space and a letter that a properties file escapes
    held = Holder(folder)
    topics = TopicSet(prefix="kept", partitions=2)
    try:
        await ensure_topics(held.info.kafka, topics.all())
        assert ask(port_of(held.info.redis), "SET", "key", "value") == "OK"
    finally:
        held.kill()
    for pid in held.info.pids.values():
        assert wait_gone(pid, WAIT_S)
    with Stack(folder) as again:
        assert ask(port_of(again.redis), "GET", "key") == "value"
        admin = AIOKafkaAdminClient(bootstrap_servers=again.kafka)
        await admin.start()
        try:
            assert {topic.name for topic in topics.all()} <= set(await admin.list_topics())
        finally:
            await admin.close()


def test_throw_away_data_is_gone_after_a_kill(
    tmp_path: Path, kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    held = Holder(tmp_path / "data", kafka_url=kafka, ephemeral=True)
    assert list(scratch.iterdir())
    held.kill()
    give_up = time.monotonic() + WAIT_S
    while list(scratch.iterdir()):
        assert time.monotonic() < give_up
        time.sleep(0.05)


def test_a_full_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match=r"GB free at .*--data-dir"):
        Stack(tmp_path, min_free_bytes=1 << 62).start()
    assert not lock_is_held(tmp_path)


def test_a_taken_port_leaves_nothing_running(tmp_path: Path, kafka: str, redis_url: str) -> None:
    taken = port_of(redis_url)
    with pytest.raises(EmbeddedError, match=rf"port {taken} for the store is taken"):
        Stack(tmp_path, kafka_url=kafka, redis_port=taken).start()
    assert not lock_is_held(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kafka_url": "127.0.0.1:1"}, "broker at 127.0.0.1:1 takes no connection.*--kafka"),
        ({"redis_url": "redis://127.0.0.1:1/0"}, "store at .* takes no connection.*--redis"),
        ({"redis_url": "redis://:0"}, "--redis: .* is no address; write redis://host:port/0"),
    ],
)
def test_an_address_that_does_not_answer_is_named(
    tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(EmbeddedError, match=message):
        Stack(tmp_path, **options).start()  # type: ignore[arg-type]


def test_a_server_that_ends_by_itself_is_reported(tmp_path: Path, kafka: str) -> None:
    with Stack(tmp_path, ephemeral=True, kafka_url=kafka) as running:
        assert running.dead_server() is None
        assert running.store is not None
        running.store.process.kill()
        assert "redis (process" in (running.dead_server() or "")
