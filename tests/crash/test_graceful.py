"""Graceful stops of the real program; kills and zombies are chaos scenarios (test_chaos.py)."""

from __future__ import annotations

from pathlib import Path

from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    WorkerProcess,
    all_folded,
    put_events,
    settings_of,
    state_of,
    stream_of,
)


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
