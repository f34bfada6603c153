"""Ingest: every accepted line becomes its events, and a run that was stopped goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.ingest import IngestPlan, IngestReport, IngestState, ingest, state_path
from streams.bulk import BulkProducer
from streams.mappings.reader import EventFile, FileScan, scan_file
from streams.tailing import TopicTail
from streams.topics import TopicSet

N_LINES = 30_000


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    """`N_LINES` clicks, 10 ms apart."""
    path = tmp_path / "clicks.csv"
    rows = (f"{1_000_000 + 10 * n},s{n % 700},i{n % 90}\n" for n in range(N_LINES))
    path.write_text("ts_ms,session_id,item_id\n" + "".join(rows))
    return path


def plan_for(topics: TopicSet, **options: Any) -> IngestPlan:
    return IngestPlan(events_topic=topics.events.name, items_topic=topics.items.name, **options)


async def send(
    kafka: str,
    path: Path,
    plan: IngestPlan,
    on_line: Callable[[int], None] = lambda line: None,
) -> IngestReport:
    scan = scan_file(path)
    file = EventFile(path, scan.sha256)
    producer = BulkProducer(kafka)
    await producer.start()
    try:
        state = state_path(path.parent, file, scan, plan)
        return await ingest(file, scan, producer, plan, state, on_line)
    finally:
        await producer.stop()


async def events_of(kafka: str, topic: str) -> list[dict[str, Any]]:
    async with TopicTail(kafka, topic, from_beginning=True, follow=False) as tail:
        return [
            msgspec.json.decode(record.value)
            async for records in tail.records()
            for record in records
        ]


async def test_every_accepted_line_is_sent_once(kafka: str, topics: TopicSet, clicks: Path) -> None:
    report = await send(kafka, clicks, plan_for(topics))
    found = await events_of(kafka, topics.events.name)
    assert report.accepted == report.sent_events == len(found) == N_LINES
    assert len({event["event_id"] for event in found}) == N_LINES


async def test_a_stopped_run_goes_on_and_leaves_nothing_out(
    kafka: str, topics: TopicSet, clicks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.ingest.CHECKPOINT_S", 0.0)

    def stop_after_two_thirds(line: int) -> None:
        if line > N_LINES * 2 // 3:
            raise KeyboardInterrupt

    # In a thread with a loop of its own: the interrupt ends the run as a signal would.
    with pytest.raises(KeyboardInterrupt):
        await asyncio.to_thread(
            lambda: asyncio.run(send(kafka, clicks, plan_for(topics), stop_after_two_thirds))
        )
    report = await send(kafka, clicks, plan_for(topics))
    assert 0 < report.resumed_at_line <= N_LINES * 2 // 3 + 1
    assert report.sent_events == N_LINES - (report.resumed_at_line - 1)
    found = await events_of(kafka, topics.events.name)
    assert len({event["event_id"] for event in found}) == N_LINES


async def test_a_finished_run_begins_anew(kafka: str, topics: TopicSet, clicks: Path) -> None:
    await send(kafka, clicks, plan_for(topics, limit=10))
    again = await send(kafka, clicks, plan_for(topics, limit=10))
    assert (again.resumed_at_line, again.sent_events) == (0, 10)


async def test_restart_forgets_an_unfinished_run(
    kafka: str, topics: TopicSet, clicks: Path
) -> None:
    plan = plan_for(topics, limit=10)
    scan = scan_file(clicks)
    state = state_path(clicks.parent, EventFile(clicks, scan.sha256), scan, plan)
    state.write_bytes(msgspec.json.encode(IngestState(line=6, shift_ms=0)))
    resumed = await send(kafka, clicks, plan)
    assert (resumed.resumed_at_line, resumed.sent_events) == (6, 5)
    state.write_bytes(msgspec.json.encode(IngestState(line=6, shift_ms=0)))
    assert (await send(kafka, clicks, plan_for(topics, limit=10, restart=True))).sent_events == 10


async def test_another_mapping_does_not_go_on_where_the_first_stopped(
    topics: TopicSet, clicks: Path, tmp_path: Path
) -> None:
    mapping = tmp_path / "mine.toml"
    mapping.write_text(
        'header = []\n[[events]]\ntype = { value = "cart" }\nuser_id = "session_id"\n'
        'item_id = "item_id"\nts = "ts_ms"\n'
    )
    scan = FileScan("0" * 64, 1)
    files = [EventFile(clicks, scan.sha256), EventFile(clicks, scan.sha256, str(mapping))]
    places = {state_path(tmp_path, file, scan, plan_for(topics)) for file in files}
    assert len(places) == 2


async def test_retime_puts_the_last_event_at_now(
    kafka: str, topics: TopicSet, clicks: Path
) -> None:
    before_ms = int(time.time() * 1_000)
    await send(kafka, clicks, plan_for(topics, retime=True, limit=100))
    after_ms = int(time.time() * 1_000)
    times = sorted(event["ts"] for event in await events_of(kafka, topics.events.name))
    assert before_ms <= times[-1] <= after_ms
    assert times[-1] - times[0] == 99 * 10


async def test_a_pace_keeps_the_recorded_distances(
    kafka: str, topics: TopicSet, clicks: Path
) -> None:
    report = await send(kafka, clicks, plan_for(topics, speed=2.0, retime=True, limit=101))
    assert report.seconds >= 0.5  # 1 s of recorded time, twice as fast
    times = sorted(event["ts"] for event in await events_of(kafka, topics.events.name))
    assert abs(times[-1] - times[0] - 500) <= 1
