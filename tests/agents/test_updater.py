"""What the updater does with a log, a store or a record that is not what it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agents.settings import Settings
from agents.store_access import store_of
from profiles.interactions import Interactions
from profiles.store_link import pack
from streams.errors import OffsetGap
from streams.event_columns import EventColumns
from streams.partitioner import partition_of
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    click,
    profile_of,
    put_events,
    settings_of,
    state_of,
    stream_of,
    until,
    user_on,
)


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path)


async def write_record(settings: Settings, user_id: str, record: bytes) -> None:
    async with store_of(settings) as store:
        partition = partition_of(user_id, settings.partitions)
        key = store.keys.record_head[partition] + user_id.encode()
        await store._pool.ask_slot(
            store.keys.slot[partition], [pack("SET", key, record)], 1, user_id
        )


async def test_events_that_were_deleted_unfolded_are_a_hard_stop(settings: Settings) -> None:
    await put_events(settings, stream_of(400, seed=1))
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        place = TopicPartition(settings.topics().events.name, 1)
        await admin.delete_records({place: RecordsToDelete(before_offset=10)})
    finally:
        await admin.close()
    async with InProcess(settings) as running:
        await until(lambda: running.crashed, "the worker refuses to go on")
        assert running.worker.updater is not None
        error = running.worker.updater.consumer.failed.exception()
    assert isinstance(error, OffsetGap)
    assert "10 events are gone" in str(error)


async def test_a_record_that_nobody_wrote_stops_its_partition_only(settings: Settings) -> None:
    broken, others = user_on(2, 4), [user_on(partition, 4) for partition in (0, 1, 3)]
    await write_record(settings, broken, b"\x01nonsense")
    await put_events(settings, [click(user, "i1") for user in [broken, *others]])
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await until(lambda: set(updater.faults) == {2}, "partition 2 has stopped")

        async def folded() -> bool:
            return all([await profile_of(settings, user) is not None for user in others])

        await until(folded, "the others go on")
        assert broken in updater.faults[2]
        assert not running.crashed


async def test_a_ring_that_nobody_wrote_stops_its_partition_only(settings: Settings) -> None:
    others = [user_on(partition, 4) for partition in (0, 1, 3)]
    async with store_of(settings) as store:
        foreign = pack("LPUSH", store.keys.seen[2], "nonsense")
        await store._pool.ask_slot(store.keys.slot[2], [foreign], 1, "seen")
    await put_events(settings, [click(user, "i1") for user in [user_on(2, 4), *others]])
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await until(lambda: set(updater.faults) == {2}, "partition 2 has stopped")

        async def folded() -> bool:
            return all([await profile_of(settings, user) is not None for user in others])

        await until(folded, "the others go on")
        assert not running.crashed


async def test_a_fault_in_the_fold_stops_its_partition_and_leaves_nothing_behind(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison, others = user_on(1, 4), [user_on(partition, 4) for partition in (0, 2, 3)]
    async with InProcess(settings) as running:
        updater, model = running.worker.updater, running.worker.model
        assert updater is not None
        assert model is not None
        translator = updater._parts.translator
        translate = translator.translate_columns

        def faulty(columns: EventColumns, *more: Any) -> Interactions:
            interactions = translate(columns, *more)
            if columns.partition == 1:
                raise IndexError("a bug of ours")
            return interactions

        monkeypatch.setattr(translator, "translate_columns", faulty)
        await put_events(settings, [click(user, f"only {user}") for user in [poison, *others]])
        await until(lambda: set(updater.faults) == {1}, "partition 1 has stopped")

        async def folded() -> bool:
            return all([await profile_of(settings, user) is not None for user in others])

        await until(folded, "the others go on")
        await until(lambda: not model.tainted, "the item table was taken back")
        assert f"only {poison}" not in model.view.ids
        assert "a bug of ours" in updater.faults[1]
        assert not running.crashed
    async with InProcess(settings):  # mended: nothing was lost
        await all_folded(settings)
    assert (await state_of(settings)).n_events == 4


async def test_partitions_given_back_keep_their_cache_and_others_do_not(
    settings: Settings,
) -> None:
    await put_events(settings, stream_of(500, seed=1))
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await all_folded(settings)
        cached = {partition: fold.n_cached for partition, fold in updater.folds.items()}
        assert min(cached.values()) > 0
        async with store_of(settings) as store:  # somebody else has partition 3 in between
            n = updater.consumer.n_rebalances
            await updater._hand_back([0, 1, 2, 3])
            await store.acquire(3, b"x" * 16)
            updater.consumer._consumer._coordinator.request_rejoin()
            await until(lambda: updater.consumer.n_rebalances > n, "a rebalance")
            await until(lambda: len(updater.folds) == 4, "all are back")
        assert [updater.folds[partition].n_cached for partition in range(4)] == [
            *(cached[partition] for partition in range(3)),
            0,
        ]
        await put_events(settings, stream_of(500, seed=2))
        await all_folded(settings)
    assert (await state_of(settings)).n_events == 1_000


async def test_a_handed_back_partition_has_no_lag_of_ours(settings: Settings) -> None:
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await put_events(settings, stream_of(100, seed=1))
        await all_folded(settings)

        def known(partition: int) -> bool:
            registry = running.worker.metrics.registry
            labels = {"partition": str(partition)}
            return registry.get_sample_value("foldstream_partition_lag", labels) is not None

        await until(lambda: known(1), "the lag was measured")
        await updater._hand_back([1])
        assert not known(1)
        assert updater.lag(1) is None
