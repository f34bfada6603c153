"""The group consumer on a real broker: positions, rebalances, bounds, membership."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from streams.batch import RawBatch
from streams.consumer import BatchConsumer, ConsumerConfig
from streams.errors import OffsetGap, PartitionRevoked
from streams.partition_buffers import State
from streams.topics import TopicMissing, TopicSet

WAIT_S = 30.0


class Member:
    """One worker of a group, with a checkpoint in memory that members may share."""

    def __init__(
        self,
        kafka: str,
        topics: TopicSet,
        *,
        instance_id: str | None = None,
        checkpoint: dict[int, int] | None = None,
        on_assigned: Callable[[list[int]], Awaitable[dict[int, int]]] | None = None,
        on_revoked: Callable[[list[int]], Awaitable[None]] | None = None,
        **settings: int,
    ) -> None:
        self.checkpoint = {} if checkpoint is None else checkpoint
        self.assigned = asyncio.Event()
        self.history: list[tuple[str, list[int]]] = []
        self._more_assigned = on_assigned
        self._more_revoked = on_revoked
        config = ConsumerConfig(
            kafka,
            topics.events.name,
            f"{topics.prefix}.group",
            instance_id,
            **settings,  # type: ignore[arg-type]
        )
        self.consumer = BatchConsumer(config, self._on_assigned, self._on_revoked)

    async def _on_assigned(self, partitions: list[int]) -> dict[int, int]:
        offsets = {p: self.checkpoint.get(p, 0) for p in partitions}
        if self._more_assigned is not None:
            offsets = await self._more_assigned(partitions)
        self.history.append(("assigned", partitions))
        self.assigned.set()
        return offsets

    async def _on_revoked(self, partitions: list[int]) -> None:
        self.assigned.clear()
        if self._more_revoked is not None:
            await self._more_revoked(partitions)
        self.history.append(("revoked", partitions))

    async def next(self, partition: int = 0, max_events: int = 1_000) -> RawBatch:
        return await asyncio.wait_for(self.consumer.next_batch(partition, max_events), WAIT_S)


@asynccontextmanager
async def running(member: Member, leave: bool = True) -> AsyncIterator[Member]:
    await member.consumer.start()
    try:
        await asyncio.wait_for(member.assigned.wait(), WAIT_S)
        yield member
    finally:
        await member.consumer.stop(leave=leave)


@asynccontextmanager
async def producer(kafka: str, **settings: object) -> AsyncIterator[AIOKafkaProducer]:
    made = AIOKafkaProducer(bootstrap_servers=kafka, **settings)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def fill(kafka: str, topic: str, n: int, partition: int = 0, n_bytes: int = 10) -> None:
    async with producer(kafka, max_batch_size=65_536) as sender:
        futures = [
            await sender.send(topic, b"%06d" % i + b"x" * n_bytes, partition=partition)
            for i in range(n)
        ]
        await asyncio.gather(*futures)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition of the client's own state."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for: {what}"
        await asyncio.sleep(0.01)


async def test_aborted_events_are_not_delivered_and_the_end_passes_every_marker(
    kafka: str, topics: TopicSet
) -> None:
    topic = topics.events.name
    async with producer(kafka, transactional_id=topics.prefix) as sender:
        async with sender.transaction():
            for n in range(5):
                await sender.send(topic, b"kept %d" % n, partition=0)
        await sender.begin_transaction()
        for n in range(3):
            await sender.send(topic, b"aborted %d" % n, partition=0)
        await sender.flush()
        await sender.abort_transaction()
        async with sender.transaction():
            for n in range(2):
                await sender.send(topic, b"kept late %d" % n, partition=0)
    async with running(Member(kafka, topics)) as member:
        batches = [await member.next()]
        while batches[-1].end < 13:
            batches.append(await member.next())
        assert batches[0].start == 0
        for previous, batch in itertools.pairwise(batches):
            assert batch.start == previous.end
        records = [record for batch in batches for record in batch.records]
        assert [record.offset for record in records] == [0, 1, 2, 3, 4, 10, 11]
        assert all((record.value or b"").startswith(b"kept") for record in records)
        assert batches[-1].end == 13  # five, a marker, three aborted, a marker, two, a marker
        assert member.consumer.lag(0) == 0


async def test_an_open_transaction_is_nobodys_lag(kafka: str, topics: TopicSet) -> None:
    topic = topics.events.name
    await fill(kafka, topic, 3)
    async with producer(kafka, transactional_id=topics.prefix) as sender:
        await sender.begin_transaction()
        await sender.send_and_wait(topic, b"open", partition=0)
        await fill(kafka, topic, 2)  # behind the open one: not readable yet
        async with running(Member(kafka, topics)) as member:
            batch = await member.next()
            assert (len(batch), batch.end) == (3, 3)
            assert member.consumer.lag(0) == 0
            assert await member.consumer.end_offsets([0]) == {0: 3}
            await sender.abort_transaction()
            batches = [await member.next()]
            while batches[-1].end < 7:
                batches.append(await member.next())
            assert sum(len(batch) for batch in batches) == 2


async def test_batches_meet_and_respect_their_limit(kafka: str, topics: TopicSet) -> None:
    await fill(kafka, topics.events.name, 1_000)
    async with running(Member(kafka, topics)) as member:
        position, values = 0, []
        while position < 1_000:
            batch = await member.next(max_events=37)
            assert batch.start == position
            assert len(batch) <= 37
            position = batch.end
            values += [record.value for record in batch.records]
        assert values == sorted(set(values))
        assert len(values) == 1_000


async def test_nothing_fetched_before_a_seek_shows_up_after_it(
    kafka: str, topics: TopicSet
) -> None:
    await fill(kafka, topics.events.name, 2_000)
    async with running(Member(kafka, topics, max_poll_records=100)) as member:
        for target in (1_500, 0, 700, 1_900, 3):
            await member.next(max_events=10)  # fetching is under way, the buffer is filling
            member.consumer.seek(0, target)
            batch = await member.next(max_events=10)
            assert batch.start == target
            assert batch.records[0].offset == target
            assert batch.records[0].value == b"%06d" % target + b"x" * 10


async def test_a_full_buffer_pauses_its_partition_and_goes_on_at_half(
    kafka: str, topics: TopicSet
) -> None:
    await fill(kafka, topics.events.name, 5_000)
    await fill(kafka, topics.events.name, 10, partition=1)
    member = Member(kafka, topics, buffer_events=300, max_poll_records=100)
    async with running(member):
        consumer = member.consumer
        await until(lambda: consumer._buffers[0].state is State.FULL, "a full buffer")
        assert len(await member.next(1)) == 10  # another partition is not held up
        assert 300 <= consumer.n_buffered(0) < 300 + 100
        paused = consumer.n_buffered(0)
        await member.next(max_events=100)
        assert consumer._buffers[0].state is State.FULL  # not refilled for every message taken
        position, total = 100, 100
        while position < 5_000:
            batch = await member.next(max_events=100)
            assert batch.start == position
            position, total = batch.end, total + len(batch)
            assert consumer.n_buffered(0) <= paused + 100
        assert total == 5_000


async def test_large_messages_fill_the_buffer_by_bytes(kafka: str, topics: TopicSet) -> None:
    await fill(kafka, topics.events.name, 40, n_bytes=200_000)
    member = Member(kafka, topics, buffer_bytes=1_000_000, max_poll_records=5)
    async with running(member):
        await until(lambda: member.consumer._buffers[0].state is State.FULL, "a full buffer")
        assert member.consumer.n_buffered(0) <= 10
        position = 0
        while position < 40:
            position = (await member.next(max_events=3)).end


async def test_an_offset_that_the_log_does_not_hold_is_a_hard_stop(
    kafka: str, topics: TopicSet
) -> None:
    topic = topics.events.name
    await fill(kafka, topic, 100)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(topic, 0): RecordsToDelete(before_offset=60)})
    finally:
        await admin.close()
    await fill(kafka, topic, 5, partition=1)
    async with running(Member(kafka, topics, checkpoint={0: 40})) as member:
        for _ in range(2):  # it stays stopped
            with pytest.raises(OffsetGap, match=r"\[0\]: offset 40 .* holds 60 to 100"):
                await member.next(0)
        assert len(await member.next(1)) == 5  # the others go on
        member.consumer.seek(0, 60)
        assert (await member.next(0)).start == 60


async def test_an_offset_beyond_the_end_is_a_hard_stop(kafka: str, topics: TopicSet) -> None:
    await fill(kafka, topics.events.name, 10)
    async with running(Member(kafka, topics, checkpoint={0: 5})) as member:
        assert len(await member.next(0)) == 5
        member.consumer.seek(0, 11)
        with pytest.raises(OffsetGap, match="holds 0 to 10"):
            await member.next(0)


async def test_a_partition_that_moves_mid_batch_is_revoked_before_another_reads_it(
    kafka: str, topics: TopicSet
) -> None:
    for partition in range(4):
        await fill(kafka, topics.events.name, 200, partition)
    checkpoint: dict[int, int] = {}
    committed: list[tuple[str, int, int]] = []
    in_flight = asyncio.Event()
    finish = asyncio.Event()

    async def finish_batches(partitions: list[int]) -> None:
        # The commit of the batch in hand ends while the rebalance waits for us.
        finish.set()
        await in_flight.wait()
        for partition in partitions:
            checkpoint[partition] = 50

    first = Member(
        kafka, topics, instance_id="one", checkpoint=checkpoint, on_revoked=finish_batches
    )
    second = Member(kafka, topics, instance_id="two", checkpoint=checkpoint)
    async with running(first):
        assert len(await first.next(0, max_events=50)) == 50
        await second.consumer.start()
        try:
            await asyncio.wait_for(finish.wait(), WAIT_S)
            with pytest.raises(PartitionRevoked):
                await first.next(0)
            assert second.history == []  # the group waits for on_revoked
            in_flight.set()
            await asyncio.wait_for(second.assigned.wait(), WAIT_S)
            await asyncio.wait_for(first.assigned.wait(), WAIT_S)
            mine, theirs = first.consumer.assigned(), second.consumer.assigned()
            assert mine | theirs == {0, 1, 2, 3}
            assert not mine & theirs
            assert len(mine) == len(theirs) == 2
            for member, partitions in ((first, mine), (second, theirs)):
                for partition in partitions:
                    batch = await member.next(partition)
                    committed.append(("read", partition, batch.start))
            assert sorted(committed) == [("read", p, 50) for p in range(4)]
        finally:
            await second.consumer.stop(leave=True)


async def test_whoever_waits_for_a_revoked_partition_is_told(kafka: str, topics: TopicSet) -> None:
    async with running(Member(kafka, topics)) as first:
        waiting = [asyncio.create_task(first.next(p)) for p in range(4)]
        async with running(Member(kafka, topics)):
            for result in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(result, PartitionRevoked)


async def test_a_static_member_that_restarts_keeps_its_partitions_without_a_rebalance(
    kafka: str, topics: TopicSet
) -> None:
    other = Member(kafka, topics, instance_id="other")
    async with running(other):
        async with running(Member(kafka, topics, instance_id="mine"), leave=False) as before:
            await asyncio.wait_for(other.assigned.wait(), WAIT_S)
            mine = before.consumer.assigned()
        n_events = len(other.history)
        began = time.monotonic()
        async with running(Member(kafka, topics, instance_id="mine")) as after:
            assert time.monotonic() - began < 5  # far below the session time-out of 10 s
            assert after.consumer.assigned() == mine
            assert len(other.history) == n_events


async def test_a_member_that_leaves_hands_over_before_its_session_times_out(
    kafka: str, topics: TopicSet
) -> None:
    staying = Member(kafka, topics, instance_id="staying", session_timeout_ms=30_000)
    async with running(staying):
        leaving = Member(kafka, topics, instance_id="leaving", session_timeout_ms=30_000)
        async with running(leaving):
            await asyncio.wait_for(staying.assigned.wait(), WAIT_S)
            assert len(staying.consumer.assigned()) == 2
        began = time.monotonic()
        await until(lambda: len(staying.consumer.assigned()) == 4, "all four partitions")
        assert time.monotonic() - began < 8  # by the next heartbeat; the session has 30 s


async def test_a_failure_in_on_assigned_reaches_whoever_waits(kafka: str, topics: TopicSet) -> None:
    class StoreBroken(Exception):
        pass

    async def refuse(partitions: list[int]) -> dict[int, int]:
        raise StoreBroken("no generation")

    member = Member(kafka, topics, on_assigned=refuse)
    await member.consumer.start()
    try:
        with pytest.raises(StoreBroken):
            await asyncio.wait_for(asyncio.shield(member.consumer.failed), WAIT_S)
        with pytest.raises(StoreBroken):
            await member.next(0)
    finally:
        await member.consumer.stop(leave=True)


async def test_an_assignment_that_takes_longer_than_the_session_does_not_lose_it(
    kafka: str, topics: TopicSet
) -> None:
    store_is_back = asyncio.Event()

    async def wait_for_store(partitions: list[int]) -> dict[int, int]:
        await store_is_back.wait()
        return dict.fromkeys(partitions, 0)

    await fill(kafka, topics.events.name, 5)
    member = Member(kafka, topics, on_assigned=wait_for_store, session_timeout_ms=2_000)
    await member.consumer.start()
    try:
        # The one wait here that is a wait: the session must have had time to expire.
        await asyncio.sleep(3.0)
        store_is_back.set()
        assert len(await member.next(0)) == 5
        assert member.consumer.n_rebalances == 1
        assert member.history == [("assigned", [0, 1, 2, 3])]
    finally:
        await member.consumer.stop(leave=True)


async def test_a_partition_left_out_is_not_read_until_it_is_sought(
    kafka: str, topics: TopicSet
) -> None:
    async def all_but_two(partitions: list[int]) -> dict[int, int]:
        return {p: 0 for p in partitions if p != 2}

    await fill(kafka, topics.events.name, 5, partition=2)
    await fill(kafka, topics.events.name, 5, partition=1)
    async with running(Member(kafka, topics, on_assigned=all_but_two)) as member:
        assert len(await member.next(1)) == 5
        assert member.consumer.n_buffered(2) == 0
        assert 2 in member.consumer.assigned()
        assert member.consumer.lag(2) is None
        member.consumer.seek(2, 3)
        assert (await member.next(2)).start == 3


async def test_kafka_is_told_how_far_we_are_and_nobody_starts_from_it(
    kafka: str, topics: TopicSet
) -> None:
    await fill(kafka, topics.events.name, 50)
    async with running(Member(kafka, topics)) as member:
        await member.next()
        member.consumer.request_commit(0, 30)
        member.consumer.request_commit(0, 50)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        committed = await admin.list_consumer_group_offsets(f"{topics.prefix}.group")
    finally:
        await admin.close()
    assert committed[TopicPartition(topics.events.name, 0)].offset == 50
    async with running(Member(kafka, topics, checkpoint={0: 20})) as member:
        assert (await member.next()).start == 20


@pytest.mark.parametrize("codec", ["lz4", "zstd", "gzip", "snappy"])
async def test_compressed_batches_are_read(kafka: str, topics: TopicSet, codec: str) -> None:
    async with producer(kafka, compression_type=codec) as sender:
        await asyncio.gather(
            *[await sender.send(topics.events.name, b"x" * 500, partition=0) for _ in range(100)]
        )
    async with running(Member(kafka, topics)) as member:
        total = 0
        while total < 100:
            total += len(await member.next())


async def test_a_missing_topic_is_named(kafka: str) -> None:
    member = Member(kafka, TopicSet("not-there"))
    with pytest.raises(TopicMissing, match=r"not-there\.events"):
        await member.consumer.start()


async def test_health_is_progress(kafka: str, topics: TopicSet) -> None:
    async with running(Member(kafka, topics)) as member:
        await fill(kafka, topics.events.name, 1)
        await member.next()
        assert member.consumer.progress_age_s() < 5
        assert member.consumer.fetch_age_s() < 5
        assert await member.consumer.still_ours(0, 1)
