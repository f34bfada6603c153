"""Snapshots of the item table: whole, fenced, and readable while they are replaced."""

from __future__ import annotations

import asyncio

import pytest
import redis

from profiles import store_items
from profiles.errors import Fenced, OutcomeUnknown, SnapshotBroken, StoreFull, StoreWentBack
from profiles.store import ProfileStore
from profiles.store_keys import key_slot
from profiles.store_link import pack


@pytest.fixture
def keep_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced goes at once, as it else does a minute later."""
    monkeypatch.setattr(store_items, "KEEP_S", 0.0)


async def all_keys(store: ProfileStore) -> set[bytes]:
    """Every key of the item table in the store."""
    pattern = store.keys.chunk(0, "").replace(b"items:0:", b"items:*")
    found = set()
    for node in store._topology.masters:
        async for keys in store._survey._scan(node, pattern):
            found |= set(keys)
    return found


async def test_a_snapshot_is_read_back(url, connect, owner):
    store, reader = await connect(url), await connect(url)
    assert await reader.read_item_snapshot() is None
    claim = (await store.acquire(0, owner())).claim
    chunks = {0: b"zero" * 1000, 1: b"", 2: b"\0two"}
    version = await store.write_item_snapshot(claim, b"head\0er", chunks, {0: 17, 5: 4})
    found = await reader.read_item_snapshot()
    assert found is not None
    assert (found.header, found.chunks, found.next_offsets) == (b"head\0er", chunks, {0: 17, 5: 4})
    assert found.version == version == await reader.item_snapshot_version()


@pytest.mark.usefixtures("keep_none")
async def test_changed_chunks_join_the_unchanged_ones(url, connect, owner):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.write_item_snapshot(claim, b"h1", {0: b"a1", 1: b"b1"}, {0: 1})
    await store.write_item_snapshot(claim, b"h2", {1: b"b2", 2: b"c2"}, {0: 2})
    await store.write_item_snapshot(claim, b"h3", {}, {0: 3})
    found = await store.read_item_snapshot()
    assert found is not None
    assert (found.header, found.next_offsets) == (b"h3", {0: 3})
    assert found.chunks == {0: b"a1", 1: b"b2", 2: b"c2"}
    assert len(await all_keys(store)) == 3  # replaced chunks are gone


@pytest.mark.usefixtures("keep_none")
async def test_a_smaller_table_replaces_a_larger_one(url, connect, owner):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.write_item_snapshot(claim, b"h1", {0: b"a", 1: b"b", 2: b"c"}, {})
    await store.write_item_snapshot(claim, b"h2", {0: b"d"}, {}, n_chunks=1)
    found = await store.read_item_snapshot()
    assert found is not None
    assert found.chunks == {0: b"d"}
    assert len(await all_keys(store)) == 1


async def test_the_next_owner_goes_on_from_what_it_read(url, connect, owner):
    first, second = await connect(url), await connect(url)
    claim = (await first.acquire(0, owner())).claim
    await first.write_item_snapshot(claim, b"h1", {0: b"a1", 1: b"b1"}, {})
    successor = (await second.acquire(0, owner())).claim
    with pytest.raises(StoreWentBack, match="reload the item table"):
        await second.write_item_snapshot(successor, b"h2", {1: b"b2"}, {})
    await second.read_item_snapshot()
    await second.write_item_snapshot(successor, b"h2", {1: b"b2"}, {})
    with pytest.raises((Fenced, StoreWentBack)):
        await first.write_item_snapshot(claim, b"zombie", {0: b"z"}, {})
    with pytest.raises(Fenced):
        await first.write_item_snapshot(claim, b"zombie", {0: b"z", 1: b"z"}, {})
    found = await second.read_item_snapshot()
    assert found is not None
    assert (found.header, found.chunks) == (b"h2", {0: b"a1", 1: b"b2"})


@pytest.mark.usefixtures("keep_none")
async def test_a_writer_fenced_before_the_switch_changes_nothing(url, connect, owner):
    async def intrude(step: str) -> None:
        nonlocal n_sent
        n_sent += step == "sending"
        if step == "sending" and n_sent == 5:  # acquire, two for h1, pending of h2, its switch
            await successor.acquire(0, owner())

    n_sent = 0
    successor = await connect(url)
    store = await connect(url, step=intrude)
    claim = (await store.acquire(0, owner())).claim
    await store.write_item_snapshot(claim, b"h1", {0: b"a1"}, {})
    with pytest.raises(Fenced):
        await store.write_item_snapshot(claim, b"h2", {0: b"a2"}, {})
    found = await successor.read_item_snapshot()
    assert found is not None
    assert (found.header, found.chunks) == (b"h1", {0: b"a1"})
    assert len(await all_keys(successor)) == 2  # what the zombie left
    again = (await successor.acquire(0, owner())).claim
    await successor.write_item_snapshot(again, b"h3", {0: b"a3"}, {})
    assert len(await all_keys(successor)) == 1  # is removed with the next snapshot


async def test_a_snapshot_neither_blocks_nor_disturbs_commits(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5))
    await store.write_item_snapshot(claim, b"h1", {0: b"a1"}, {})
    await store.commit(claim, batch(5, 6))
    checkpoint = await store.read_checkpoint(0)
    assert checkpoint is not None
    assert checkpoint.next_offset == 6


async def test_a_reader_beside_a_writer_sees_whole_snapshots(url, connect, owner):
    store, reader = await connect(url), await connect(url)
    claim = (await store.acquire(0, owner())).claim

    async def write() -> None:
        for n in range(40):
            content = b"%d" % n
            await store.write_item_snapshot(claim, content, dict.fromkeys(range(3), content), {})

    await store.write_item_snapshot(claim, b"0", dict.fromkeys(range(3), b"0"), {})
    writing = asyncio.create_task(write())
    last = -1
    while not writing.done():
        found = await reader.read_item_snapshot()
        assert found is not None
        assert set(found.chunks.values()) == {found.header}
        assert int(found.header) >= last
        last = int(found.header)
    await writing


async def test_a_lost_chunk_is_named(url, connect, owner):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    version = await store.write_item_snapshot(claim, b"h", {0: b"a", 1: b"b"}, {})
    key = store.keys.chunk(1, version)
    for command, state in (
        (pack("SET", key, b"other"), "altered"),
        (pack("DEL", key), "missing"),
    ):
        await store._pool.ask_slot(key_slot(key), [command], 1, "test")
        with pytest.raises(SnapshotBroken, match=rf"chunk 1 \(fs:.*\) is {state}; delete fs:"):
            await store.read_item_snapshot()


async def test_a_snapshot_that_lost_a_chunk_gives_way_to_the_one_before(url, connect, owner):
    store, reader = await connect(url), await connect(url)
    claim = (await store.acquire(0, owner())).claim
    first = await store.write_item_snapshot(claim, b"h1", {0: b"a1", 1: b"b1"}, {0: 1})
    second = await store.write_item_snapshot(claim, b"h2", {1: b"b2"}, {0: 2})
    third = await store.write_item_snapshot(claim, b"h3", {0: b"a3"}, {0: 3})
    for key, version, content in (
        (store.keys.chunk(0, third), second, (b"h2", {0: b"a1", 1: b"b2"}, {0: 2})),
        (store.keys.chunk(1, second), first, (b"h1", {0: b"a1", 1: b"b1"}, {0: 1})),
    ):
        await store._pool.ask_slot(key_slot(key), [pack("DEL", key)], 1, "test")
        found = await reader.read_item_snapshot()
        assert found is not None
        assert (found.header, found.chunks, found.next_offsets) == content
        assert found.version == version
        assert "is missing" in found.older_because
    successor = (await reader.acquire(0, owner())).claim
    with pytest.raises(StoreWentBack):  # what changed since the older one alone would not do
        await reader.write_item_snapshot(successor, b"h4", {0: b"a4"}, {0: 4})
    await reader.write_item_snapshot(successor, b"h4", {0: b"a4", 1: b"b4"}, {0: 4})
    found = await reader.read_item_snapshot()
    assert found is not None
    assert (found.chunks, found.older_because) == ({0: b"a4", 1: b"b4"}, "")


async def test_replaced_snapshots_are_kept_for_a_while_and_not_for_ever(
    url, connect, owner, monkeypatch
):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    for n in range(store_items.MOST_KEPT + 4):
        await store.write_item_snapshot(claim, b"h", {0: b"%d" % n}, {})
    assert len(await all_keys(store)) == store_items.MOST_KEPT + 1
    monkeypatch.setattr(store_items, "KEEP_S", 0.0)
    await store.write_item_snapshot(claim, b"h", {0: b"last"}, {})
    assert len(await all_keys(store)) == 1
    (fields,) = await store._pool.ask_slot(
        store.keys.slot[0], [pack("HKEYS", store.keys.manifest)], 1, "test"
    )
    assert not [name for name in fields if name.startswith(b"kept:")]


async def test_a_gap_between_chunks_is_refused(url, connect, owner):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.write_item_snapshot(claim, b"h", {0: b"a"}, {})
    with pytest.raises(SnapshotBroken, match="chunk 1 of 3 was never written"):
        await store.write_item_snapshot(claim, b"h", {2: b"c"}, {})


async def test_the_table_belongs_to_partition_zero(url, connect, owner):
    store = await connect(url)
    claim = (await store.acquire(1, owner())).claim
    with pytest.raises(ValueError, match="belongs to partition 0"):
        await store.write_item_snapshot(claim, b"h", {0: b"a"}, {})


@pytest.mark.usefixtures("keep_none")
async def test_a_switch_whose_answer_is_lost_can_be_repeated(standalone, connect, owner, proxy_to):
    async with proxy_to(standalone.port) as proxy:

        async def cut(step: str) -> None:
            nonlocal n_sent
            n_sent += step == "sending"
            if step == "sending" and n_sent == 5:
                proxy.cut = "answer"

        n_sent = 0
        store = await connect(proxy.url, step=cut)
        claim = (await store.acquire(0, owner())).claim
        await store.write_item_snapshot(claim, b"h1", {0: b"a1", 1: b"b1"}, {})
        with pytest.raises(OutcomeUnknown):
            await store.write_item_snapshot(claim, b"h2", {1: b"b2"}, {})
        await store.write_item_snapshot(claim, b"h2", {1: b"b2"}, {})
        found = await store.read_item_snapshot()
        assert found is not None
        assert found.chunks == {0: b"a1", 1: b"b2"}
        assert len(await all_keys(store)) == 2
        await store.close()


async def test_a_full_store_keeps_the_old_snapshot(own_server, connect, owner):
    store = await connect(own_server.url)
    claim = (await store.acquire(0, owner())).claim
    await store.write_item_snapshot(claim, b"h1", {0: b"a1"}, {})
    with redis.Redis.from_url(own_server.url) as plain:
        plain.config_set("maxmemory", plain.info("memory")["used_memory"] // 2)
        with pytest.raises(StoreFull):
            await store.write_item_snapshot(claim, b"h2", {0: b"a2"}, {})
        plain.config_set("maxmemory", 0)
    found = await store.read_item_snapshot()
    assert found is not None
    assert found.header == b"h1"
    await store.write_item_snapshot(claim, b"h2", {0: b"a2"}, {})
