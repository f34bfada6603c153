"""Two workers are upgraded one after the other: nothing is written that the older can't read.

A worker with `newest_record_format = 1` stands for one of the version before: it writes format 1,
and refuses newer ones by name. Own tables come with a new generation, not with a format.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.app import prepare
from agents.errors import CheckFailed
from agents.promotion import promote, upgrade
from agents.rebuild_into import RebuildInto
from agents.settings import Settings
from agents.store_access import store_of
from profiles.errors import StoreMismatch
from profiles.record import decode_profile, encode_profile
from profiles.shape import ModelShape
from profiles.store_link import pack
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    WorkerProcess,
    all_folded,
    click,
    profile_of,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
    user_on,
)


@pytest.fixture
def new(kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path)


def older(settings: Settings) -> Settings:
    return settings.model_copy(update={"newest_record_format": 1})


def named(settings: Settings, name: str) -> Settings:
    return settings.model_copy(update={"worker_id": name})


async def formats_of(settings: Settings) -> set[int]:
    """The formats that stored records are in."""
    async with store_of(settings) as store:
        return {record[0] async for _, record in store.iter_records()}


@pytest.mark.timeout(400)  # four workers start, some 10 s each on a busy machine
async def test_a_rolling_upgrade_loses_nothing(new: Settings) -> None:
    w0, w1 = named(new, "w0"), named(new, "w1")
    await put_events(new, stream_of(1_000, seed=1))
    async with WorkerProcess(older(w1)) as old_worker:
        async with WorkerProcess(older(w0)) as first:
            await first.ready()
            await old_worker.ready()
            await all_folded(new)
        assert await formats_of(new) == {1}
        async with WorkerProcess(w0) as upgraded:  # the first of two is new now
            await upgraded.ready()
            await put_events(new, stream_of(1_000, seed=2))
            await all_folded(new)
            assert await formats_of(new) == {1}
            with pytest.raises(CheckFailed, match=r"w1 \(reads 1-1\) can't read record format 3"):
                await upgrade(new)
            await old_worker.terminate()
            async with WorkerProcess(w1) as second:  # now both are
                await second.ready()
                followed = await upgrade(new)
                assert (followed.before, followed.now) == ("1", "3")
                assert (followed.workers, followed.waiting) == (["w0", "w1"], [])
                await put_events(new, stream_of(1_000, seed=3))
                await all_folded(new)
    assert 3 in await formats_of(new)  # of those who came back
    assert (await state_of(new)).n_events == 3_000
    assert (await rebuilt(new)).agrees
    with pytest.raises(StoreMismatch, match="record_format is 3, newer than this worker"):
        await prepare(older(w0))


async def test_a_record_too_new_stops_its_partition_until_the_upgrade(new: Settings) -> None:
    new = new.model_copy(update={"own_items": 0})  # as the generation was begun
    old = older(new)
    ahead, others = user_on(2, 4), [user_on(partition, 4) for partition in (0, 1, 3)]
    async with InProcess(old) as running:
        updater = running.worker.updater
        assert updater is not None
        await put_events(new, [click(ahead, "i1")])
        await all_folded(new)
        await rewrite(new, ahead, 2)  # as a newer worker would have
        updater.folds[2]._profiles.clear()
        await put_events(new, [click(user, "i2") for user in [ahead, *others]])
        await until(lambda: set(updater.faults) == {2}, "partition 2 has stopped")
        assert (
            f"profile {ahead!r}: format 2 is newer than this worker (reads 1-1)"
            in (updater.faults[2])
        )

        async def folded() -> bool:
            return all([await profile_of(new, user) is not None for user in others])

        await until(folded, "the others go on")
        assert not running.crashed
    async with InProcess(new):  # upgraded
        await all_folded(new)
    profile = await profile_of(new, ahead)
    assert profile is not None
    assert profile.n_events == 2
    assert (await rebuilt(new)).agrees


@pytest.mark.timeout(400)
async def test_own_tables_come_with_a_generation_that_older_workers_do_not_join(
    new: Settings,
) -> None:
    await put_events(new, stream_of(1_000, seed=1))
    async with WorkerProcess(named(older(new), "w0")) as old_worker:
        await old_worker.ready()
        await all_folded(new)
        report = await RebuildInto(new, "second", lambda done, total, rate: None).run()
        assert (report.settings["own_items"], report.record_format) == (32, 3)
        with pytest.raises(CheckFailed, match=r"w0 \(reads 1-1\) can't read record format 3"):
            await promote(new, "second")
    async with WorkerProcess(named(new, "w0")) as worker:
        await worker.ready()
        user = "u0"
        before = await profile_of(new, user)
        assert before is not None
        assert (before.own, before.n_positive) == ([], 0)
        followed = await promote(new, "second")
        assert followed.waiting == []
        await put_events(new, stream_of(1_000, seed=2))
        second = new.model_copy(update={"generation": "second"})
        await all_folded(second)
        after = await profile_of(second, user)
        assert after is not None
        assert after.n_positive >= len(after.own) > 0
        assert (await rebuilt(second)).agrees


async def rewrite(settings: Settings, user_id: str, record_format: int) -> None:
    """Store a user's record in another format."""
    shape = ModelShape(n_factors=settings.n_factors, history=settings.history, own_items=0)
    async with store_of(settings) as store:
        (record,) = await store.read_many(2, [user_id])
        assert record is not None
        again = encode_profile(decode_profile(record, shape), shape, record_format)
        key = store.keys.record(2, user_id)
        await store._pool.ask_slot(store.keys.slot[2], [pack("SET", key, again)], 1, user_id)
