"""Dead letters as commands find them: once each, by filters, with their original bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from agents.dead_letters import DeadLetters, Letter, Position, Selection, Where, count, moment_ms
from agents.errors import UsageError
from agents.settings import Settings
from streams.topics import TopicSet, admin_client
from tests.builders import put_raw, set_aside, settings_of

GOOD = b'{"type":"click","user_id":"u1","item_id":"i1","ts":1750000000000}'
BAD = {
    "cut": (b"u1", GOOD[:-3]),
    "no user": (b"u2", b'{"type":"click","item_id":"i2","ts":1}'),
    "unknown": (b"u3", b'{"type":"wish","user_id":"u3","ts":1,"price":[1.5]}'),
    "bytes": (b"u4", b"\xff\x00"),
    "null": (b"u5", None),
}


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path, agents=["catalogue"])


async def select(settings: Settings, selection: Selection) -> list[Letter]:
    topic = settings.topics().dead_letters.name
    async with DeadLetters(settings.kafka, topic) as letters:
        return [letter async for letter in letters.select(selection)]


async def test_each_position_is_given_once_however_often_it_was_set_aside(
    settings: Settings,
) -> None:
    await put_raw(settings, [*BAD.values(), (b"u1", GOOD)])
    assert await set_aside(settings) == 5
    await set_aside(settings)  # as after a crash between the dead letters and the commit
    topic = settings.topics().dead_letters.name
    async with DeadLetters(settings.kafka, topic) as letters:
        found = [letter async for letter in letters.select(Selection())]
        assert letters.n_repeats == 5
    assert {letter.key for letter in found} == {key for key, _ in BAD.values()}
    counts = await count(settings.kafka, topic, Selection())
    assert counts.by_code == {
        "invalid_json": 1,
        "invalid_event": 1,
        "unknown_type": 1,
        "invalid_utf8": 1,
        "empty_value": 1,
    }
    assert sum(counts.by_place.values()) == counts.n == 5


async def test_filters_narrow_by_reason_place_time_and_field(settings: Settings) -> None:
    await put_raw(settings, BAD.values())
    await set_aside(settings)
    everything = await select(settings, Selection())
    by_key = {letter.key: letter for letter in everything}

    async def keys(selection: Selection) -> set[bytes | None]:
        return {letter.key for letter in await select(settings, selection)}

    assert await keys(Selection(codes={"invalid_utf8", "empty_value"})) == {b"u4", b"u5"}
    one = by_key[b"u3"].position
    assert await keys(Selection(positions={one})) == {b"u3"}
    same = {k for k, letter in by_key.items() if letter.position.partition == one.partition}
    assert await keys(Selection(topic=one.topic, partition=one.partition)) == same
    assert await keys(Selection(topic="elsewhere.events")) == set()
    assert await keys(Selection(where=(Where("type", "=", "wish"),))) == {b"u3"}
    assert await keys(Selection(where=(Where("price", "=", "[1.5]"),))) == {b"u3"}
    assert await keys(Selection(where=(Where("key", "~", "u"), Where("item_id", "=", "i2")))) == {
        b"u2"
    }
    assert b"u3" not in await keys(Selection(where=(Where("type", "!=", "wish"),)))
    last_ms = max(letter.set_aside_ms for letter in everything)
    assert await keys(Selection(since_ms=last_ms + 1)) == set()
    assert await keys(Selection(until_ms=last_ms + 1)) == set(by_key)
    assert await keys(Selection(until_ms=1)) == set()


async def test_a_value_left_out_is_fetched_and_its_hash_checked(settings: Settings) -> None:
    large = b'{"type":"wish","text":"' + b"x" * 3_000 + b'"}'
    await put_raw(settings, [(b"u1", large), (b"u2", b"{")])
    await set_aside(settings, max_bytes=1_024)
    (letter,) = await select(settings, Selection(codes={"unknown_type"}))
    assert letter.info.omitted == ["value"]
    assert large not in (letter.value or b"")
    topic = settings.topics().dead_letters.name
    async with DeadLetters(settings.kafka, topic) as letters:
        original = await letters.original(letter)
    assert (original.value, original.key, original.fault) == (large, b"u1", None)
    assert original.fetched
    by_field = Selection(where=(Where("type", "=", "wish"),))
    assert len(await select(settings, by_field)) == 1


async def test_an_original_that_is_gone_or_another_is_said_to_be_so(settings: Settings) -> None:
    large = b"{" + b"x" * 3_000
    await put_raw(settings, [(b"u1", large)])
    await set_aside(settings, max_bytes=1_024)
    (letter,) = await select(settings, Selection())
    wrong = letter.value.replace(hashlib.sha256(large).hexdigest().encode(), b"0" * 64)  # type: ignore[union-attr]
    forged = Letter(letter.info, letter.key, wrong, letter.headers, letter.set_aside_ms)
    names = settings.topics()
    async with DeadLetters(settings.kafka, names.dead_letters.name) as letters:
        original = await letters.original(forged)
        assert "other bytes" in (original.fault or "")
        async with admin_client(settings.kafka) as admin:
            place = TopicPartition(letter.info.topic, letter.info.partition)
            await admin.delete_records({place: RecordsToDelete(letter.info.offset + 1)})
        original = await letters.original(letter)
    assert "retention" in (original.fault or "")


@pytest.mark.parametrize("text", ["", "events", "events/1", "events/a/1", "events/1/-1", "//"])
def test_a_position_that_is_none_is_refused_with_the_way_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match="topic/partition/offset"):
        Position.parse(text, "shop")


@pytest.mark.parametrize("text", ["yesterday", "5x", "", "2026-13-01"])
def test_a_time_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="2h"):
        moment_ms(text, 0)


def test_a_condition_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="field=value"):
        Where.parse("=x")
