"""A replica has the whole topic, and goes on having it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import cramjam
import pytest
from aiokafka.errors import CorruptRecordException, UnsupportedCodecError
from aiokafka.record._crecords import default_records

from streams.batch import Message
from streams.consumer import BatchConsumer, ConsumerConfig
from streams.embedded.kafka import KafkaServer
from streams.errors import PartitionRevoked, StreamsError
from streams.events import Click, Item
from streams.producer import Producer
from streams.replica import FROM_END, Replica
from streams.topics import TopicMissing, TopicSet, ensure_topics

WAIT_S = 60.0


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S} s for: {what}"
        await asyncio.sleep(0.01)


class Catalogue:
    """The present state of a compacted topic."""

    def __init__(self) -> None:
        self.items: dict[bytes, bytes] = {}

    def take(self, message: Message) -> None:
        assert message.key is not None
        if message.value is None:
            self.items.pop(message.key, None)
        else:
            self.items[message.key] = message.value


async def test_everything_before_the_start_has_arrived_when_it_has_caught_up(
    kafka: str, topics: TopicSet
) -> None:
    async with Producer(kafka, topics) as producer:
        for future in [await producer.queue_item(Item(item_id=f"i{n}")) for n in range(2_000)]:
            await future
        await producer.delete_item("i7")
        catalogue = Catalogue()
        replica = Replica(kafka, topics.items.name, catalogue.take)
        await replica.start()
        try:
            async with asyncio.timeout(WAIT_S):
                await replica.caught_up()
            assert len(catalogue.items) == 1_999
            assert sum(replica.next_offsets().values()) == 2_001
            await producer.send_item(Item(item_id="new"))
            await until(lambda: b"new" in catalogue.items, "the new item")
        finally:
            await replica.stop()


async def test_reading_begins_where_it_is_told_and_waits_for_the_work_of_each_round(
    kafka: str, topics: TopicSet
) -> None:
    topic = topics.item_deltas.name  # one partition
    found: list[int] = []
    worked: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        worked.extend(found[len(worked) :])

    async def read_from(start: int) -> Replica:
        found.clear()
        worked.clear()
        replica = Replica(
            kafka, topic, lambda m: found.append(m.offset), after_round=work, start_at={0: start}
        )
        await replica.start()
        async with asyncio.timeout(WAIT_S):
            await replica.caught_up()
        return replica

    async with Producer(kafka, topics) as producer:
        for number in range(10):
            await producer.send_raw(topic, b"%d" % number, b"key")
        replica = await read_from(7)
        assert worked == [7, 8, 9]
        await producer.send_raw(topic, None, b"key")
        async with asyncio.timeout(WAIT_S):
            await replica.reached_end()
        assert worked == [7, 8, 9, 10]
        await replica.stop()
        replica = await read_from(FROM_END)
        assert worked == []
        await producer.send_raw(topic, b"new", b"key")
        async with asyncio.timeout(WAIT_S):
            await replica.reached_end()
        assert worked == [11]
        await replica.stop()
        replica = await read_from(99)  # the topic was made anew: all of it
        assert worked == list(range(12))
        await replica.stop()


async def test_an_empty_topic_is_caught_up_at_once(kafka: str, topics: TopicSet) -> None:
    replica = Replica(kafka, topics.items.name, Catalogue().take)
    await replica.start()
    async with asyncio.timeout(WAIT_S):
        await replica.caught_up()
    assert replica.is_caught_up
    await replica.stop()


async def test_what_on_message_raises_ends_the_replica_and_is_told(
    kafka: str, topics: TopicSet
) -> None:
    class Broken(Exception):
        pass

    def refuse(message: Message) -> None:
        raise Broken

    async with Producer(kafka, topics) as producer:
        await producer.send_item(Item(item_id="i"))
    replica = Replica(kafka, topics.items.name, refuse)
    await replica.start()
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(Broken):
            await replica.caught_up()
        with pytest.raises(Broken):
            await replica.wait()
    await replica.stop()


@pytest.mark.parametrize(
    ("fault", "told", "match"),
    [
        (OSError("disk"), OSError, "disk"),
        (StopIteration(), RuntimeError, "StopIteration"),
        (asyncio.CancelledError(), StreamsError, "cancelled by nobody"),
        (UnsupportedCodecError("lz4"), StreamsError, "can't be read"),
        (CorruptRecordException("Invalid CRC"), StreamsError, "damaged record batch, 5 times"),
    ],
)
async def test_whatever_ends_the_replica_is_told(
    kafka: str, topics: TopicSet, fault: BaseException, told: type[Exception], match: str
) -> None:
    def fail(message: Message) -> None:
        raise fault

    await ends_with(fail, kafka, topics, told, match)


async def test_a_batch_that_cannot_be_decompressed_ends_the_replica(
    kafka: str, topics: TopicSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(payload: bytes) -> bytes:
        raise cramjam.DecompressionError("not zstd")

    monkeypatch.setattr(default_records, "zstd_decode", refuse)
    await ends_with(Catalogue().take, kafka, topics, cramjam.DecompressionError, "not zstd")


async def test_after_a_fetcher_that_ends_it_goes_on(kafka: str, topics: TopicSet) -> None:
    catalogue = Catalogue()
    replica = Replica(kafka, topics.items.name, catalogue.take)
    await replica.start()
    async with asyncio.timeout(WAIT_S):
        await replica.caught_up()
        (fetcher,) = [
            task
            for task in asyncio.all_tasks()
            if getattr(task.get_coro(), "__name__", "") == "_fetch_requests_routine"
        ]
        fetcher.cancel()
        async with Producer(kafka, topics) as producer:
            await (await producer.queue_item(Item(item_id="new")))
    await until(lambda: b"new" in catalogue.items, "the new item")
    await replica.stop()


async def ends_with(
    take: Callable[[Message], None],
    kafka: str,
    topics: TopicSet,
    told: type[Exception],
    match: str,
) -> None:
    async with Producer(kafka, topics) as producer:
        await producer.send_item(Item(item_id="i"))
    replica = Replica(kafka, topics.items.name, take)
    await replica.start()
    async with asyncio.timeout(WAIT_S):
        for wait in (replica.wait, replica.caught_up, replica.wait):
            with pytest.raises(told, match=match):
                await wait()
    await replica.stop()


async def test_a_stopped_replica_ends_its_waiters_without_an_error(
    kafka: str, topics: TopicSet
) -> None:
    replica = Replica(kafka, topics.items.name, Catalogue().take)
    with pytest.raises(StreamsError, match="not started"):
        await replica.wait()
    await replica.start()
    waiting = asyncio.create_task(replica.wait())
    await replica.stop()
    async with asyncio.timeout(WAIT_S):
        await waiting


async def test_a_missing_topic_is_named(kafka: str) -> None:
    with pytest.raises(TopicMissing, match="not-there"):
        await Replica(kafka, "not-there", Catalogue().take).start()


async def test_consumer_replica_and_producer_survive_a_broker_that_comes_back(
    broker: KafkaServer, generation: str
) -> None:
    topics = TopicSet(generation, partitions=1)
    await ensure_topics(broker.bootstrap, topics.all())

    async def assigned(partitions: list[int]) -> dict[int, int]:
        return dict.fromkeys(partitions, 0)

    async def revoked(partitions: list[int]) -> None:
        pass

    config = ConsumerConfig(broker.bootstrap, topics.events.name, generation, "worker")
    consumer = BatchConsumer(config, assigned, revoked)
    catalogue = Catalogue()
    replica = Replica(broker.bootstrap, topics.items.name, catalogue.take)
    async with Producer(broker.bootstrap, topics) as producer:
        await producer.send_event(Click(user_id="u", ts=1, item_id="i"))
        await consumer.start()
        await until(lambda: consumer.assigned() == {0}, "an assignment")
        async with asyncio.timeout(WAIT_S):
            assert (await consumer.next_batch(0, 10)).end == 1
        await replica.start()
        await asyncio.to_thread(broker.stop)
        # Sent while nobody is there: waits, is not lost, and is not sent twice.
        sending = asyncio.create_task(producer.send_event(Click(user_id="u", ts=2, item_id="i")))
        await until(lambda: consumer.fetch_age_s() > 1, "the broker to be missed")
        assert consumer.progress_age_s() < 5  # alive, though not ready
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(WAIT_S):
            await sending
            position = 1
            while position < 2:
                try:
                    position = (await consumer.next_batch(0, 10)).end
                except PartitionRevoked:  # the group deals anew, and gives it back
                    await asyncio.sleep(0.05)
            assert position == 2
            await producer.send_item(Item(item_id="late"))
        await until(lambda: b"late" in catalogue.items, "the item sent after the restart")
        await replica.stop()
        await consumer.stop(leave=True)
