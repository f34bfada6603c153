"""The bulk producer: every message once, in order, on the partition of its key."""

from __future__ import annotations

from typing import Any

import pytest

from streams.bulk import BATCH_BYTES, BulkProducer
from streams.errors import BrokerAway
from streams.partitioner import partition_of
from streams.tailing import TopicTail
from streams.topics import TopicSet


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
