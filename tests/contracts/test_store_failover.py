"""A cluster whose master freezes: its port accepts, it answers nothing, its replica takes over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from profiles.errors import Fenced, OutcomeUnknown, StoreAway, StoreWentBack
from profiles.store import ProfileStore, StoreConfig
from profiles.store_topology import NEXT_NODE_S
from streams.embedded.store import StoreCluster, StoreServer, ask

PARTITION = 0  # of the first master
TIMEOUT_S = 0.5
LONG_S = 30.0


@dataclass
class Failover:
    """A cluster of three masters, the first with a replica."""

    cluster: StoreCluster
    replica: StoreServer

    @property
    def master(self) -> StoreServer:
        """The node that owns the slots of `PARTITION` at first."""
        return self.cluster.nodes[0]

    @property
    def nodes(self) -> list[StoreServer]:
        """All four."""
        return [*self.cluster.nodes, self.replica]

    def cut_replication(self) -> None:
        """The master goes on alone: what it acknowledges from now on, the replica never gets."""
        with redis.Redis.from_url(self.master.url) as plain:
            plain.execute_command("ACL SETUSER", "default", "-psync", "-sync")
            plain.execute_command("CLIENT KILL", "TYPE", "replica")

    def take_over(self) -> None:
        """The replica becomes the master without asking anybody."""
        assert ask(self.replica.port, "CLUSTER", "FAILOVER", "TAKEOVER") == "OK"
        _wait_until(lambda: _role(self.replica) == "master")
        for node in (*self.cluster.nodes[1:], self.replica):
            _wait_until(lambda node=node: _shard(node)[0] == self.replica.port)

    def n_questions(self) -> int:
        """How often the nodes that answer were asked for the map of slots."""
        n = 0
        for node in self.nodes:
            if node is not self.master:
                with redis.Redis.from_url(node.url) as plain:
                    said = plain.info("commandstats").get("cmdstat_cluster|slots")
                n += 0 if said is None else said["calls"]
        return n


def _role(node: StoreServer) -> str:
    with redis.Redis.from_url(node.url) as plain:
        return str(plain.info("replication")["role"])


def _shard(node: StoreServer) -> list[int]:
    """Ports of the first shard as a node tells them, the master's first."""
    with redis.Redis.from_url(node.url) as plain:
        ranges = plain.execute_command("CLUSTER SLOTS")
    return next([port for _, port, *_ in who] for first, _, *who in ranges if first == 0)


def _wait_until(true) -> None:
    give_up = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def _has_replica(node: StoreServer) -> bool:
    with redis.Redis.from_url(node.url) as plain:
        said = plain.info("replication")
    return said["connected_slaves"] == 1 and said["slave0"]["state"] == "online"


@pytest.fixture
def failover(tmp_path: Path) -> Iterator[Failover]:
    """A cluster of the test's own, replication running; frozen nodes go on at the end."""
    cluster = StoreCluster(tmp_path / "cluster", 3)
    replica = StoreServer(tmp_path / "replica", ephemeral=True, cluster=True)
    try:
        cluster.start()
        replica.start()
        for node in (cluster.nodes[0], replica):  # else it waits for more replicas to come
            assert ask(node.port, "CONFIG", "SET", "repl-diskless-sync-delay", "0") == "OK"
        assert ask(cluster.nodes[0].port, "CLUSTER", "MEET", "127.0.0.1", str(replica.port))
        for node in (*cluster.nodes, replica):
            _wait_until(lambda n=node: "known_nodes:4\r" in (ask(n.port, "CLUSTER", "INFO") or ""))
        master_id = ask(cluster.nodes[0].port, "CLUSTER", "MYID")
        assert ask(replica.port, "CLUSTER", "REPLICATE", str(master_id)) == "OK"
        # No vote: the tests say when.
        assert ask(replica.port, "CONFIG", "SET", "cluster-replica-no-failover", "yes") == "OK"
        _wait_until(lambda: _has_replica(cluster.nodes[0]))
        _wait_until(lambda: replica.port in _shard(cluster.nodes[1]))
        yield Failover(cluster, replica)
    finally:
        for node in (*cluster.nodes, replica):
            if node.alive():
                node.process.resume()
        replica.stop()
        cluster.stop()


class Waiting:
    """Listens to `commit_until_known`."""

    def __init__(self) -> None:
        self.errors: list[StoreAway] = []
        self.heard = asyncio.Event()
        self.give_up = asyncio.Event()

    def on_away(self, error: StoreAway) -> None:
        self.errors.append(error)
        self.heard.set()


