"""What only a cluster can do: share the partitions, move a slot, lose a node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import pytest
import redis

from profiles.errors import StoreAway, StoreMismatch
from profiles.store import ProfileStore, StoreConfig
from profiles.store_keys import Keys
from streams.embedded.store import StoreCluster, StoreServer


class Move:
    """Moves one slot from its node to the next, keys and all."""

    def __init__(self, cluster: StoreCluster, slot: int, source_port: int) -> None:
        ports = [node.port for node in cluster.nodes]
        self._clients = [redis.Redis.from_url(node.url) for node in cluster.nodes]
        self._ids = [_text(client.execute_command("CLUSTER MYID")) for client in self._clients]
        self._slot = slot
        self.source = ports.index(source_port)
        self.target = (self.source + 1) % len(ports)
        self._target_port = ports[self.target]

    def begin(self) -> None:
        """Both nodes know that the slot is moving."""
        source, target = self._clients[self.source], self._clients[self.target]
        target.execute_command("CLUSTER SETSLOT", self._slot, "IMPORTING", self._ids[self.source])
        source.execute_command("CLUSTER SETSLOT", self._slot, "MIGRATING", self._ids[self.target])

    def waiting(self) -> list[bytes | str]:
        """What of the slot is still at the source."""
        source = self._clients[self.source]
        return list(source.execute_command("CLUSTER GETKEYSINSLOT", self._slot, 10_000))

    def carry(self, keys: Sequence[bytes | str]) -> None:
        """Move some keys."""
        source = self._clients[self.source]
        for key in keys:
            source.execute_command("MIGRATE", "127.0.0.1", self._target_port, key, 0, 5000)

    def finish(self) -> None:
        """The rest of the keys, then the slot itself."""
        self.carry(self.waiting())
        for node in (self.target, self.source):
            self._clients[node].execute_command(
                "CLUSTER SETSLOT", self._slot, "NODE", self._ids[self.target]
            )

    def close(self) -> None:
        """Close the clients."""
        for client in self._clients:
            client.close()


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def move_of(cluster: StoreCluster, store: ProfileStore, partition: int) -> Move:
    """The move of a partition's slot away from where it is now."""
    slot = store.keys.slot[partition]
    return Move(cluster, slot, store._topology.address(slot)[1])


async def test_partitions_spread_evenly_over_the_nodes(store_cluster: StoreCluster, generation):
    for n_partitions in (6, 16, 48):
        async with ProfileStore(StoreConfig(store_cluster.url, generation, n_partitions)) as store:
            nodes = Counter(store._topology.address(slot) for slot in store.keys.slot)
        assert len(nodes) == 3
        assert max(nodes.values()) - min(nodes.values()) <= 1


async def test_all_keys_of_a_partition_share_one_slot(store_cluster: StoreCluster):
    keys = Keys("fs", "g1", 6)
    with redis.Redis.from_url(store_cluster.url) as plain:
        for p in range(6):
            names = [keys.checkpoint[p], keys.seen[p], keys.outbox[p], keys.record(p, "a}b{c}")]
            slots = {plain.execute_command("CLUSTER KEYSLOT", name) for name in names}
            assert slots == {keys.slot[p]}


async def test_a_moved_slot_is_followed(store_cluster, connect, owner, batch):
    store, reader = await connect(store_cluster.url), await connect(store_cluster.url)
    claim = (await store.acquire(3, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1", bob=b"B1"))
    move = move_of(store_cluster, store, 3)
    try:
        move.begin()
        move.finish()
        with pytest.raises(StoreAway, match="MOVED"):  # told, and surely not applied
            await store.commit(claim, batch(5, 6, ann=b"A2"))
        await store.commit(claim, batch(5, 6, ann=b"A2"))
        assert await reader.read_many(3, ["ann", "bob"]) == [b"A2", b"B1"]
        assert (await reader.acquire(3, owner())).next_offset == 6
    finally:
        move.close()


async def test_a_slot_on_its_way_is_waited_for(store_cluster, connect, owner, batch):
    """Half of the keys here, half there: nothing is taken for a new user or a lost commit."""
    store = await connect(store_cluster.url)
    claim = (await store.acquire(2, owner())).claim
    users = {f"u{i}": b"%d" % i for i in range(20)}
    await store.commit(claim, batch(0, 5, **users))
    move = move_of(store_cluster, store, 2)
    heard, errors, give_up = asyncio.Event(), [], asyncio.Event()

    def on_away(error: StoreAway) -> None:
        errors.append(error)
        heard.set()

    try:
        move.begin()
        move.carry([store.keys.record(2, f"u{i}") for i in range(10)])
        with pytest.raises(StoreAway):
            await store.read_many(2, list(users))
        with pytest.raises(StoreAway):
            await store.read_many(2, ["u3"])
        committing = asyncio.create_task(
            store.commit_until_known(claim, batch(5, 6, u3=b"new", u15=b"new"), on_away, give_up)
        )
        await heard.wait()
        move.carry([store.keys.checkpoint[2]])
        heard.clear()
        await heard.wait()
        assert not committing.done()
        move.finish()
        await committing
        found = await store.read_many(2, list(users))
        assert found == list((users | {"u3": b"new", "u15": b"new"}).values())
    finally:
        move.close()


async def test_a_cluster_is_recognised_and_a_wrong_setting_named(store_cluster, generation):
    wrong = ProfileStore(StoreConfig(store_cluster.url, generation, 6, cluster=False))
    with pytest.raises(StoreMismatch, match="set cluster to true"):
        await wrong.start()


async def test_a_server_is_no_cluster(standalone: StoreServer, generation):
    wrong = ProfileStore(StoreConfig(standalone.url, generation, 6, cluster=True))
    with pytest.raises(StoreMismatch, match="set cluster to false"):
        await wrong.start()


async def test_any_node_will_do_for_the_start(store_cluster: StoreCluster, generation, owner):
    seeds = f"redis://127.0.0.1:1/0, {store_cluster.nodes[2].url}"
    async with ProfileStore(StoreConfig(seeds, generation, 6)) as store:
        assert (await store.acquire(0, owner())).claim.epoch == 1
