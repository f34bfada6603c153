"""Whatever writes to the events topic: what is an event is folded, what is none is set aside."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from aiokafka import AIOKafkaProducer
from confluent_kafka import Producer as ConfluentProducer

from agents.settings import Settings
from streams.codec import encode
from streams.dead_letters import read_info
from streams.producer import Producer
from streams.topics import TopicSet
from tests.builders import (
    BASE_MS,
    InProcess,
    all_folded,
    click,
    messages_of,
    profile_of,
    put_events,
    put_raw,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
    user_on,
)
from tests.pipeline.conftest import Tool


def lags(running: InProcess) -> list[int | None]:
    assert running.worker.updater is not None
    return [running.worker.updater.lag(partition) for partition in range(4)]


async def test_aborted_transactions_are_not_folded_and_the_lag_reaches_zero(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    topic = topics.events.name
    kept = 0
    async with InProcess(settings) as running:
        sender = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=generation)
        await sender.start()
        try:
            for turn in range(6):
                await sender.begin_transaction()
                for number in range(40):
                    event = click(f"u{number}", f"i{turn}", event_id=f"{turn}-{number}")
                    await sender.send(topic, encode(event), event.user_id.encode())
                await sender.flush()
                if turn % 2:
                    await sender.abort_transaction()
                else:
                    await sender.commit_transaction()
                    kept += 40
        finally:
            await sender.stop()
        await all_folded(settings)
        await until(lambda: lags(running) == [0, 0, 0, 0], "the lag is 0")
    state = await state_of(settings)
    assert state.n_events == kept
    assert max(state.last_offset.values()) > kept / 4  # there are gaps
    assert (await rebuilt(settings)).agrees


async def test_events_of_kafkas_console_producer_are_folded(
    kafka: str,
    redis_url: str,
    topics: TopicSet,
    generation: str,
    tmp_path: Path,
    kafka_tool: Tool,
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    users = [f"u{number}" for number in range(20)]
    lines = [f"{user}\t{encode(click(user, 'i1')).decode()}" for user in users]
    await asyncio.to_thread(
        kafka_tool,
        "ConsoleProducer",
        *("--topic", topics.events.name),
        *("--reader-property", "parse.key=true"),
        stdin="\n".join(lines) + "\n",
    )
    async with InProcess(settings):
        await all_folded(settings)
    assert set((await state_of(settings)).last_offset) == set(users)
    for user in users:
        assert await profile_of(settings, user)  # on the partition where a client looks for it


async def test_events_of_librdkafka_with_murmur2_are_folded(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    users = [f"u{number}" for number in range(50)]

    def send() -> None:
        sender = ConfluentProducer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
        for user in users:
            sender.produce(topics.events.name, encode(click(user, "i1")), key=user.encode())
        assert sender.flush(30) == 0

    await asyncio.to_thread(send)
    async with InProcess(settings):
        await all_folded(settings)
    for user in users:
        profile = await profile_of(settings, user)
        assert profile is not None
        assert profile.n_events == 1


async def test_a_cloud_event_in_binary_mode_is_folded_once(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"e1"),
        ("ce_source", b"/shop"),
        ("ce_type", b"com.example.shop.purchase"),
        ("ce_time", b"2025-06-15T12:00:00Z"),
        ("content-type", b"application/json"),
    ]
    async with Producer(kafka, topics) as producer, InProcess(settings):
        for _ in range(2):
            await producer.send_raw(topics.events.name, b'{"item_id": "i1"}', b"u1", headers)
        await all_folded(settings)
    profile = await profile_of(settings, "u1")
    assert profile is not None
    assert (profile.n_events, profile.last_ms) == (1, 1_749_988_800_000)


BAD = {
    "invalid_json": b"{not json",
    "invalid_utf8": b'{"type":"click","user_id":"u0","item_id":"\xff","ts":1}',
    "invalid_event": b'{"type":"click","user_id":"u0","item_id":"i","ts":-1}',
    "empty_value": None,
    "key_mismatch": encode(click("somebody", "i")),
    "too_deep": b'{"type":"click","user_id":"u0","item_id":"i","ts":1,"x":' + b"[" * 5_000,
    "unknown_type": b'{"type":"gaze","user_id":"u0","ts":1}',
    "not_supported_yet": b'{"type":"forget","user_id":"u0","ts":1}',
}
"""Reason code -> a message that is refused for it, under the key ``u0``."""


async def test_what_is_no_event_becomes_a_dead_letter_and_the_rest_is_folded(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    good = stream_of(500, seed=1)
    await put_events(settings, good[:250])
    await put_raw(settings, ((b"u0", value) for value in BAD.values()))
    async with Producer(kafka, topics) as producer:
        event = encode(click("u0", "i"))
        await producer.send_raw(topics.events.name, event, None, partition=0)
    await put_events(settings, good[250:])
    async with InProcess(settings) as running:
        await all_folded(settings)
        assert running.metric("foldstream_dead_letters_total", code="too_deep") == 1
    assert (await state_of(settings)).n_events == len(good)
    letters = await messages_of(settings, topics.dead_letters.name)
    found = {}
    for letter in letters:
        info = read_info(letter.headers)
        assert info is not None
        assert info.topic == topics.events.name
        found[info.code] = letter
    assert set(found) == {*BAD, "missing_key"}
    for code, value in BAD.items():
        assert (found[code].key, found[code].value) == (b"u0", value)


async def test_unknown_types_never_stop_a_partition(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    await put_raw(settings, [(b"u0", BAD["unknown_type"])] * 3_000)
    await put_events(settings, [click("u0", "i1")])
    async with InProcess(settings) as running:
        await all_folded(settings)
        assert running.worker.updater is not None
        assert not running.worker.updater.faults
    assert (await state_of(settings)).n_events == 1


async def test_a_flood_of_bad_messages_stops_its_partition_only(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    flooded = user_on(1, 4)
    await put_events(settings, [click(flooded, "i1")])
    await put_raw(settings, [(flooded.encode(), b"{")] * 2_500)
    others = [user_on(partition, 4) for partition in (0, 2, 3)]
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await until(lambda: set(updater.faults) == {1}, "partition 1 has stopped")
        await put_events(settings, [click(user, "i2") for user in others])

        async def folded() -> bool:
            return all([await profile_of(settings, user) is not None for user in others])

        await until(folded, "the other partitions go on")
        assert set(updater.faults) == {1}
        assert "producer" in updater.faults[1]  # says what to do
    mended = settings.model_copy(update={"flood_stop": False})
    async with InProcess(mended):
        await all_folded(settings)
    assert (await state_of(settings)).n_events == 4
    assert (await rebuilt(settings)).agrees


async def test_an_event_from_the_future_moves_nothing(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    before_ms = time.time_ns() // 1_000_000
    await put_events(settings, [click("u0", "i1", ts=4_102_444_800_000), click("u0", "i2")])
    async with InProcess(settings):
        await all_folded(settings)
    profile = await profile_of(settings, "u0")
    assert profile is not None
    assert before_ms <= profile.last_ms <= before_ms + 120_000
    assert profile.first_ms == BASE_MS


async def test_another_topic_of_the_same_name_is_refused(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    """The topic was deleted and made anew: its offsets mean other events."""
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    await put_events(settings, stream_of(50, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
    await remake(settings)
    await put_events(settings, stream_of(80, seed=2))
    running = InProcess(settings)
    await running.start()
    try:
        await until(lambda: running.crashed, "the worker refuses to go on")
        updater = running.worker.updater
        assert updater is not None
        assert "made anew" in str(updater.consumer.failed.exception())
    finally:
        await running.stop()
    assert (await state_of(settings)).n_events == 50


async def remake(settings: Settings) -> None:
    """Delete the events topic and make an empty one of the same name."""
    from aiokafka.admin import AIOKafkaAdminClient

    from streams.topics import ensure_topics

    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka)
    await admin.start()
    try:
        await admin.delete_topics([settings.topics().events.name])

        async def gone() -> bool:
            return settings.topics().events.name not in await admin.list_topics()

        await until(gone, "the topic is gone")
    finally:
        await admin.close()
    await ensure_topics(settings.kafka, settings.topics().all())
