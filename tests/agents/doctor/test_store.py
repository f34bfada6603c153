"""Doctor on the store: each fault is made on a real server, and named with why and remedy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from agents.app import prepare
from agents.doctor import store as checks
from agents.doctor.finding import Bench, Finding
from agents.doctor.store import examine_node, examine_server, largest_value
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store import LogPosition
from profiles.store_health import NodeHealth
from profiles.store_link import pack
from profiles.store_scan import ServerFacts
from streams.embedded.store import StoreServer
from streams.topics import TopicSet
from tests.builders import settings_of

HEALTHY = ServerFacts(
    address="h:1",
    software="valkey",
    version="9.1.2",
    cluster=False,
    role="master",
    used_memory=10,
    max_memory=100,
    eviction_policy="noeviction",
    aof=True,
    fsync="everysec",
    n_clients=1,
)

NODE = NodeHealth(
    address="h:1",
    clock_ahead_ms=2.0,
    clock_within_ms=1.0,
    max_bulk_bytes=512 << 20,
    aof_writes=True,
    snapshots_write=True,
    n_clients=5,
    max_clients=10_000,
    n_replicas=0,
    evicted_keys=0,
)


def is_complete(finding: Finding) -> bool:
    return bool(finding.thing and finding.finding and finding.why and finding.remedy)


def test_a_healthy_server_is_said_to_be_so() -> None:
    assert [finding.level for finding in examine_server(HEALTHY)] == ["ok"]
    assert [finding.level for finding in examine_node(NODE, 1 << 22)] == ["ok"]


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (replace(HEALTHY, eviction_policy="allkeys-lru"), "error", "maxmemory-policy noeviction"),
        (replace(HEALTHY, aof=False), "warning", "appendonly yes"),
        (replace(HEALTHY, fsync="no"), "warning", "appendfsync everysec"),
        (replace(HEALTHY, fsync="always"), "warning", "appendfsync everysec"),
        (replace(HEALTHY, used_memory=95), "error", "raise maxmemory"),
        (replace(HEALTHY, software="redis", version="6.0.16"), "warning", "upgrade"),
    ],
)
def test_what_is_wrong_with_a_server_comes_with_its_remedy(
    facts: ServerFacts, level: str, said: str
) -> None:
    (finding,) = examine_server(facts)
    assert finding.level == level
    assert said in finding.remedy
    assert is_complete(finding)


@pytest.mark.parametrize(
    ("node", "level", "said"),
    [
        (replace(NODE, clock_ahead_ms=-5_000.0), "warning", "5.0 s behind"),
        (replace(NODE, clock_ahead_ms=90_000.0), "warning", "90 s ahead"),
        (replace(NODE, max_bulk_bytes=1 << 20), "error", "proto-max-bulk-len"),
        (replace(NODE, aof_writes=False), "error", "append-only file failed"),
        (replace(NODE, snapshots_write=False), "error", "BGSAVE"),
        (replace(NODE, evicted_keys=3), "error", "evicted 3 keys"),
        (replace(NODE, n_clients=9_900), "warning", "9,900 of 10,000"),
    ],
)
def test_what_is_wrong_with_a_node_comes_with_its_remedy(
    node: NodeHealth, level: str, said: str
) -> None:
    (finding,) = examine_node(node, 1 << 22)
    assert finding.level == level
    assert said in finding.finding
    assert is_complete(finding)


def test_a_slow_answer_is_no_skew() -> None:
    slow = replace(NODE, clock_ahead_ms=1_400.0, clock_within_ms=900.0)
    assert [finding.level for finding in examine_node(slow, 1)] == ["ok"]


def test_a_server_that_tells_nothing_is_not_accused() -> None:
    silent = replace(HEALTHY, eviction_policy=None, max_memory=None, fsync=None)
    assert [finding.level for finding in examine_server(silent)] == ["ok"]
    hidden = replace(NODE, max_bulk_bytes=None, max_clients=None)
    assert [finding.level for finding in examine_node(hidden, 1 << 22)] == ["ok"]


# On a real server ---------------------------------------------------------------------------


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[StoreServer]:
    """A server whose settings a test may change."""
    server = StoreServer(tmp_path / "store", ephemeral=True)
    server.start()
    yield server
    server.stop()


MakeBench = Callable[..., Bench]


@pytest_asyncio.fixture
async def make_bench(
    kafka: str, own_store: StoreServer, generation: str, tmp_path: Path
) -> AsyncIterator[MakeBench]:
    """``make_bench(...)``: a bench on the server of this test; topics are not looked at."""
    made = []

    def make(**changes: object) -> Bench:
        topics = TopicSet(generation, 4)
        settings = settings_of(kafka, own_store.url, topics, generation, tmp_path)
        settings = settings.model_copy(update=changes)
        bench = Bench(settings, topics, store_of(settings))
        made.append(bench)
        return bench

    yield make
    for bench in made:
        await bench.store.close()


async def ask(bench: Bench, *command: str | bytes) -> object:
    (answer,) = await bench.store._pool.ask_slot(0, [pack(*command)], 1, "test")
    return answer


def bad(findings: list[Finding]) -> list[str]:
    return [finding.finding for finding in findings if finding.level != "ok"]


async def test_settings_of_a_real_server_are_found(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.store.start()
    assert bad(await checks.servers(bench)) == ["appendonly is off"]
    assert bad(await checks.health(bench)) == []
    await ask(bench, "CONFIG", "SET", "appendonly", "yes")
    assert bad(await checks.servers(bench)) == []
    await ask(bench, "CONFIG", "SET", "appendfsync", "no")
    await ask(bench, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await ask(bench, "CONFIG", "SET", "proto-max-bulk-len", "1048576")
    policy, fsync = bad(await checks.servers(bench))
    assert "allkeys-lru" in policy
    assert fsync == "appendfsync is no"
    (bulk,) = bad(await checks.health(bench))
    assert "proto-max-bulk-len is 1,048,576" in bulk


async def test_evicted_keys_are_found_where_a_policy_let_them_go(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.store.start()
    await ask(bench, "CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    await ask(bench, "CONFIG", "SET", "maxmemory", "4mb")
    for number in range(10):
        await ask(bench, "SET", f"filler{number}", b"x" * 1_000_000)
    assert any("evicted" in finding for finding in bad(await checks.health(bench)))


async def test_a_full_store_is_named(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.store.start()
    await ask(bench, "SET", "filler", b"x" * 5_000_000)
    await ask(bench, "CONFIG", "SET", "maxmemory", "5mb")
    assert any("of maxmemory is used" in finding for finding in bad(await checks.servers(bench)))


async def test_meta_is_compared_with_the_settings(
    make_bench: MakeBench, topics: TopicSet, generation: str
) -> None:
    bench = make_bench()
    await bench.store.start()
    assert bad(await checks.meta(bench)) == ["no worker has used this store yet"]
    await prepare(bench.settings)
    assert bad(await checks.meta(bench)) == []
    other = make_bench(generation="other")
    await other.store.start()
    (elsewhere,) = await checks.meta(other)
    assert f"generation = {generation}" in elsewhere.remedy
    more = make_bench(partitions=8)
    await more.store.start()
    (count,) = await checks.meta(more)
    assert (count.level, "partitions = 4" in count.remedy) == ("error", True)


async def test_torn_commits_and_other_settings_are_found(make_bench: MakeBench) -> None:
    bench = make_bench()
    await bench.store.start()
    log = LogPosition("c", bench.topics.events.name, 4)
    for partition in range(3):
        await bench.store.acquire(partition, bytes(16), log)
    (fine,) = await checks.checkpoints(bench)
    assert (fine.level, "3 of 4" in fine.finding) == ("ok", True)
    await ask(bench, "HSET", bench.store.keys.checkpoint[2], "torn", "commit of [1, 2)")
    (torn,) = await checks.checkpoints(bench)
    assert "partitions 2" in torn.finding
    assert "[1, 2)" in torn.finding
    other = make_bench(n_factors=8)
    await other.store.start()
    settings = [one for one in await checks.checkpoints(other) if "other settings" in one.finding]
    assert [one.level for one in settings] == ["error"]


async def test_the_largest_value_is_what_a_worker_writes() -> None:
    small = Settings(seen_window=1_024, n_factors=16)
    assert largest_value(small.seen_window, small.n_factors) > 4_096 * 2 * 16 * 4
