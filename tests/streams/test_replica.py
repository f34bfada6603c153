"""A replica has the whole topic, and goes on having it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.batch import Message
from streams.consumer import BatchConsumer, ConsumerConfig
from streams.embedded.kafka import KafkaServer
from streams.errors import PartitionRevoked
from streams.events import Click, Item
from streams.producer import Producer
from streams.replica import Replica
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


async def test_a_missing_topic_is_named(kafka: str) -> None:
    with pytest.raises(TopicMissing, match="not-there"):
        await Replica(kafka, "not-there", Catalogue().take).start()


async def test_consumer_replica_and_producer_survive_a_broker_that_comes_back(
    tmp_path: Path,
) -> None:
    server = KafkaServer(tmp_path / "kafka", ephemeral=False)
    await asyncio.to_thread(server.start)
    try:
        topics = TopicSet("shop", partitions=1)
        await ensure_topics(server.bootstrap, topics.all())

        async def assigned(partitions: list[int]) -> dict[int, int]:
            return dict.fromkeys(partitions, 0)

        async def revoked(partitions: list[int]) -> None:
            pass

        config = ConsumerConfig(server.bootstrap, topics.events.name, "group", "worker")
        consumer = BatchConsumer(config, assigned, revoked)
        catalogue = Catalogue()
        replica = Replica(server.bootstrap, topics.items.name, catalogue.take)
        async with Producer(server.bootstrap, topics) as producer:
            await producer.send_event(Click(user_id="u", ts=1, item_id="i"))
            await consumer.start()
            await until(lambda: consumer.assigned() == {0}, "an assignment")
            async with asyncio.timeout(WAIT_S):
                assert (await consumer.next_batch(0, 10)).end == 1
            await replica.start()
            await asyncio.to_thread(server.stop)
            # Sent while nobody is there: waits, is not lost, and is not sent twice.
            sending = asyncio.create_task(
                producer.send_event(Click(user_id="u", ts=2, item_id="i"))
            )
            await until(lambda: consumer.fetch_age_s() > 1, "the broker to be missed")
            assert consumer.progress_age_s() < 5  # alive, though not ready
            await asyncio.to_thread(server.start)
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
    finally:
        await asyncio.to_thread(server.stop)
