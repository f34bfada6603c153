"""Doctor on the log: another log, gaps, lag, an old snapshot, clocks that differ."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka.admin import RecordsToDelete

from agents.doctor import log as checks
from agents.doctor.finding import Bench, Finding
from agents.store_access import store_of
from profiles.store_link import pack
from streams.codec import encode
from streams.delivery import Delivery, OutMessage
from streams.events import ProfileChange
from streams.topics import TopicSet, admin_client
from tests.builders import InProcess, all_folded, put_events, settings_of, stream_of


@pytest_asyncio.fixture
async def bench(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> AsyncIterator[Bench]:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    made = Bench(settings, settings.topics(), store_of(settings))
    await made.store.start()
    yield made
    await made.store.close()


def bad(findings: list[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.level != "ok"]
    for finding in found:
        assert finding.why, finding
        assert finding.remedy, finding
    return found


async def folded(bench: Bench, n: int = 300) -> None:
    """Events, folded by a worker that has stopped in order."""
    await put_events(bench.settings, stream_of(n, seed=3))
    async with InProcess(bench.settings):
        await all_folded(bench.settings)


async def change(bench: Bench, partition: int, **fields: object) -> None:
    """Write into a checkpoint what no worker wrote."""
    flat = [part for name, value in fields.items() for part in (name, str(value))]
    key = bench.store.keys.checkpoint[partition]
    await bench.store._pool.ask_slot(
        bench.store.keys.slot[partition], [pack("HSET", key, *flat)], 1, "test"
    )


async def test_what_a_stopped_worker_leaves_is_in_order(bench: Bench) -> None:
    assert bad(await checks.identity(bench)) == bad(await checks.lag(bench)) == []
    assert bad(await checks.snapshot(bench)) == bad(await checks.broker_clock(bench)) == []
    await folded(bench)
    assert bad(await checks.identity(bench)) == []
    assert bad(await checks.lag(bench)) == []
    assert bad(await checks.snapshot(bench)) == []
    assert bad(await checks.broker_clock(bench)) == []


async def test_another_log_and_a_log_with_gaps_are_told_apart(bench: Bench) -> None:
    await folded(bench)
    topic = bench.topics.events.name
    checkpoints = [await bench.store.read_checkpoint(p) for p in range(4)]
    await change(bench, 0, log_cluster_id="elsewhere")
    await change(bench, 1, log_last_key_hash=1)
    last = checkpoints[2]
    assert last is not None
    await change(bench, 2, next_offset=last.next_offset + 1_000)
    async with admin_client(bench.settings.kafka) as admin:
        end = (checkpoints[3] or last).next_offset
        await admin.delete_records({TopicPartition(topic, 3): RecordsToDelete(end)})
    await change(bench, 3, next_offset=1)
    found = {
        finding.finding.split(" (")[0]: finding for finding in bad(await checks.identity(bench))
    }
    assert {finding.level for finding in found.values()} == {"error"}
    texts = sorted(found)
    assert len(texts) == 4
    assert any(text.startswith("partitions 0 were folded from") for text in texts)
    assert "partitions 1 hold another event where the last one was folded" in texts
    assert "partitions 2 end before what was folded: the log lost its end" in texts
    assert "partitions 3 no longer hold the next event: retention has taken it" in texts


async def test_lag_counts_from_when_the_oldest_event_waits(bench: Bench, monkeypatch) -> None:
    await put_events(bench.settings, stream_of(100, seed=4))
    assert bad(await checks.lag(bench)) == []  # they have only just arrived
    monkeypatch.setattr(checks, "LAG_MS", -1)
    (late,) = bad(await checks.lag(bench))
    assert late.finding.startswith("100 offsets on 4 partitions, the oldest event has waited")


async def test_an_old_snapshot_and_none_are_named(bench: Bench, monkeypatch) -> None:
    await folded(bench)
    monkeypatch.setattr(checks, "SNAPSHOT_MS", -1)
    quick = bench.settings.model_copy(update={"item_snapshot_interval_s": 0.0})
    late = Bench(quick, bench.topics, bench.store)
    assert bad(await checks.snapshot(late)) == []  # a stop in order writes one
    key, slot = bench.store.keys.manifest, bench.store.keys.slot[0]
    await bench.store._pool.ask_slot(
        slot, [pack("HSET", key, "next_offsets", '{"0":1,"1":1,"2":1,"3":1}')], 1, "test"
    )
    (old,) = bad(await checks.snapshot(late))
    assert old.finding.startswith("it is old: 296 folded offsets are not in it")
    await bench.store._pool.ask_slot(slot, [pack("UNLINK", key)], 1, "test")
    (none,) = bad(await checks.snapshot(late))
    assert none.finding.startswith("there is none")


async def test_clocks_that_differ_are_found_by_what_they_stamped(bench: Bench) -> None:
    topic = bench.topics.profile_changes.name
    delivery = Delivery(bench.settings.kafka, bench.topics.all(), "skewed", None)
    await delivery.start()
    ahead_ms = time.time_ns() // 1_000_000 + 60_000  # a worker whose clock is a minute ahead
    one = ProfileChange(partition=0, next_offset=1, folded_ms=ahead_ms, users=[])
    await delivery.deliver([OutMessage(topic, encode(one), b"0", (), p) for p in range(4)])
    await delivery.stop()
    (skewed,) = bad(await checks.broker_clock(bench))
    assert "behind the workers'" in skewed.finding


async def test_an_announcement_said_again_is_no_clock_that_differs(bench: Bench) -> None:
    topic = bench.topics.profile_changes.name
    delivery = Delivery(bench.settings.kafka, bench.topics.all(), "again", None)
    await delivery.start()
    for age_ms in (0, 60_000, 60_000):  # what was in the outboxes of a worker that starts again
        folded_ms = time.time_ns() // 1_000_000 - age_ms
        one = ProfileChange(partition=0, next_offset=1, folded_ms=folded_ms, users=[])
        await delivery.deliver([OutMessage(topic, encode(one), b"0", (), 0)])
    await delivery.stop()
    assert bad(await checks.broker_clock(bench)) == []
