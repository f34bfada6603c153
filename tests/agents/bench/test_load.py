"""The load is seeded, valid for the published schema, and skewed as stated."""

from __future__ import annotations

from collections import Counter

import msgspec
from aiokafka import AIOKafkaConsumer

from agents.bench.load import Load, fill
from streams.events import Click, event_union
from streams.topics import TopicSet


def test_the_same_seed_draws_the_same_events():
    first = list(Load(seed=3, first_ms=7).clicks(20_500))
    assert first == list(Load(seed=3, first_ms=7).clicks(20_500))
    assert first != list(Load(seed=4, first_ms=7).clicks(20_500))
    assert len(first) == 20_500


def test_every_event_is_one_that_the_product_takes():
    decoder = msgspec.json.Decoder(event_union())
    for number, (key, value) in enumerate(Load(seed=1, first_ms=1_000).clicks(500)):
        event = decoder.decode(value)
        assert isinstance(event, Click)
        assert event.user_id.encode() == key
        assert event.ts == 1_000 + number
        assert event.event_id == f"1-{number}"


def test_items_follow_zipf_and_users_do_not():
    draws = list(Load(seed=1, first_ms=0).draws(100_000))
    items = Counter(item for _, _, item in draws)
    assert 1.7 < items[0] / items[1] < 2.3
    assert 8 < items[0] / items[9] < 12.5
    users = Counter(user for _, user, _ in draws)
    assert max(users.values()) < 20


def test_probe_users_are_the_same_for_the_load_and_for_the_reader():
    load = Load(seed=2, first_ms=0)
    assert load.probes(0.1) == Load(seed=2, first_ms=99).probes(0.1)
    assert len(load.probes(0.1)) == 5_000


async def test_the_topic_holds_every_event_once(kafka: str, topics: TopicSet):
    sent: list[int] = []
    await fill(kafka, topics.events.name, Load(seed=1, first_ms=5), 3_000, sent.append)
    assert sent[-1] == 3_000
    consumer = AIOKafkaConsumer(
        topics.events.name, bootstrap_servers=kafka, auto_offset_reset="earliest"
    )
    await consumer.start()
    values: list[bytes] = []
    try:
        while len(values) < 3_000:
            for records in (await consumer.getmany(timeout_ms=1_000)).values():
                values += [record.value for record in records]
    finally:
        await consumer.stop()
    assert sorted(values) == sorted(value for _, value in Load(seed=1, first_ms=5).clicks(3_000))
