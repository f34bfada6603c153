"""Acquire, read and commit, on a standalone server and on a cluster of three."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
import redis

from profiles.errors import Fenced, StoreMismatch, StoreWentBack
from profiles.store import Claim, CommitBatch, LogPosition, Outcome, ProfileStore
from streams.embedded.store import StoreServer


async def test_a_fresh_partition_starts_at_offset_zero(url, connect, owner):
    store = await connect(url)
    me = owner()
    acquired = await store.acquire(2, me)
    assert acquired.claim == Claim(2, 1, me)
    assert acquired.checkpoint is None
    assert (acquired.next_offset, acquired.seen, acquired.outbox) == (0, b"", [])


async def test_a_commit_is_found_whole_by_the_next_owner(url, connect, owner, batch):
    first, second = await connect(url), await connect(url)
    claim = (await first.acquire(1, owner())).claim
    await first.commit(claim, batch(0, 7, ann=b"A1", bob=b"B1"))
    await first.commit(claim, batch(7, 9, ann=b"A2"))
    assert await second.read_many(1, ["bob", "nobody", "ann", "bob"]) == [b"B1", None, b"A2", b"B1"]

    me = owner()
    acquired = await second.acquire(1, me)
    checkpoint = acquired.checkpoint
    assert checkpoint is not None
    assert (checkpoint.next_offset, checkpoint.epoch, checkpoint.owner) == (9, 2, me)
    assert (checkpoint.watermark_ms, checkpoint.fingerprint) == (9000, "k=64")
    assert checkpoint.log == LogPosition("cluster-1", "foldstream.events", 6, 8, 9000, 77)
    assert acquired.outbox == [b"changed up to 9"]
    assert acquired.seen[:8] == (7).to_bytes(8, "little")
    assert acquired.seen[56:64] == (9).to_bytes(8, "little")
    assert await second.read_checkpoint(1) == checkpoint


async def test_a_batch_without_records_moves_the_position(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, replace(batch(0, 13), seen=[], outbox=[]))
    checkpoint = await store.read_checkpoint(0)
    assert checkpoint is not None
    assert checkpoint.next_offset == 13


async def test_an_empty_range_is_refused(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    with pytest.raises(ValueError, match="is empty"):
        await store.commit(claim, batch(0, 0))


async def test_a_zombie_is_fenced(url, connect, owner, batch):
    zombie, successor = await connect(url), await connect(url)
    old = (await zombie.acquire(3, owner())).claim
    await zombie.commit(old, batch(0, 5, ann=b"old"))
    new = (await successor.acquire(3, owner())).claim
    with pytest.raises(Fenced, match=r"partition 3.*another worker"):
        await zombie.commit(old, batch(5, 6, ann=b"zombie"))
    with pytest.raises(Fenced):  # again, now without an armed WATCH
        await zombie.commit(old, batch(5, 6, ann=b"zombie"))
    await successor.commit(new, batch(5, 8, ann=b"new"))
    assert await successor.read_many(3, ["ann"]) == [b"new"]
    assert await zombie.outcome(old, 5, 6) is Outcome.FENCED


async def test_an_acquire_between_watch_and_exec_fences(url, connect, owner, batch):
    successor: ProfileStore = await connect(url)

    async def intrude(step: str) -> None:
        if step == "sending" and armed:
            armed.clear()
            await successor.acquire(4, owner())

    armed: list[bool] = []
    zombie = await connect(url, step=intrude)
    claim = (await zombie.acquire(4, owner())).claim
    armed.append(True)
    with pytest.raises(Fenced):
        await zombie.commit(claim, batch(0, 5, ann=b"zombie"))
    assert await successor.read_many(4, ["ann"]) == [None]
    checkpoint = await successor.read_checkpoint(4)
    assert checkpoint is not None
    assert checkpoint.next_offset == 0


async def test_the_same_epoch_with_another_owner_is_not_mine(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    with pytest.raises(Fenced):
        await store.commit(replace(claim, owner=owner()), batch(0, 5, ann=b"x"))


async def test_a_repeated_commit_is_applied_once(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5, ann=b"A1"))
    assert await store.outcome(claim, 0, 5) is Outcome.APPLIED
    assert await store.outcome(claim, 5, 6) is Outcome.NOT_APPLIED
    await store.commit(claim, batch(0, 5, ann=b"not written: the store has this batch"))
    assert await store.read_many(0, ["ann"]) == [b"A1"]


async def test_a_store_behind_the_batch_went_back(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5))
    with pytest.raises(StoreWentBack, match=r"next offset 5 in the store.*next offset 8 here"):
        await store.commit(claim, batch(8, 9))
    assert await store.outcome(claim, 8, 9) is Outcome.WENT_BACK


async def test_overlapping_commits_of_one_claim_are_a_hard_stop(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5))
    with pytest.raises(StoreMismatch, match="never wrote"):
        await store.commit(claim, batch(2, 4))


async def test_other_settings_are_refused_and_fence_nobody(url, connect, owner, batch):
    right = await connect(url)
    claim = (await right.acquire(0, owner())).claim
    wrong = await connect(url, fingerprint="k=32")
    with pytest.raises(StoreMismatch, match=r"'k=64' in fs:.*new generation"):
        await wrong.acquire(0, owner())
    await right.commit(claim, batch(0, 5))


async def test_the_first_log_named_is_kept(url, connect, owner):
    store = await connect(url)
    log = LogPosition("cluster-1", "events", 6)
    first = await store.acquire(0, owner(), log)
    assert first.checkpoint is not None
    assert first.checkpoint.log == log
    again = await store.acquire(0, owner(), LogPosition("cluster-2", "events", 6))
    assert again.checkpoint is not None
    assert again.checkpoint.log == log


IDS = [
    "{p-0}",
    "a}b{c",
    "{}",
    "with space",
    "\r\n*1",
    "喵🐈",
    "*",
    "x" * 256,
    "nul\0nul",
    "u:1",
    ":",
]


async def test_any_user_id_is_kept(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(5, owner())).claim
    records = {user: f"<{user}>".encode() for user in IDS}
    await store.commit(claim, batch(0, 5, **records))
    assert await store.read_many(5, IDS) == list(records.values())
    assert dict([pair async for pair in store.iter_records(5)]) == records


async def test_a_large_record_and_a_large_batch_pass(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(5, owner())).claim
    large = bytes(range(256)) * 4096
    await store.commit(claim, batch(0, 5, big=large))
    many = [(f"u{i}", i.to_bytes(600, "little")) for i in range(5000)]
    await store.commit(claim, replace(batch(5, 5005), records=many))
    assert await store.read_many(5, ["big"]) == [large]
    assert await store.read_many(5, [user for user, _ in many]) == [data for _, data in many]


async def test_a_ring_written_in_two_pieces_is_read_back(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(5, owner())).claim
    ring = bytes(2_097_152 - 16) + b"a" * 16
    await store.commit(claim, replace(batch(0, 5), seen=[(len(ring) - 16, b"a" * 16)]))
    assert (await store.acquire(5, owner())).seen == ring
    claim = (await store.acquire(5, owner())).claim
    await store.commit(claim, replace(batch(5, 9), seen=[(len(ring) - 8, b"b" * 8), (0, b"c" * 8)]))
    assert (await store.acquire(5, owner())).seen == b"c" * 8 + ring[8:-8] + b"b" * 8


async def test_partitions_commit_side_by_side(url, connect, owner, batch):
    store = await connect(url)
    claims = [(await store.acquire(p, owner())).claim for p in range(6)]

    async def run(claim: Claim) -> None:
        for at in range(30):
            await store.commit(
                claim, batch(at, at + 1, **{f"u{at}": f"{claim.partition}".encode()})
            )
            found = await store.read_many(claim.partition, [f"u{at}", f"u{at + 1}"])
            assert found == [f"{claim.partition}".encode(), None]

    await asyncio.gather(*map(run, claims))


async def test_a_released_partition_can_be_acquired_again(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(0, owner())).claim
    await store.commit(claim, batch(0, 5))
    await store.release(0)
    acquired = await store.acquire(0, owner())
    assert (acquired.claim.epoch, acquired.next_offset) == (2, 5)
    await store.commit(acquired.claim, batch(5, 6))


async def test_nothing_asked_is_nothing_read(url, connect):
    assert await (await connect(url)).read_many(0, []) == []


async def test_profiles_of_many_partitions_are_read_at_once(url, connect, owner, batch):
    """In the order asked for, repeats and strangers included, however partitions mix."""
    store = await connect(url)
    for p in range(6):
        claim = (await store.acquire(p, owner())).claim
        await store.commit(claim, batch(0, 5, **{f"u{i}": b"%d-%d" % (p, i) for i in range(4)}))
    wanted = [(p, f"u{i}") for i in range(5) for p in (5, 0, 3, 0, 1)]  # u4 has no profile
    expected = [b"%d-%d" % (p, i) if i < 4 else None for i in range(5) for p in (5, 0, 3, 0, 1)]
    assert await store.read_across(wanted) == expected
    assert await store.read_across([(2, "nobody"), (2, "nobody")]) == [None, None]
    assert await store.read_across([]) == []


async def test_a_server_is_asked_once_for_all_partitions(standalone: StoreServer, connect):
    store = await connect(standalone.url)
    with redis.Redis.from_url(standalone.url) as plain:
        before = plain.info("commandstats").get("cmdstat_mget", {"calls": 0})["calls"]
        await store.read_across([(i % 6, f"u{i}") for i in range(600)])
        assert plain.info("commandstats")["cmdstat_mget"]["calls"] == before + 1


async def test_more_keys_than_one_command_takes_are_read_in_their_order(
    url, connect, owner, batch, monkeypatch
):
    store = await connect(url)
    claim = (await store.acquire(1, owner())).claim
    users = {f"u{i}": b"%d" % i for i in range(20)}
    await store.commit(claim, batch(0, 5, **users))
    monkeypatch.setattr("profiles.store.MGET_KEYS", 3)
    assert await store.read_many(1, [*users, "nobody"]) == [*users.values(), None]
    wanted = [(p, user) for user in users for p in (1, 4)]
    expected = [record if p == 1 else None for record in users.values() for p in (1, 4)]
    assert await store.read_across(wanted) == expected


async def test_a_commit_is_one_atomic_step_for_readers(url, connect, owner, batch):
    """A reader that takes the checkpoint and then a record never sees an older record."""
    store, reader = await connect(url), await connect(url)
    claim = (await store.acquire(0, owner())).claim
    done = asyncio.Event()

    async def read() -> int:
        n = 0
        while not done.is_set():
            checkpoint = await reader.read_checkpoint(0)
            (record,) = await reader.read_many(0, ["ann"])
            assert checkpoint is not None
            assert int(record or b"0") >= checkpoint.next_offset
            n += 1
        return n

    reading = asyncio.create_task(read())
    for at in range(200):
        await store.commit(claim, batch(at, at + 1, ann=b"%d" % (at + 1)))
    done.set()
    assert await reading > 0


def test_a_batch_states_every_part():
    """A commit without one of the parts can't be written by mistake: none has a default."""
    with pytest.raises(TypeError):
        CommitBatch(start=0, end=1)  # type: ignore[call-arg]
