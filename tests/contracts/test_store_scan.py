"""Scans, digests, meta and server facts over all nodes."""

from __future__ import annotations

from dataclasses import replace

from profiles.digest import facts_digest
from profiles.store import ProfileStore, StoreConfig


async def fill(store: ProfileStore, owner, batch, n_users: int) -> dict[str, bytes]:
    """Commit users to every partition; returns all records."""
    everything = {}
    for partition in range(6):
        claim = (await store.acquire(partition, owner())).claim
        users = {f"{{u}}{partition}:{i}": b"%d" % i for i in range(n_users)}
        await store.commit(claim, replace(batch(0, 5), records=list(users.items())))
        everything |= users
    return everything


async def test_a_scan_gives_every_profile_once(url, connect, owner, batch):
    store = await connect(url)
    everything = await fill(store, owner, batch, 700)
    found = [pair async for pair in store.iter_records()]
    assert len(found) == len(everything)
    assert dict(found) == everything
    part = [pair async for pair in store.iter_records(3)]
    assert dict(part) == {u: r for u, r in everything.items() if u.startswith("{u}3:")}


async def test_a_digest_does_not_depend_on_order_or_layout(url, connect, owner, batch):
    store = await connect(url)
    everything = await fill(store, owner, batch, 20)
    scanned = await facts_digest(store.iter_records(), lambda record: record)

    async def sorted_records():
        for pair in sorted(everything.items()):
            yield pair

    assert scanned == await facts_digest(sorted_records(), lambda record: record)
    assert scanned.n_profiles == 120


async def test_a_generation_is_dropped_and_no_other(url, connect, owner, batch, generation):
    kept, dropped = await connect(url), ProfileStore(StoreConfig(url, f"{generation}-x", 6))
    async with dropped:
        await fill(dropped, owner, batch, 300)
        claim = (await dropped.acquire(0, owner())).claim
        await dropped.write_item_snapshot(claim, b"h", {0: b"a", 1: b"b"}, {})
    everything = await fill(kept, owner, batch, 3)
    # 300 users, checkpoint, ring and outbox of 6 partitions; manifest and two chunks
    assert await kept.drop_generation(f"{generation}-x") == 6 * 303 + 3
    assert dict([pair async for pair in kept.iter_records()]) == everything
    assert await kept.drop_generation(f"{generation}-x") == 0


async def test_every_node_states_its_facts(url, connect):
    store = await connect(url)
    facts = await store.server_facts()
    assert len(facts) == len(store._topology.masters)
    for node in facts:
        assert node.software in ("valkey", "redis")
        assert int(node.version.split(".")[0]) >= 6
        assert (node.role, node.eviction_policy, node.aof) == ("master", "noeviction", False)
        assert node.used_memory > 0
        assert node.max_memory == 0
        assert node.cluster == (len(facts) > 1)
        assert ":" in node.address
