"""SIGKILL of the real program at any moment, SIGSTOP past its session, and graceful stops."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from agents.settings import Settings
from agents.simulate.run import SimulationPlan, SimulationReport, simulate
from agents.simulate.shop import Shop, ShopConfig
from agents.store_access import store_of
from streams.bulk import BulkProducer
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    WorkerProcess,
    all_folded,
    announced,
    positions_of,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
)

N_EVENTS = 200_000
N_KILLS = 10


async def fill(settings: Settings, n_events: int, seed: int) -> SimulationReport:
    """A simulated shop's events, some late, some sent twice, some no events at all."""
    shop = Shop(
        ShopConfig(n_users=5_000, n_items=2_000, seed=seed, late=0.02, repeat=0.02, malformed=0.005)
    )
    report = SimulationReport()
    producer = BulkProducer(settings.kafka)
    await producer.start()
    try:
        plan = SimulationPlan(n_events=n_events, with_catalogue=False)
        await simulate(shop, producer, settings.topics(), plan, report)
    finally:
        await producer.stop()
    return report


@pytest.mark.timeout(400)
async def test_ten_kills_at_any_moment_change_nothing(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    # Batches small enough that a kill finds each step under way.
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=250)
    report = await fill(settings, N_EVENTS, seed=1)
    draw = random.Random(1)
    n_messages = report.messages
    marks = [(kill + draw.random()) / (N_KILLS + 1) * n_messages for kill in range(N_KILLS)]
    async with store_of(settings) as store:
        for mark in marks:
            async with WorkerProcess(settings) as worker:

                async def reached(worker: WorkerProcess = worker, mark: float = mark) -> bool:
                    assert worker.process.alive(), worker.process.log_tail()
                    return sum(await positions_of(store, settings.partitions)) >= mark

                await until(reached, f"message {mark:.0f}", within_s=60)
                await asyncio.sleep(draw.random() * 0.02)
                await worker.kill()
        killed_at = sum(await positions_of(store, settings.partitions))
        assert killed_at < n_messages  # the last kill, too, came in the middle
    async with InProcess(settings) as last:
        await all_folded(settings)
        assert last.metric("foldstream_model_events_lost_total") > 0  # a kill is not silent
    state = await state_of(settings)
    assert state.n_events == N_EVENTS
    check = await rebuilt(settings)
    assert check.agrees
    assert check.digest_rebuilt == state.digest
    told = await announced(settings)
    assert {user: max(offsets) for user, offsets in told.items()} == state.last_offset


async def test_a_graceful_stop_loses_no_learning(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(
        kafka, redis_url, topics, generation, tmp_path, item_snapshot_interval_s=3_600
    )
    await put_events(settings, stream_of(3_000, seed=1))
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await all_folded(settings)
        await worker.terminate()
    async with InProcess(settings) as again:
        await put_events(settings, stream_of(100, seed=2))
        await all_folded(settings)
        assert again.metric("foldstream_model_events_lost_total") == 0
        assert again.metric("foldstream_model_events_relearned_total") == 0
        assert again.worker.model is not None
        assert len(again.worker.model.items.ids) >= 45  # the snapshot was there


async def test_a_stopped_worker_gives_its_partitions_to_the_next_at_once(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(
        kafka, redis_url, topics, generation, tmp_path, session_timeout_ms=120_000
    )
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await worker.terminate()
    other = settings.model_copy(update={"worker_id": "w1"})
    await put_events(settings, stream_of(200, seed=1))
    async with InProcess(other):
        await all_folded(settings, within_s=30)  # not two minutes
    assert (await state_of(settings)).n_events == 200


@pytest.mark.timeout(300)
async def test_a_zombie_is_fenced_and_finds_its_way_back(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=50)
    other = settings.model_copy(update={"worker_id": "w1"})
    events = stream_of(60_000, seed=3)
    async with store_of(settings) as store, WorkerProcess(settings) as zombie:
        await zombie.ready()
        putting = asyncio.create_task(put_events(settings, events))

        async def begun() -> bool:
            return sum(await positions_of(store, settings.partitions)) > 1_000

        await until(begun, "folding has begun")
        zombie.process.pause()
        await putting
        left_at = sum(await positions_of(store, settings.partitions))
        assert left_at < len(events)
        async with InProcess(other) as heir:
            await all_folded(settings)
            zombie.process.resume()

            async def noticed() -> bool:
                fenced = await zombie.metric("foldstream_commits_fenced_total")
                return fenced > 0 or await zombie.metric("foldstream_rebalances_total") > 1

            # Frozen between two commits, it may hear of the loss before it tries the next one.
            await until(noticed, "the zombie's commit was refused, or it lost its partitions")
            # It is a member again, or has ended by itself; in both cases it folds nothing twice.
            more = stream_of(2_000, seed=4)
            await put_events(settings, more)
            await all_folded(settings)
            assert not heir.crashed
        assert zombie.process.alive(), zombie.process.log_tail()
        await put_events(settings, stream_of(500, seed=5))
        await all_folded(settings)  # the heir has gone: the zombie has all partitions again
        n_all = len(events) + len(more) + 500
        assert sum(await positions_of(store, settings.partitions)) == n_all
    state = await state_of(settings)
    assert state.n_events == n_all
    check = await rebuilt(settings)
    assert check.agrees
