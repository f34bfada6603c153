"""What the log lost before it was folded: named exactly, refused, and passed over when accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete

from agents.rebuild_into import RebuildInto
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store import CommitBatch, LogPosition
from streams.errors import LogMismatch, OffsetGap
from streams.events import Click
from streams.log_identity import log_identity
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    click,
    put_events,
    rebuilt,
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


def accepting(settings: Settings) -> Settings:
    """The same worker with `--accept-gap`."""
    return settings.model_copy(update={"accept_gap": True})


async def delete_before(settings: Settings, before: dict[int, int]) -> None:
    """What retention does, at once: remove each partition's records below an offset."""
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    topic = settings.topics().events.name
    try:
        await admin.delete_records(
            {
                TopicPartition(topic, p): RecordsToDelete(before_offset=at)
                for p, at in before.items()
            }
        )
    finally:
        await admin.close()


def on(partition: int, n: int, number: int = 0) -> list[Click]:
    """n clicks of one user of a partition."""
    user = user_on(partition, 4, number)
    return [click(user, f"i{n}", event_id=f"{user}-{number}-{n}") for n in range(n)]


async def test_every_gap_is_named_and_an_accepted_one_is_counted(settings: Settings) -> None:
    await put_events(settings, [*on(0, 5), *on(1, 30), *on(2, 30), *on(3, 5)])
    await delete_before(settings, {1: 10, 2: 12})
    async with InProcess(settings) as running:
        await until(lambda: running.crashed, "the worker refuses to go on")
        assert running.worker.updater is not None
        error = running.worker.updater.consumer.failed.exception()
    assert isinstance(error, OffsetGap)
    assert "partition 1: offsets [0, 10) are gone" in str(error)
    assert "partition 2: offsets [0, 12) are gone" in str(error)
    assert "--accept-gap" in str(error)

    async with InProcess(accepting(settings)) as running:
        await all_folded(settings)
        assert running.metric("foldstream_gap_offsets_total", partition="1") == 10
        assert running.metric("foldstream_gap_offsets_total", partition="2") == 12
    assert (await state_of(settings)).n_events == 70 - 22
    async with store_of(settings) as store:
        checkpoint = await store.read_checkpoint(1)
        assert checkpoint is not None
        assert checkpoint.gaps == ((0, 10),)
    report = await rebuilt(settings)  # knows where the live one began
    assert report.agrees
    assert report.gaps == {1: [(0, 10)], 2: [(0, 12)]}
    async with InProcess(settings) as running:  # accepted once and for all
        await put_events(settings, on(1, 3, number=1))
        await all_folded(settings)
        assert not running.crashed


async def test_a_gap_that_opens_while_a_worker_was_away_stops_nobody_else(
    settings: Settings,
) -> None:
    await put_events(settings, [event for p in range(4) for event in on(p, 10)])
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await all_folded(settings)
        # As if retention had been quicker than we: the reader is sent to what is gone.
        await put_events(settings, on(2, 20, number=1))
        await all_folded(settings)
        await delete_before(settings, {2: 30})
        updater.consumer.seek(2, 5)
        await until(lambda: set(updater.faults) == {2}, "partition 2 has stopped")
        assert "offsets [5, 30) are missing" in updater.faults[2]
        await put_events(settings, on(1, 5, number=1))

        async def others_go_on() -> bool:
            return (await state_of(settings)).n_events == 65

        await until(others_go_on, "the others go on")
        assert not running.crashed


async def test_a_rebuild_on_a_log_without_its_beginning_needs_a_word(settings: Settings) -> None:
    await put_events(settings, stream_of(400, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
    await delete_before(settings, {1: 10})
    with pytest.raises(OffsetGap, match="partition 1 starts at offset 10, not at 0"):
        await rebuilt(settings)
    with pytest.raises(OffsetGap, match=r"offsets \[0, 10\) are gone"):
        await RebuildInto(settings, "second", lambda done, total, rate: None).run()
    report = await RebuildInto(
        settings, "second", lambda done, total, rate: None, accept_gap=True
    ).run()
    assert report.gaps == {1: [(0, 10)]}
    assert report.n_folded == 390


async def stand_at(settings: Settings, partition: int, next_offset: int) -> None:
    """Move a checkpoint on, as if more had been folded: the log then lacks its end."""
    identity = await log_identity(settings.kafka, settings.topics().events.name)
    log = LogPosition(identity.cluster_id, identity.topic, identity.n_partitions, 10**6, 1, 1)
    async with store_of(settings) as store:
        acquired = await store.acquire(partition, b"x" * 16)
        start = acquired.next_offset
        await store.commit(acquired.claim, CommitBatch(start, next_offset, [], [], [], 0, log))


@pytest.fixture
def asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost end is looked at for seconds more, in case a new leader catches up: not here."""
    monkeypatch.setattr("agents.log_check.ASKED_AGAIN", 1)


@pytest.mark.usefixtures("asked_once")
async def test_a_log_that_lost_its_end_is_gone_on_with_where_it_ends(settings: Settings) -> None:
    await put_events(settings, on(3, 20))
    async with InProcess(settings):
        await all_folded(settings)
    await stand_at(settings, 3, 25)
    async with InProcess(settings) as running:
        await until(lambda: running.crashed, "the worker refuses to go on", within_s=30)
        assert running.worker.updater is not None
        error = running.worker.updater.consumer.failed.exception()
    assert isinstance(error, OffsetGap)
    assert "partition 3: offsets [20, 25) are not in the log, which ends at 20" in str(error)
    async with InProcess(accepting(settings)) as running:
        await until(lambda: len(running.worker.updater.folds) == 4, "all are taken over")  # type: ignore[union-attr]
        await put_events(settings, on(3, 7, number=1))

        async def folded() -> bool:
            return (await state_of(settings)).n_events == 27

        await until(folded, "what came after is folded")
        assert running.metric("foldstream_gap_offsets_total", partition="3") == 5


@pytest.mark.usefixtures("asked_once")
async def test_a_topic_made_anew_is_never_taken_for_a_lost_end(settings: Settings) -> None:
    await put_events(settings, on(3, 20))
    await stand_at(settings, 3, 25)  # nothing of what is there was ever folded
    async with InProcess(accepting(settings)) as running:
        await until(lambda: running.crashed, "the worker refuses to go on", within_s=30)
        assert running.worker.updater is not None
        error = running.worker.updater.consumer.failed.exception()
    assert isinstance(error, LogMismatch)
    assert "made anew" in str(error)


async def test_a_topic_that_grew_stops_its_workers_by_name(settings: Settings) -> None:
    await put_events(settings, stream_of(100, seed=1))
    async with InProcess(settings) as running:
        await all_folded(settings)
        admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
        await admin.start()
        try:
            await admin.create_partitions(
                {settings.topics().events.name: NewPartitions(total_count=6)}
            )
        finally:
            await admin.close()
        await until(lambda: running.crashed, "the worker refuses to go on", within_s=40)
        reasons = [str(service.crash_reason) for service in running._services if service.crashed]
    assert any("has 6 partitions, the profiles were folded from 4" in told for told in reasons)
    with pytest.raises(LogMismatch, match="has 6 partitions, the profiles were folded from 4"):
        await InProcess(settings).start()