async def test_a_commit_goes_on_at_the_successor_of_a_frozen_master(
    failover: Failover, connect, owner, batch
):
    store = await connect(failover.cluster.url, timeout_s=TIMEOUT_S)
    claim = (await store.acquire(PARTITION, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    assert await store.read_many(PARTITION, ["ann"]) == [b"A1"]
    with redis.Redis.from_url(failover.master.url) as plain:
        assert plain.wait(1, 5000) == 1  # the replica has it all
    failover.master.process.pause()
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(5, 6, ann=b"A2"), waiting.on_away, waiting.give_up)
    )
    await waiting.heard.wait()
    with pytest.raises(StoreAway):
        await store.read_many(PARTITION, ["ann"])
    assert not committing.done()
    await asyncio.to_thread(failover.take_over)
    async with asyncio.timeout(LONG_S):
        await committing
    assert isinstance(waiting.errors[0], OutcomeUnknown)
    assert await store.read_many(PARTITION, ["ann"]) == [b"A2"]
    assert [record async for record in store.iter_records()] == [("ann", b"A2")]

    # The frozen one goes on: it still holds the first EXEC in its buffer, and believes.
    failover.master.process.resume()
    await asyncio.to_thread(_wait_until, lambda: _role(failover.master) == "slave")
    with (
        redis.Redis(port=failover.master.port) as plain,
        pytest.raises(redis.exceptions.MovedError),
    ):
        plain.execute_command("SET", store.keys.record(PARTITION, "ann"), "zombie")
    await store.commit(claim, batch(6, 7, bob=b"B1"))
    assert await store.read_many(PARTITION, ["ann", "bob"]) == [b"A2", b"B1"]


async def test_what_a_frozen_master_kept_to_itself_is_seen_as_gone_back(
    failover: Failover, connect, owner, batch
):
    store = await connect(failover.cluster.url, timeout_s=TIMEOUT_S)
    zombie = await connect(failover.cluster.url, timeout_s=TIMEOUT_S)
    claim = (await store.acquire(PARTITION, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    with redis.Redis.from_url(failover.master.url) as plain:
        assert plain.wait(1, 5000) == 1
    await asyncio.to_thread(failover.cut_replication)
    await store.commit(claim, batch(5, 6, ann=b"A2"))  # acknowledged, and lost
    assert await zombie.read_many(PARTITION, ["ann"]) == [b"A2"]
    failover.master.process.pause()
    await asyncio.to_thread(failover.take_over)
    waiting = Waiting()
    with pytest.raises(StoreWentBack, match=r"next offset 5 in the store.*next offset 6 here"):
        await store.commit_until_known(
            claim, batch(6, 7, ann=b"A3"), waiting.on_away, waiting.give_up
        )
    acquired = await store.acquire(PARTITION, owner())
    assert acquired.next_offset == 5
    assert await store.read_many(PARTITION, ["ann"]) == [b"A1"]
    await store.commit(acquired.claim, batch(5, 7, ann=b"A3"))

    # A worker that never heard of it goes on with the old claim. For a moment the old master may
    # still believe it is one; what it takes then is gone with what it kept to itself.
    failover.master.process.resume()
    with contextlib.suppress(Fenced, StoreAway):
        await zombie.commit(claim, batch(6, 7, ann=b"zombie"))
    await asyncio.to_thread(_wait_until, lambda: _role(failover.master) == "slave")
    waiting = Waiting()
    with pytest.raises(Fenced):
        await zombie.commit_until_known(
            claim, batch(7, 8, ann=b"zombie"), waiting.on_away, waiting.give_up
        )
    assert await zombie.read_many(PARTITION, ["ann"]) == [b"A3"]
    await store.commit(acquired.claim, batch(7, 8))


async def test_many_callers_at_a_frozen_master_ask_for_the_map_together(
    failover: Failover, connect, owner, batch
):
    store = await connect(failover.cluster.url, timeout_s=TIMEOUT_S)
    claim = (await store.acquire(PARTITION, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    failover.master.process.pause()
    before = await asyncio.to_thread(failover.n_questions)
    n_rounds = 3
    for _ in range(n_rounds):
        found = await asyncio.gather(
            *(store.read_many(PARTITION, ["ann"]) for _ in range(store._pool.MAX_OPEN)),
            return_exceptions=True,
        )
        assert {type(error) for error in found} == {StoreAway}
    asked = await asyncio.to_thread(failover.n_questions) - before
    assert 1 <= asked <= n_rounds
    # Partitions of the other masters don't wait for the frozen one.
    began = time.monotonic()
    assert await store.read_many(5, ["nobody"]) == [None]
    assert time.monotonic() - began < TIMEOUT_S


async def test_a_frozen_node_does_not_keep_a_worker_from_starting(failover: Failover, generation):
    failover.master.process.pause()
    seeds = ",".join(node.url for node in failover.cluster.nodes)
    began = time.monotonic()
    async with ProfileStore(StoreConfig(seeds, generation, 6, timeout_s=LONG_S)) as store:
        assert await store.read_many(5, ["nobody"]) == [None]
    assert time.monotonic() - began < 10 * NEXT_NODE_S


async def test_giving_up_a_silent_cluster_takes_two_time_outs_at_most(
    failover: Failover, connect, owner, batch
):
    store = await connect(failover.cluster.url, timeout_s=TIMEOUT_S)
    claim = (await store.acquire(PARTITION, owner())).claim
    for node in failover.nodes:
        node.process.pause()
    waiting = Waiting()
    committing = asyncio.create_task(
        store.commit_until_known(claim, batch(0, 5), waiting.on_away, waiting.give_up)
    )
    for _ in range(2):  # the second time the next attempt may already be under way
        await waiting.heard.wait()
        waiting.heard.clear()
    began = time.monotonic()
    waiting.give_up.set()
    with pytest.raises(StoreAway):
        await committing
    assert time.monotonic() - began < 2 * TIMEOUT_S + len(failover.nodes) * NEXT_NODE_S + 0.5
