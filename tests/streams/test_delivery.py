"""A message that is refused costs nobody but its sender."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import MessageSizeTooLargeError
from aiokafka.structs import TopicPartition

from streams.batch import Message
from streams.delivery import Delivery, OutMessage
from streams.embedded.kafka import KafkaServer
from streams.errors import BrokerAway, MessageTooLarge
from streams.events import Click, RankedItem, Recommendation, Stamps
from streams.manual_reader import ManualReader
from streams.producer import Producer
from streams.topics import TopicSet, admin_client, ensure_topics

WAIT_S = 60.0
LARGE = os.urandom(1_500_000)  # no compression helps it


@pytest_asyncio.fixture
async def producer(kafka: str, topics: TopicSet) -> AsyncIterator[Producer]:
    async with Producer(kafka, topics) as made:
        yield made


async def until_queued(client: Any) -> None:
    accumulator = client.producer._message_accumulator
    deadline = time.monotonic() + WAIT_S
    while not (accumulator._batches or accumulator._pending_batches):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def set_limit(kafka: str, topic: str, max_bytes: int) -> None:
    """Change a topic's limit, as its operator may at any time; returns once it holds.

    What shows that is lost on the topic's last partition.
    """
    async with admin_client(kafka) as admin:
        resource = ConfigResource(
            ConfigResourceType.TOPIC, topic, {"max.message.bytes": str(max_bytes)}
        )
        (response,) = await admin.alter_configs([resource])
    assert response.resources[0][0] == 0
    probe = AIOKafkaProducer(bootstrap_servers=kafka)
    await probe.start()
    deadline = time.monotonic() + WAIT_S
    try:
        last = max(await probe.partitions_for(topic))
        while time.monotonic() < deadline:
            await probe.send_and_wait(topic, b"x" * max_bytes, partition=last, key=b"probe")
    except MessageSizeTooLargeError:
        return
    finally:
        await probe.stop()
    raise AssertionError("the limit was not lowered")


async def read_partition(kafka: str, topic: str, partition: int = 0) -> list[Message]:
    reader = ManualReader(kafka, topic)
    await reader.start()
    try:
        end = (await reader.end_offsets([partition]))[partition]
        reader.assign({partition: 0})
        messages: list[Message] = []
        position = 0
        async with asyncio.timeout(WAIT_S):
            while position < end:
                batch = await reader.next_batch(partition, 1_000)
                position = batch.end
                messages += batch.records
        return messages
    finally:
        await reader.stop()


async def test_a_message_too_large_is_refused_by_name_and_the_next_one_goes_through(
    topics: TopicSet, producer: Producer
) -> None:
    topic = topics.recommendations.name
    before = await producer.send_raw(topic, b"a", b"k", partition=0)
    with pytest.raises(MessageTooLarge, match=f"{topic}.* 1500089 bytes.*max.message") as refused:
        await producer.send_raw(topic, LARGE, b"k", partition=0)
    after = await producer.send_raw(topic, b"b", b"k", partition=0)
    assert after.offset == before.offset + 1
    largest = os.urandom(refused.value.max_bytes)
    await producer.send_raw(topic, largest, b"k", partition=0)
    with pytest.raises(MessageTooLarge):
        await producer.send_raw(topic, largest + b"12345678", b"k", partition=0)


async def test_the_others_of_a_call_go_through(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    def ranked(n: int, item_id: str) -> Recommendation:
        return Recommendation(
            recommendation_id=f"{n}",
            user_id="u",
            placement="home",
            kind="push",
            items=[RankedItem(item_id=item_id, score=1.0, rank=1)],
            profile_offset=n,
            model="m",
            stamps=Stamps(scored_ms=1, emitted_ms=2),
        )

    lists = [ranked(n, "i" * 1_100_000 if n == 3 else "i") for n in range(7)]
    with pytest.raises(MessageTooLarge):
        await producer.send_recommendations(lists)
    messages = [
        message
        for partition in range(4)
        for message in await read_partition(kafka, topics.recommendations.name, partition)
    ]
    assert len(messages) == 6


async def test_a_lowered_limit_hits_only_what_is_above_it(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    """The broker refuses the batch, then all that is numbered behind it, in that partition."""
    topic = topics.recommendations.name
    await producer.send_raw(topic, b"first", b"k", partition=0)
    await set_limit(kafka, topic, 20_000)
    sending = [
        asyncio.create_task(producer.send_raw(topic, value, b"k", partition=partition))
        for value in [b"a", b"b", os.urandom(30_000), b"c", b"d", os.urandom(200_000), b"e"]
        for partition in (0, 1)
    ]
    async with asyncio.timeout(WAIT_S):
        ends = await asyncio.gather(*sending, return_exceptions=True)
    refused = [end for end in ends if isinstance(end, BaseException)]
    assert [type(error) for error in refused] == [MessageTooLarge] * 4
    assert all("max.message.bytes" in str(error) for error in refused)
    for partition in (0, 1):
        values = [message.value for message in await read_partition(kafka, topic, partition)]
        assert sorted(value or b"" for value in values if value != b"first") == sorted(
            [b"a", b"b", b"c", b"d", b"e"]
        )
    await producer.send_raw(topic, b"last", b"k", partition=0)


async def test_small_messages_fit_a_topic_that_takes_small_batches_only(
    kafka: str, topics: TopicSet
) -> None:
    await set_limit(kafka, topics.events.name, 4_096)
    async with Producer(kafka, topics) as producer:
        events = [Click(user_id="u", ts=n, item_id=os.urandom(16).hex()) for n in range(500)]
        assert len(await producer.send_events(events)) == 500


async def test_a_topic_outside_the_set_is_learned_from_its_refusal(
    kafka: str, topics: TopicSet
) -> None:
    await set_limit(kafka, topics.items.name, 10_000)
    delivery = Delivery(kafka, [topics.events], "test", None)
    await delivery.start()
    topic = topics.items.name
    with pytest.raises(MessageTooLarge, match="10000 through"):
        await delivery.deliver([OutMessage(topic, b"x" * 20_000, b"k", partition=0)])
    (small,) = await delivery.deliver([OutMessage(topic, b"x", b"k", partition=0)])
    assert small.offset == 0
    await delivery.stop()


async def test_a_failed_future_of_the_queue_is_seen_too(kafka: str, topics: TopicSet) -> None:
    delivery = Delivery(kafka, topics.all(), "test", None)
    await delivery.start()
    topic = topics.events.name
    await set_limit(kafka, topic, 10_000)
    future = await delivery.queue(OutMessage(topic, b"x" * 20_000, b"k", partition=0))
    with pytest.raises(MessageSizeTooLargeError):
        await future
    await (await delivery.queue(OutMessage(topic, b"x", b"k", partition=0)))
    await delivery.stop()


async def test_a_lost_sequence_is_no_matter(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    """As when the broker forgot this producer, or knows more of it than it knows itself."""
    topic = topics.events.name
    await producer.send_raw(topic, b"0", b"k", partition=0)
    client: Any = producer._delivery._client
    for partition in range(4):  # a hole in the numbers
        place = TopicPartition(topic, partition)
        client.producer._txn_manager.increment_sequence_number(place, 7)
    async with asyncio.timeout(WAIT_S):
        await asyncio.gather(
            *(producer.send_raw(topic, b"%d" % n, b"k", partition=n % 4) for n in range(100))
        )
    assert producer._delivery._client is not client
    values = [message.value for message in await read_partition(kafka, topic, 0)]
    assert values == [b"0", *(b"%d" % n for n in range(0, 100, 4))]


async def test_a_broker_restart_amid_a_stream_loses_and_repeats_nothing(
    broker: KafkaServer, generation: str
) -> None:
    topics = TopicSet(generation, partitions=2)
    await ensure_topics(broker.bootstrap, topics.all())
    topic = topics.events.name
    async with Producer(broker.bootstrap, topics, answer_s=WAIT_S) as producer:
        stopping = asyncio.Event()

        async def stream(partition: int) -> int:
            """Numbers, each once the one before is acknowledged, until told to stop."""
            n = 0
            while not stopping.is_set():
                await producer.send_raw(topic, b"%d" % n, b"k", partition=partition)
                n += 1
            return n

        streams = [asyncio.create_task(stream(partition)) for partition in (0, 1)]
        await producer.send_raw(topics.items.name, b"{}", b"before")
        await asyncio.to_thread(broker.stop)
        await asyncio.to_thread(broker.start)
        async with asyncio.timeout(WAIT_S):
            await producer.send_raw(topics.items.name, b"{}", b"after")
            stopping.set()
            sent = await asyncio.gather(*streams)
    for partition, n_sent in enumerate(sent):
        assert n_sent > 0
        values = [one.value for one in await read_partition(broker.bootstrap, topic, partition)]
        assert values == [b"%d" % n for n in range(n_sent)]


async def test_a_refusal_just_before_the_broker_goes_away(
    broker: KafkaServer, generation: str
) -> None:
    """What waits for the new client waits for the broker, and a stop ends the waiting."""
    topics = TopicSet(generation, partitions=1)
    await ensure_topics(broker.bootstrap, topics.all())
    topic = topics.events.name
    delivery = Delivery(broker.bootstrap, topics.all(), "test", None)
    await delivery.start()
    await set_limit(broker.bootstrap, topic, 10_000)
    refused = await delivery.queue(OutMessage(topic, b"x" * 20_000, b"k"))
    await asyncio.wait((refused,))
    assert isinstance(refused.exception(), MessageSizeTooLargeError)
    await asyncio.to_thread(broker.stop)
    with pytest.raises(BrokerAway):  # no new client can be made
        async with asyncio.timeout(WAIT_S):
            await delivery.deliver([OutMessage(topic, b"x", b"k")])
    await asyncio.to_thread(broker.start)
    async with asyncio.timeout(WAIT_S):
        await delivery.deliver([OutMessage(topic, b"x", b"k")])
    in_flight = await delivery.queue(OutMessage(topic, b"y", b"k"))
    await in_flight
    await asyncio.to_thread(broker.stop)
    waiting = asyncio.create_task(delivery.deliver([OutMessage(topic, b"z", b"k")]))
    # Broken with something in flight: the old client is emptied first, which takes a broker.
    client: Any = delivery._client
    await until_queued(client)
    client.broken = True
    behind = asyncio.create_task(delivery.deliver([OutMessage(topic, b"z", b"k")]))
    await asyncio.sleep(0)
    async with asyncio.timeout(WAIT_S):
        await delivery.stop()
        for task in (waiting, behind):
            with pytest.raises(BrokerAway):
                await task


async def test_each_message_of_a_group_has_its_own_answer(kafka: str, topics: TopicSet) -> None:
    delivery = Delivery(kafka, topics.all(), "each", None)
    await delivery.start()
    name = topics.events.name
    messages = [OutMessage(name, value, b"u") for value in (b"1", bytes(1_100_000), b"2")]
    try:
        first, refused, last = await delivery.deliver_each(messages)
    finally:
        await delivery.stop()
    assert isinstance(refused, MessageTooLarge)
    assert not isinstance(first, Exception)
    assert not isinstance(last, Exception)
    assert last.offset == first.offset + 1
