"""Replay: to where it came from, edited where need be, judged before it leaves, and once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.dead_letters import Selection, Where
from agents.errors import UsageError
from agents.replay import Edits, Replay, ReplayReport
from agents.replay_ledger import Entry, ReplayBusy, ReplayLedger, read_ledger
from agents.settings import Settings
from streams.dead_letters import REPLAYED_FROM
from streams.delivery import Delivery, OutMessage
from streams.errors import BrokerAway, DecodeError
from streams.topics import TopicSet, ensure_topics
from tests.builders import (
    InProcess,
    all_folded,
    messages_of,
    profile_of,
    put_raw,
    set_aside,
    settings_of,
)

CLICK = {"type": "click", "user_id": "u1", "item_id": "i1", "ts": 1_750_000_000_000}


def wrong(number: int, **changes: Any) -> tuple[bytes, bytes]:
    """A click whose time is text, by users u0 to u4, with an id of its own."""
    user = f"u{number % 5}"
    event = CLICK | {"user_id": user, "event_id": f"e{number}", "ts": "now"} | changes
    return user.encode(), msgspec.json.encode(event)


MENDED = Edits(set_to=[("ts", CLICK["ts"])])


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path)


async def replay(
    settings: Settings, selection: Selection | None = None, edits: Edits | None = None, **how: Any
) -> ReplayReport:
    return await Replay(settings, selection or Selection(), edits or Edits(), **how).run()


async def arrived(settings: Settings) -> list[Any]:
    """Messages on the events topic that came by a replay."""
    records = await messages_of(settings, settings.topics().events.name)
    return [record for record in records if REPLAYED_FROM in dict(record.headers)]


async def test_a_mended_message_returns_to_its_topic_key_and_id_once(settings: Settings) -> None:
    await put_raw(settings, [wrong(number) for number in range(20)])
    await set_aside(settings)
    report = await replay(settings, edits=MENDED)
    assert (report.selected, report.accepted, report.sent, report.n_refused) == (20, 20, 20, 0)
    assert report.without_id == 0
    records = await arrived(settings)
    originals = {
        f"{r.topic}/{r.partition}/{r.offset}".encode(): r
        for r in await messages_of(settings, settings.topics().events.name)
    }
    assert len(records) == 20
    for record in records:
        original = originals[dict(record.headers)[REPLAYED_FROM]]
        assert (record.key, record.partition) == (original.key, original.partition)
        event = msgspec.json.decode(record.value)
        assert event == msgspec.json.decode(original.value) | {"ts": CLICK["ts"]}
    report = await replay(settings, edits=MENDED)
    assert (report.sent_before, report.sent) == (20, 0)
    assert len(await arrived(settings)) == 20
    report = await replay(settings, edits=MENDED, again=True)
    assert (report.sent_before, report.sent) == (0, 20)
    assert len(await arrived(settings)) == 40


async def test_what_would_be_refused_again_is_not_sent_unless_forced(settings: Settings) -> None:
    await put_raw(settings, [wrong(0), (b"u1", b"{"), wrong(2, item_id="i9")])
    await set_aside(settings)
    chosen = Selection(where=(Where("item_id", "!=", "i9"),))
    report = await replay(settings, chosen)
    assert (report.selected, report.sent) == (2, 0)
    assert report.refused == {"invalid_event": 1, "invalid_json": 1}
    assert {left.code for left in report.left} == {"invalid_event", "invalid_json"}
    assert await arrived(settings) == []
    report = await replay(settings, chosen, MENDED, force=True)
    assert (report.accepted, report.forced, report.sent) == (1, 1, 2)
    assert {record.value for record in await arrived(settings)} >= {b"{"}


async def test_a_dry_run_says_the_same_and_leaves_nothing_behind(settings: Settings) -> None:
    await put_raw(settings, [wrong(number) for number in range(3)] + [(b"u", b"\xff")])
    await set_aside(settings)
    report = await replay(settings, edits=MENDED, dry_run=True)
    assert (report.selected, report.accepted, report.sent) == (4, 3, 0)
    assert report.refused == {"invalid_json": 1}
    assert await arrived(settings) == []
    ledger = await read_ledger(settings.kafka, settings.topics().replays)
    assert (ledger.sent, ledger.next_offset) == ({}, 0)


async def test_a_replayed_message_is_folded_once_and_a_repeat_of_it_dropped(
    settings: Settings,
) -> None:
    folding = settings.model_copy(update={"agents": ("updater",)})
    await put_raw(settings, [wrong(number) for number in range(10)])
    async with InProcess(folding) as running:
        await all_folded(settings)
        await replay(settings, edits=MENDED)
        await replay(settings, edits=MENDED, again=True)  # somebody insists
        await all_folded(settings)
        assert running.metric("foldstream_events_repeated_total") == 10
    for user in range(5):
        profile = await profile_of(settings, f"u{user}")
        assert profile is not None
        assert profile.n_events == 2


async def test_a_large_original_is_fetched_for_its_replay(settings: Settings) -> None:
    note = "x" * 5_000
    await put_raw(settings, [wrong(1, note=note), wrong(2)])
    await set_aside(settings, max_bytes=1_024)
    report = await replay(settings, edits=MENDED)
    assert report.sent == 2
    assert any(note.encode() in record.value for record in await arrived(settings))


async def test_a_killed_run_is_settled_by_the_next_and_nothing_leaves_twice(
    settings: Settings,
) -> None:
    """Killed between its messages and its last entry in the ledger; half of them had left."""
    await put_raw(settings, [wrong(number) for number in range(10)])
    await set_aside(settings)
    topics = settings.topics()
    await ensure_topics(settings.kafka, [topics.replays])
    delivery = Delivery(settings.kafka, [*topics.all(), topics.replays], "killed", None)
    await delivery.start()
    killed = ReplayLedger(settings.kafka, topics.replays, delivery)
    await killed.open()
    run = Replay(settings, Selection(), MENDED)
    ready = []

    class Sender:
        async def add(self, one: Any) -> None:
            ready.append(one)

        async def flush(self) -> None:
            ends = await run.ends_of({topics.events.name})
            await killed.begin([one.position for one in ready], ends)
            await delivery.deliver([one.message for one in ready[:5]])

    await run._go_through(killed.state, Sender())  # type: ignore[arg-type]
    for reader, _ in run._readers.values():
        await reader.stop()
    await delivery.stop()
    assert len(await arrived(settings)) == 5
    report = await replay(settings, edits=MENDED, lease_s=0.5)
    assert "5 of a group of 10" in report.settled[0]
    assert (report.sent_before, report.sent) == (5, 5)
    origins = [dict(record.headers)[REPLAYED_FROM] for record in await arrived(settings)]
    assert len(set(origins)) == len(origins) == 10
    assert (await replay(settings, edits=MENDED)).settled == []


async def test_of_two_runs_at_once_one_gives_way_before_it_sends(settings: Settings) -> None:
    await put_raw(settings, [wrong(number) for number in range(10)])
    await set_aside(settings)
    results = await asyncio.gather(
        *(replay(settings, edits=MENDED) for _ in range(3)), return_exceptions=True
    )
    for result in results:
        assert isinstance(result, ReplayReport | ReplayBusy), result
    report = await replay(settings, edits=MENDED, lease_s=0.5)
    assert report.sent_before + report.sent == 10
    origins = [dict(record.headers)[REPLAYED_FROM] for record in await arrived(settings)]
    assert len(origins) == len(set(origins)) == 10


async def test_a_run_that_another_is_ahead_of_sends_nothing(settings: Settings) -> None:
    topics = settings.topics()
    await ensure_topics(settings.kafka, [topics.replays])
    delivery = Delivery(settings.kafka, [topics.replays], "two", None)
    await delivery.start()
    try:
        late = ReplayLedger(settings.kafka, topics.replays, delivery)
        await late.open()
        early = Entry(state="begun", run="early", group="g1", positions=[("t", 0, 1)])
        value = msgspec.json.encode(early)
        await delivery.deliver([OutMessage(topics.replays.name, value, b"early", (), 0)])
        with pytest.raises(ReplayBusy, match="run early"):
            await late.begin([], {})
        with pytest.raises(ReplayBusy):  # and one that comes later waits a while, then says so
            await ReplayLedger(settings.kafka, topics.replays, delivery).open(0.5, patience_s=0.1)
    finally:
        await delivery.stop()


async def test_a_message_without_key_gets_its_users(settings: Settings) -> None:
    topics = settings.topics()
    delivery = Delivery(settings.kafka, topics.all(), "keyless", None)
    await delivery.start()
    value = msgspec.json.encode(CLICK)
    await delivery.deliver([OutMessage(topics.events.name, value, None, (), 2)])
    await delivery.stop()
    await set_aside(settings)
    assert (await replay(settings)).refused == {"missing_key": 1}
    report = await replay(settings, edits=Edits(rekey=True))
    assert (report.sent, report.without_id) == (1, 1)
    (record,) = await arrived(settings)
    assert record.key == b"u1"


async def test_a_broker_that_is_away_is_said_so(settings: Settings) -> None:
    away = settings.model_copy(update={"kafka": "127.0.0.1:1"})
    with pytest.raises(BrokerAway):
        await replay(away)


def test_fields_are_renamed_then_removed_then_set() -> None:
    edits = Edits.parse(
        ["userId=user_id", "gone=x"], ["junk"], ["ts=5", "type=click", "tags=[1]"], rekey=True
    )
    key, value = edits.apply(b"other", b'{"userId":"u7","junk":1,"ts":"a"}')
    assert key == b"u7"
    assert msgspec.json.decode(value or b"") == {
        "user_id": "u7",
        "ts": 5,
        "type": "click",
        "tags": [1],
    }
    untouched = b'{"a": 1e400}'  # no JSON of ours, and nothing is asked of it
    assert Edits().apply(None, untouched) == (None, untouched)
    with pytest.raises(DecodeError, match="nothing to edit"):
        edits.apply(None, b"[1]")
    with pytest.raises(UsageError, match="field=value"):
        Edits.parse(set_to=["ts"])
