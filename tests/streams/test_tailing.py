"""Onlookers see a topic from its beginning or from now on, and only committed messages."""

from __future__ import annotations

import asyncio
import time

import pytest
from aiokafka import AIOKafkaProducer

from streams.errors import BrokerAway
from streams.tailing import TopicTail
from streams.topics import TopicMissing, TopicSet
from tests.builders import until


async def test_a_tail_without_follow_ends_at_what_is_there(kafka: str, topics: TopicSet) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(topics.events.name, b"old", key=b"u")
    async with TopicTail(kafka, topics.events.name, from_beginning=True, follow=False) as tail:
        found = [record.value async for records in tail.records() for record in records]
    assert found == [b"old"]


async def test_a_tail_from_now_on_sees_only_what_comes(kafka: str, topics: TopicSet) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
        await producer.send_and_wait(topics.events.name, b"old", key=b"u")
        async with TopicTail(kafka, topics.events.name) as tail:
            await producer.send_and_wait(topics.events.name, b"new", key=b"u")
            async with asyncio.timeout(20):
                records = await anext(aiter(tail.records()))
    assert [record.value for record in records] == [b"new"]


async def test_aborted_messages_are_not_shown(kafka: str, topics: TopicSet) -> None:
    async with AIOKafkaProducer(bootstrap_servers=kafka, transactional_id="tail") as producer:
        await producer.begin_transaction()
        await producer.send_and_wait(topics.events.name, b"aborted", key=b"u")
        await producer.abort_transaction()
        async with producer.transaction():
            await producer.send_and_wait(topics.events.name, b"committed", key=b"u")
    async with TopicTail(kafka, topics.events.name, from_beginning=True, follow=False) as tail:
        found = [record.value async for records in tail.records() for record in records]
    assert found == [b"committed"]


async def test_a_topic_that_is_not_there_is_said_so(kafka: str) -> None:
    with pytest.raises(TopicMissing, match="nowhere does not exist"):
        async with TopicTail(kafka, "nowhere"):
            pass


async def test_no_broker_is_said_so() -> None:
    with pytest.raises(BrokerAway, match=r"no broker at 127.0.0.1:1"):
        async with TopicTail("127.0.0.1:1", "events"):
            pass


async def test_a_tail_begins_at_a_moment(kafka: str, topics: TopicSet) -> None:
    name = topics.requests.name

    async def put(*values: bytes) -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for value in values:
                await producer.send_and_wait(name, value, partition=0)

    async def from_moment(from_ms: int) -> list[bytes]:
        async with TopicTail(kafka, name, from_ms=from_ms, follow=False) as tail:
            return [record.value async for records in tail.records() for record in records]

    await put(b"1", b"2")
    async with TopicTail(kafka, name, from_beginning=True, follow=False) as tail:
        times = [record.timestamp async for records in tail.records() for record in records]
    assert await from_moment(times[0]) == [b"1", b"2"]
    assert await from_moment(times[1] + 1) == []
    await until(lambda: time.time_ns() // 1_000_000 > times[1], "the clock has moved on")
    await put(b"3")
    assert await from_moment(times[1] + 1) == [b"3"]
