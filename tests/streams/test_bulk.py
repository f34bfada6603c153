"""The bulk producer: every message once, in order, on the partition of its key."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streams.bulk import BATCH_BYTES, BulkProducer
from streams.errors import BrokerAway, MessageTooLarge
from streams.partitioner import partition_of
from streams.tailing import TopicTail
from streams.topics import TopicMissing, TopicSet, admin_client
from tests.builders import until


async def read_all(kafka: str, topic: str) -> list[Any]:
    found: list[Any] = []
    async with TopicTail(kafka, topic, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            found += records
    return found


async def test_messages_arrive_once_in_order_on_the_partition_of_their_key(
    kafka: str, topics: TopicSet
) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        for number in range(5_000):
            await producer.put(topics.events.name, b"u%d" % (number % 50), b"%d" % number)
        await producer.flush()
    finally:
        await producer.stop()
    by_key: dict[bytes, list[int]] = {}
    for record in await read_all(kafka, topics.events.name):
        assert record.partition == partition_of(record.key.decode(), topics.partitions)
        by_key.setdefault(record.key, []).append(int(record.value))
    assert by_key == {b"u%d" % user: list(range(user, 5_000, 50)) for user in range(50)}


async def test_a_message_larger_than_a_batch_goes_alone(kafka: str, topics: TopicSet) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        for value in (b"small", b"x" * (2 * BATCH_BYTES), b"small"):
            await producer.put(topics.events.name, b"u", value)
        await producer.flush()
    finally:
        await producer.stop()
    sizes = [len(record.value) for record in await read_all(kafka, topics.events.name)]
    assert sizes == [5, 2 * BATCH_BYTES, 5]


async def test_a_checkpoint_covers_what_was_put_before_it(kafka: str, topics: TopicSet) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        await producer.put(topics.events.name, b"u", b"before")
        await (await producer.checkpoint()).acknowledged()
        assert [record.value for record in await read_all(kafka, topics.events.name)] == [b"before"]
    finally:
        await producer.stop()


async def test_no_broker_is_said_so() -> None:
    with pytest.raises(BrokerAway, match=r"no broker at 127.0.0.1:1"):
        await BulkProducer("127.0.0.1:1").start()


# Refused batches ----------------------------------------------------------------------------


async def set_limit(kafka: str, topic: str, max_bytes: int) -> None:
    async with admin_client(kafka) as admin:
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(max_bytes)})]
        )


def noise(size: int) -> bytes:
    """What zstd can't make smaller."""
    return random.Random(size).randbytes(size)


async def test_a_message_above_its_topics_limit_is_refused_alone(
    kafka: str, topics: TopicSet
) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        await producer.put(topics.events.name, b"u", b"1")
        with pytest.raises(MessageTooLarge, match=r"max\.message\.bytes"):
            await producer.put(topics.events.name, b"u", noise(1_100_000))
        await producer.put(topics.events.name, b"u", b"2")
        await producer.flush()
    finally:
        await producer.stop()
    assert [r.value for r in await read_all(kafka, topics.events.name)] == [b"1", b"2"]


async def test_a_batch_refused_for_its_size_goes_again_in_smaller_ones_and_in_order(
    kafka: str, topics: TopicSet
) -> None:
    """The topic's limit is lowered behind the producer's back, while batches are under way."""
    producer = BulkProducer(kafka)
    await producer.start()
    name = topics.events.name
    try:
        await producer.put(name, b"u", b"-1")
        await producer.flush()
        await set_limit(kafka, name, 20_000)

        async def in_force() -> bool:
            async with admin_client(kafka) as admin:
                (answer,) = await admin.describe_configs(
                    [ConfigResource(ConfigResourceType.TOPIC, name, {"max.message.bytes": ""})]
                )
            return bool(answer.resources[0][4][0][1] == "20000")

        await until(in_force, "the new limit is in force")
        for number in range(400):
            await producer.put(name, b"u", b"%d " % number + noise(1_500 + number))
            if number % 100 == 99:
                await producer.send_open()
        await producer.flush()
        await producer.put(name, b"u", b"400 ")
        await producer.flush()
    finally:
        await producer.stop()
    numbers = [int(r.value.split(b" ")[0]) for r in await read_all(kafka, name)]
    assert numbers == list(range(-1, 401))


async def test_what_no_batch_can_carry_is_named_and_the_others_arrive(
    kafka: str, topics: TopicSet
) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    name = topics.events.name
    try:
        await producer.put(name, b"u", b"0 ")
        await producer.flush()
        await set_limit(kafka, name, 20_000)
        await asyncio.sleep(1.0)  # until the broker's view has it; earlier it would be taken
        for number in range(1, 50):
            size = 15_900 if number == 25 else 100
            await producer.put(name, b"u", b"%d " % number + noise(size))
        await producer.put(name, b"u", b"50 " + noise(30_000))
        with pytest.raises(MessageTooLarge):
            await producer.flush()
        await producer.put(name, b"u", b"51 ")
        await producer.flush()
    finally:
        await producer.stop()
    numbers = [int(r.value.split(b" ")[0]) for r in await read_all(kafka, name)]
    assert numbers == [*range(50), 51]


async def test_a_producer_whose_numbers_the_broker_forgot_goes_on(
    kafka: str, topics: TopicSet
) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    name = topics.events.name
    try:
        for number in range(20):
            await producer.put(name, b"u", b"%d" % number)
        await producer.flush()
        # As if a batch had been lost on the way: the next number is one too high.
        client = await producer._delivery.working()
        partition = partition_of("u", topics.partitions)
        client.producer._txn_manager.increment_sequence_number(TopicPartition(name, partition), 1)
        for number in range(20, 40):
            await producer.put(name, b"u", b"%d" % number)
            await producer.send_open()
        await producer.flush()
    finally:
        await producer.stop()
    assert [int(r.value) for r in await read_all(kafka, name)] == list(range(40))


async def test_a_topic_that_is_not_there_is_said_so_at_once(kafka: str) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        with pytest.raises(TopicMissing, match="nowhere"):
            await producer.put("nowhere.events", b"u", b"1")
    finally:
        await producer.stop()


async def test_what_is_no_event_goes_where_its_sender_says(kafka: str, topics: TopicSet) -> None:
    producer = BulkProducer(kafka)
    await producer.start()
    large = b"x" * 900_000
    try:
        await producer.put_at(topics.events.name, 2, None, b"no key", [("trace", b"\xff")])
        await producer.put_at(topics.events.name, 2, b"\xff", large)
        await producer.put_at(topics.events.name, 2, b"u", None)
        await producer.flush()
    finally:
        await producer.stop()
    found = await read_all(kafka, topics.events.name)
    assert [(r.partition, r.key, r.value) for r in found] == [
        (2, None, b"no key"),
        (2, b"\xff", large),
        (2, b"u", None),
    ]
    assert found[0].headers == (("trace", b"\xff"),)
