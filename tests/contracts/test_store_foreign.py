"""Keys that something else wrote: nothing is applied by halves, and the checkpoint tells the truth.

The store goes on behind a command that fails inside MULTI: docs/decisions/0022-no-half-commit.md.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis
from redis.cluster import RedisCluster

from profiles.errors import RecordCorrupt
from profiles.store import Outcome, ProfileStore
from streams.embedded.store import StoreServer


def open_plain(url: str, store: ProfileStore) -> redis.Redis | RedisCluster:
    """A client that is not ours."""
    return RedisCluster.from_url(url) if store._topology.cluster else redis.Redis.from_url(url)


async def test_a_foreign_ring_refuses_the_whole_commit(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    seen = store.keys.seen[0]
    plain = open_plain(url, store)
    kept = plain.get(seen)
    plain.delete(seen)
    plain.sadd(seen, "foreign")
    for _ in range(2):
        with pytest.raises(RecordCorrupt, match=r"\}:seen.*WRONGTYPE.*remove the key"):
            await store.commit(claim, batch(5, 6, ann=b"A2"))
    checkpoint = await store.read_checkpoint(0)
    assert checkpoint is not None
    assert checkpoint.next_offset == 5
    assert await store.read_many(0, ["ann"]) == [b"A1"]
    assert plain.smembers(seen) == {b"foreign"}
    plain.delete(seen)
    plain.set(seen, kept)
    await store.commit(claim, batch(5, 6, ann=b"A2"))
    assert (await store.acquire(0, owner())).next_offset == 6
    plain.close()


async def test_a_ring_that_turns_foreign_in_front_of_exec_refuses_the_whole_commit(
    url, connect, owner, batch
):
    async def intrude(step: str) -> None:
        if step == "sending" and armed:
            armed.clear()
            plain.delete(seen)
            plain.hset(seen, "a", "foreign")

    armed: list[bool] = []
    store = await connect(url, step=intrude)
    seen = store.keys.seen[0]
    plain = open_plain(url, store)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    armed.append(True)
    with pytest.raises(RecordCorrupt, match="WRONGTYPE"):
        await store.commit(claim, batch(5, 6, ann=b"A2"))
    assert await store.read_many(0, ["ann"]) == [b"A1"]
    plain.delete(seen)
    assert await store.outcome(claim, 5, 6) is Outcome.NOT_APPLIED
    plain.close()


@pytest.mark.parametrize("part", ["checkpoint", "seen", "outbox"])
async def test_an_acquire_that_meets_a_foreign_key_fences_nobody(url, connect, owner, batch, part):
    store = await connect(url)
    plain = open_plain(url, store)
    key = getattr(store.keys, part)[0]
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    kept = plain.dump(key)
    plain.delete(key)
    plain.lpush(key, "foreign")
    with pytest.raises(RecordCorrupt, match=key.decode()):
        await (await connect(url)).acquire(0, owner())
    plain.restore(key, 0, kept, replace=True)
    await store.commit(claim, batch(5, 6, ann=b"A2"))
    plain.close()


async def test_a_foreign_record_or_outbox_is_replaced_whole(url, connect, owner, batch):
    """MGET calls a foreign record a user never seen; MSET and SET replace any type."""
    store = await connect(url)
    plain = open_plain(url, store)
    claim = (await store.acquire(0, owner())).claim
    plain.sadd(store.keys.record(0, "ann"), "foreign")
    plain.sadd(store.keys.outbox[0], "foreign")
    assert await store.read_many(0, ["ann"]) == [None]
    assert await store.read_across([(0, "ann"), (1, "ann")]) == [None, None]
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    assert await store.read_many(0, ["ann"]) == [b"A1"]
    assert (await store.acquire(0, owner())).outbox == [b"changed up to 5"]
    plain.close()


async def test_a_commit_that_the_store_applied_in_part_is_marked_for_ever(
    own_server: StoreServer, connect, owner, batch
):
    """What no look beforehand finds: the ring is longer than the store allows a value to be."""
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    far = replace(batch(5, 6, ann=b"A2"), seen=[(1 << 20, b"x" * 8)])
    with redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("proto-max-bulk-len", 1 << 20)
        with pytest.raises(RecordCorrupt, match=r"torn: commit of \[5, 6\).*maximum allowed size"):
            await store.commit(claim, far)
        # It would be "applied" by its position alone.
        with pytest.raises(RecordCorrupt, match="torn"):
            await store.commit(claim, far)
        with pytest.raises(RecordCorrupt, match="torn"):
            await store.outcome(claim, 5, 6)
        successor = await connect(own_server.url)
        with pytest.raises(RecordCorrupt, match=r"torn.*new generation.*remove the cause"):
            await successor.acquire(0, owner())
        plain.config_set("proto-max-bulk-len", 1 << 29)
        plain.hdel(store.keys.checkpoint[0], "torn")  # somebody decided to live with it
    acquired = await successor.acquire(0, owner())
    assert acquired.next_offset == 6
    await successor.commit(acquired.claim, batch(6, 7, ann=b"A3"))
