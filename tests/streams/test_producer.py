"""What we send lies where it belongs, and as any Kafka client would have put it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiokafka.structs import ConsumerRecord
from confluent_kafka import Producer as ConfluentProducer

from streams.batch import Message, Reject
from streams.codec import EventCodec, decode_change, decode_item, decode_request, encode
from streams.dead_letters import dead_letter, read_info
from streams.events import ChangedUser, Click, Item, ProfileChange, RecommendRequest
from streams.manual_reader import ManualReader
from streams.producer import Producer
from streams.topics import TopicMissing, TopicSet

WAIT_S = 30.0


@pytest_asyncio.fixture
async def producer(kafka: str, topics: TopicSet) -> AsyncIterator[Producer]:
    async with Producer(kafka, topics) as made:
        yield made


async def read_all(kafka: str, topic: str, n_partitions: int = 4) -> list[Message]:
    """Every message of a topic, by partition and offset."""
    reader = ManualReader(kafka, topic)
    await reader.start()
    try:
        ends = await reader.end_offsets(range(n_partitions))
        reader.assign(dict.fromkeys(ends, 0))
        messages: list[Message] = []
        async with asyncio.timeout(WAIT_S):
            for partition, end in ends.items():
                position = 0
                while position < end:
                    batch = await reader.next_batch(partition, 1_000)
                    position = batch.end
                    messages += batch.records
        return messages
    finally:
        await reader.stop()


async def test_an_event_lies_under_its_user_with_the_append_time(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    event = Click(user_id="ü1", ts=1_300_000_000_000, item_id="i", event_id="e")  # of 2011
    where = await producer.send_event(event)
    (message,) = await read_all(kafka, topics.events.name)
    assert (message.partition, message.offset) == (where.partition, where.offset)
    assert EventCodec().decode(message.value, message.key, message.headers).event == event
    assert message.timestamp == where.timestamp > 1_600_000_000_000  # not the event's


async def test_many_events_keep_their_order_within_a_user(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    events = [Click(user_id=f"u{n % 7}", ts=n, item_id="i") for n in range(2_000)]
    acknowledged = await producer.send_events(events)
    assert len(acknowledged) == 2_000
    seen: dict[str, list[int]] = {}
    for message in await read_all(kafka, topics.events.name):
        event = EventCodec().decode(message.value, message.key, message.headers).event
        seen.setdefault(event.user_id, []).append(event.ts)
    assert sum(map(len, seen.values())) == 2_000
    assert all(times == sorted(times) for times in seen.values())


async def test_confluent_with_murmur2_puts_users_on_the_same_partitions(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    users = [f"user-{n}" for n in range(200)] + ["ü", "日本", "a" * 256]
    ours = {
        user: metadata.partition
        for user, metadata in zip(
            users,
            await producer.send_events([Click(user_id=u, ts=1, item_id="i") for u in users]),
            strict=True,
        )
    }

    def send_with_confluent() -> None:
        other = ConfluentProducer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
        for user in users:
            value = encode(Click(user_id=user, ts=2, item_id="i"))
            other.produce(topics.events.name, value, key=user.encode())
        assert other.flush(WAIT_S) == 0

    await asyncio.to_thread(send_with_confluent)
    theirs: dict[str, int] = {}
    for message in await read_all(kafka, topics.events.name):
        event = EventCodec().decode(message.value, message.key, message.headers).event
        if event.ts == 2:
            theirs[event.user_id] = message.partition
    assert theirs == ours
    assert len(set(ours.values())) == 4


async def test_an_announcement_lies_on_the_partition_it_speaks_of(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    for partition in range(4):
        users = [ChangedUser("u", 1, 2, 3)]
        change = ProfileChange(partition=partition, next_offset=2, folded_ms=4, users=users)
        await producer.announce(partition, encode(change))
    for message in await read_all(kafka, topics.profile_changes.name):
        assert decode_change(message.value).partition == message.partition
        assert message.key == b"%d" % message.partition


async def test_items_are_replaced_and_deleted_by_their_id(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    await producer.send_item(Item(item_id="i", title="Kettle"))
    await producer.delete_item("i")
    kept, deleted = await read_all(kafka, topics.items.name)
    assert decode_item(kept.value).title == "Kettle"
    assert kept.key == deleted.key == b"i"
    assert deleted.value is None


async def test_a_request_lies_under_its_user(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    await producer.send_request(RecommendRequest(request_id="r", user_id="u"))
    (message,) = await read_all(kafka, topics.requests.name)
    assert message.key == b"u"
    assert decode_request(message.value).request_id == "r"


async def test_the_largest_dead_letters_fit(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    def reject(value: bytes | None, key: bytes | None, headers: int = 0) -> Reject:
        more = (("h", b"v" * headers),)
        record = ConsumerRecord("e", 1, 5, 1_234, 1, key, value, None, 0, 0, more)
        return Reject(record, "invalid_json", "detail " * 1_000)

    rejects = [
        reject(b"x" * 512 * 1024, b"k" * 64 * 1024, 64 * 1024 - 1),
        reject(b"x" * 1_000_000, b"k"),
        reject(b"\xff", None),
        reject(None, b"k"),
        reject(None, b"k" * 900_000, 900_000),
    ]
    await producer.send_dead_letters(rejects, topics.events.name)
    messages = await read_all(kafka, topics.dead_letters.name)
    assert len(messages) == 5
    for message in messages:
        info = read_info(message.headers)
        assert info is not None
        assert (info.topic, info.partition, info.offset) == (topics.events.name, 1, 5)
    expected = {dead_letter(one, topics.events.name).value for one in rejects}
    assert {message.value for message in messages} == expected


async def test_the_limit_of_dead_letters_is_the_senders_choice(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    values = [b"x" * 1_024, b"x" * 1_025]
    rejects = [
        Reject(ConsumerRecord("e", 1, 5, 1_234, 1, b"k", value, None, 0, 0, ()), "code", "")
        for value in values
    ]
    await producer.send_dead_letters(rejects, topics.events.name, max_bytes=1_024)
    whole, replaced = await read_all(kafka, topics.dead_letters.name)
    assert whole.value == values[0]
    assert replaced.value is not None
    assert json.loads(replaced.value)["bytes"] == 1_025


async def test_missing_topics_are_named_at_the_start(kafka: str) -> None:
    with pytest.raises(TopicMissing, match=r"not-there\.events"):
        await Producer(kafka, TopicSet("not-there")).start()
