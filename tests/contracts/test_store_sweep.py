"""The sweeper's round: what retention has ended gets a time to live, and nobody else does."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

from profiles.profile import Profile
from profiles.record import encode_profile
from profiles.retention import HEAD_BYTES, last_ms_of
from profiles.shape import ModelShape
from profiles.store import ProfileStore
from profiles.store_link import pack
from profiles.store_sweep import Sweep

SHAPE = ModelShape(n_factors=4)
RETENTION_MS = 10_000
NOW_MS = 100_000  # every partition's watermark
OVER_MS = NOW_MS - RETENTION_MS - 1
TTL_MS = 3_600_000


def record(last_ms: int) -> bytes:
    """A record whose last event was then."""
    profile = Profile(first_ms=1, last_ms=last_ms, last_offset=3, n_by_kind={1: 2})
    return encode_profile(profile, SHAPE)


def test_the_last_time_is_read_from_the_head_of_a_record() -> None:
    whole = record(12_345)
    assert last_ms_of(whole) == last_ms_of(whole[:HEAD_BYTES]) == 12_345
    for n_bytes in range(5):
        assert last_ms_of(whole[:n_bytes]) is None
    assert last_ms_of(b"\xff" + whole[1:]) is None  # of a newer version: not ours to judge


async def filled(store: ProfileStore, owner, batch, users: dict[str, int]):
    """Every partition with these users and last times; returns the claims."""
    claims = []
    for partition in range(6):
        claim = (await store.acquire(partition, owner())).claim
        named = [(f"{user}{partition}", record(last_ms)) for user, last_ms in users.items()]
        changes = replace(batch(0, 5), records=named, watermark_ms=NOW_MS)
        await store.commit(claim, changes)
        claims.append(claim)
    return claims


async def ttl_of(store: ProfileStore, partition: int, user: str) -> int:
    """-1: stays; -2: not there."""
    key = store.keys.record(partition, user)
    slot = store.keys.slot[partition]
    (ttl,) = await store._pool.ask_slot(slot, [pack("PTTL", key)], 1, "ttl")
    return int(ttl)


async def sweep(store: ProfileStore, partitions=range(6), retention_ms=RETENTION_MS) -> int:
    steps = store.sweep(lambda: partitions, retention_ms, TTL_MS)
    return sum([step.n_expired async for step in steps])


async def test_a_profile_that_is_over_gets_a_time_to_live_and_no_other(
    url, connect, owner, batch
) -> None:
    store = await connect(url)
    users = {"over": OVER_MS, "just": OVER_MS + 1, "new": NOW_MS, "{brace}:u:": 5}
    await filled(store, owner, batch, users)
    assert await sweep(store) == 12
    for partition in range(6):
        for user, last_ms in users.items():
            ttl = await ttl_of(store, partition, f"{user}{partition}")
            assert (ttl > TTL_MS / 2) if last_ms <= OVER_MS else ttl == -1
        row = await store.read_checkpoint(partition)
        assert row is not None
        assert row.next_offset == 5
    assert await sweep(store) == 0  # none gets another hour with each round


async def test_only_the_partitions_asked_for_are_swept(url, connect, owner, batch) -> None:
    store = await connect(url)
    await filled(store, owner, batch, {"over": OVER_MS})
    assert await sweep(store, {1, 4}) == 2
    assert await ttl_of(store, 1, "over1") > 0
    assert await ttl_of(store, 0, "over0") == -1


async def test_a_user_who_comes_back_stays(url, connect, owner, batch) -> None:
    store = await connect(url)
    claims = await filled(store, owner, batch, {"over": OVER_MS})
    assert await sweep(store, {2}) == 1
    back = replace(batch(5, 6), records=[("over2", record(NOW_MS + 1))], watermark_ms=NOW_MS + 1)
    await store.commit(claims[2], back)
    assert await ttl_of(store, 2, "over2") == -1
    assert await sweep(store, {2}) == 0


class Paused(Sweep):
    """Lets a test act between the look under WATCH and EXEC."""

    before_exec: Callable[[], Awaitable[None]]

    async def _check(self, reply):
        await super()._check(reply)
        if reply == b"OK":  # WATCH's answer
            await self.before_exec()


async def test_a_commit_between_the_look_and_the_expiry_wins(url, connect, owner, batch) -> None:
    store = await connect(url)
    claims = await filled(store, owner, batch, {"a": OVER_MS, "b": OVER_MS})
    sweeper = Paused(store.keys, store._topology, store._pool, "k=64")
    came_back = asyncio.Event()

    async def come_back() -> None:
        changes = replace(
            batch(5, 6), records=[("a3", record(NOW_MS + 1))], watermark_ms=NOW_MS + 1
        )
        if not came_back.is_set():
            came_back.set()
            await store.commit(claims[3], changes)

    sweeper.before_exec = come_back
    steps = [s async for s in sweeper.round(lambda: {3}, RETENTION_MS, TTL_MS)]
    assert came_back.is_set()
    # The other one was in the EXEC that failed, too, unless the scan of a full store named it later
    # (others use this store, too).
    first = sum(step.n_expired for step in steps)
    assert await ttl_of(store, 3, "a3") == -1
    assert first + await sweep(store, {3}) == 1
    assert await ttl_of(store, 3, "a3") == -1
    assert await ttl_of(store, 3, "b3") > 0


async def test_two_sweepers_and_a_busy_user_never_meet_in_a_lost_profile(
    url, connect, owner, batch
) -> None:
    """The user comes back, falls silent and comes back again while two go round and round."""
    store, other = await connect(url), await connect(url)
    (claim, *_) = await filled(store, owner, batch, {"u": OVER_MS})
    done = asyncio.Event()
    n_expired = 0

    async def go_round(which: ProfileStore) -> None:
        nonlocal n_expired
        while not done.is_set():
            n_expired += await sweep(which, {0})

    rounds = [asyncio.ensure_future(go_round(which)) for which in (store, other)]
    offset, watermark = 5, NOW_MS
    for turn in range(200):
        last_ms = watermark if turn % 2 else OVER_MS  # in turns alive and over
        changes = replace(
            batch(offset, offset + 1), records=[("u0", record(last_ms))], watermark_ms=watermark
        )
        await store.commit(claim, changes)
        if turn % 2:
            assert await ttl_of(store, 0, "u0") == -1
        else:
            await asyncio.sleep(0.002 * (turn % 3))
        offset += 1
    done.set()
    await asyncio.gather(*rounds)
    assert n_expired > 0
    assert await ttl_of(store, 0, "u0") == -1


async def test_records_of_other_settings_or_of_nobody_are_left_alone(
    url, connect, owner, batch
) -> None:
    store = await connect(url)
    await filled(store, owner, batch, {"over": OVER_MS})
    elsewhere = await connect(url, fingerprint="k=128")
    assert await sweep(elsewhere) == 0
    assert await sweep(store, retention_ms=0) == 0
    # Something else under our keys: another type, another format, no record at all.
    slot, head = store.keys.slot[0], store.keys.record_head[0]
    newer = struct.pack("<BBHqq", 250, 0, 16, 0, 0)
    commands = [
        pack("UNLINK", head + b"over0"),
        pack("SET", head + b"newer", newer),
        pack("SET", head + b"short", b"x"),
        pack("LPUSH", head + b"list", b"x"),
    ]
    await store._pool.ask_slot(slot, commands, 4, "foreign keys")
    assert await sweep(store, {0}) == 0
