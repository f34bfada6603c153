"""Reading without a group: chosen partitions, single messages."""

from __future__ import annotations

import asyncio

import pytest
from aiokafka import AIOKafkaProducer

from streams.errors import OffsetGap, PartitionRevoked
from streams.manual_reader import ManualReader
from streams.topics import TopicSet

WAIT_S = 30.0


async def fill(kafka: str, topic: str, n: int, partition: int) -> None:
    sender = AIOKafkaProducer(bootstrap_servers=kafka)
    await sender.start()
    for i in range(n):
        await sender.send(topic, b"%d" % i, partition=partition)
    await sender.stop()


async def test_two_readers_of_one_partition_do_not_disturb_each_other(
    kafka: str, topics: TopicSet
) -> None:
    topic = topics.events.name
    await fill(kafka, topic, 20, 0)
    readers = [ManualReader(kafka, topic), ManualReader(kafka, topic)]
    try:
        for start, reader in zip((0, 5), readers, strict=True):
            await reader.start()
            reader.assign({0: start})
        async with asyncio.timeout(WAIT_S):
            assert len(await readers[0].next_batch(0, 100)) == 20
            assert len(await readers[1].next_batch(0, 100)) == 15
            with pytest.raises(PartitionRevoked):
                await readers[0].next_batch(1, 100)
    finally:
        for reader in readers:
            await reader.stop()


async def test_one_message_is_read_without_moving_anything(kafka: str, topics: TopicSet) -> None:
    topic = topics.events.name
    await fill(kafka, topic, 10, 0)
    reader = ManualReader(kafka, topic)
    await reader.start()
    try:
        reader.assign({0: 0})
        async with asyncio.timeout(WAIT_S):
            batch = await reader.next_batch(0, 4)
            assert batch.end == 4
            found = await asyncio.gather(*[reader.read_one(0, offset) for offset in (7, 0, 9)])
            assert [message.value for message in found if message] == [b"7", b"0", b"9"]
            assert await reader.read_one(0, 10) is None  # the end
            assert await reader.read_one(1, 0) is None  # an empty partition
            assert (await reader.next_batch(0, 4)).start == 4
    finally:
        await reader.stop()


async def test_a_marker_or_an_aborted_message_is_not_there(kafka: str, topics: TopicSet) -> None:
    topic = topics.events.name
    sender = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topics.prefix)
    await sender.start()
    async with sender.transaction():
        await sender.send(topic, b"kept", partition=0)
    await sender.begin_transaction()
    await sender.send_and_wait(topic, b"aborted", partition=0)
    await sender.abort_transaction()
    async with sender.transaction():
        await sender.send(topic, b"kept too", partition=0)
    await sender.stop()
    reader = ManualReader(kafka, topic)
    await reader.start()
    try:
        there = [await reader.read_one(0, offset) for offset in range(6)]
        assert [message and message.value for message in there] == [
            b"kept",
            None,
            None,
            None,
            b"kept too",
            None,
        ]
    finally:
        await reader.stop()


async def test_what_lies_before_an_offset_is_read_back_over_gaps(
    kafka: str, topics: TopicSet
) -> None:
    topic = topics.events.name
    sender = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topics.prefix)
    await sender.start()
    for number in range(8):  # offsets 0, 2, 4, ...: a marker behind each
        async with sender.transaction():
            await sender.send(topic, b"%d" % number, partition=0)
    await sender.stop()
    reader = ManualReader(kafka, topic)
    await reader.start()
    try:

        async def before(next_offset: int, n: int) -> list[bytes | None]:
            portions = reader.read_before(0, next_offset, n)
            return [record.value async for records in portions for record in records]

        assert await before(9, 5) == [b"2", b"3", b"4"]
        assert await before(16, 1_000) == [b"%d" % number for number in range(8)]
        assert await before(0, 1_000) == []
    finally:
        await reader.stop()


async def test_an_offset_out_of_range_stops_a_manual_reader_too(
    kafka: str, topics: TopicSet
) -> None:
    reader = ManualReader(kafka, topics.events.name)
    await reader.start()
    try:
        reader.assign({0: 3})
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(OffsetGap, match=r"offset 3 .* holds 0 to 0"):
                await reader.next_batch(0, 10)
    finally:
        await reader.stop()
