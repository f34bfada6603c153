"""Whoever cancels a task of the main path ends the worker: no partition stands still in silence."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from streams.consumer import BatchConsumer, ConsumerConfig
from streams.errors import StreamsError
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
)


async def test_a_cancelled_follower_of_a_partition_ends_the_worker(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=50)
    await put_events(settings, stream_of(3_000, seed=1))
    running = InProcess(settings)
    await running.start()
    updater = running.worker.updater
    assert updater is not None
    await until(lambda: len(updater._tasks) == settings.partitions, "all are followed")
    updater._tasks[2].cancel()
    await until(lambda: running.crashed, "the worker ends")
    await running.abandon()
    async with InProcess(settings) as last:
        await all_folded(settings)
        assert not last.crashed
    assert (await state_of(settings)).n_events == 3_000
    assert (await rebuilt(settings)).agrees


async def test_a_cancelled_take_over_ends_the_consumer(
    kafka: str, topics: TopicSet, generation: str
) -> None:
    waiting = asyncio.Event()

    async def assigned(partitions: list[int]) -> dict[int, int]:
        waiting.set()
        await asyncio.Event().wait()
        return {}

    async def revoked(partitions: list[int]) -> None:
        return None

    consumer = BatchConsumer(
        ConsumerConfig(kafka, topics.events.name, generation), assigned, revoked
    )
    await consumer.start()
    try:
        await asyncio.wait_for(waiting.wait(), 30)
        assert consumer._opening is not None
        consumer._opening.cancel()
        with pytest.raises(StreamsError, match="cancelled"):
            await asyncio.wait_for(asyncio.shield(consumer.failed), 10)
    finally:
        await consumer.stop(leave=True)
