"""Worker processes: what a crash ends with, and what lives through a broker that comes back."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions

from agents.cli.common import Exit
from agents.requests import Requester
from agents.settings import Settings
from streams.codec import decode_recommendation
from streams.embedded.kafka import KafkaServer
from streams.events import Recommendation, RecommendRequest
from streams.producer import Producer
from streams.topics import TopicSet, admin_client
from tests.builders import (
    WorkerProcess,
    click,
    messages_of,
    put_events,
    settings_of,
    stream_of,
    until,
)


async def pushed_to(settings: Settings, user_id: str) -> list[Recommendation]:
    """Lists pushed to a user."""
    found = await messages_of(settings, settings.topics().recommendations.name)
    lists = [decode_recommendation(record.value) for record in found if record.value]
    return [ranked for ranked in lists if ranked.user_id == user_id and ranked.kind == "push"]


async def is_answered(settings: Settings) -> bool:
    """Whether a request gets its list."""
    request = RecommendRequest(request_id=uuid.uuid4().hex, user_id="u1", n=5)
    async with Requester(settings.kafka, settings.topics()) as requester:
        try:
            return bool((await requester.ask(request, 5.0)).items)
        except TimeoutError:
            return False


@pytest.mark.timeout(300)
async def test_lists_and_answers_go_on_after_the_broker_came_back(
    redis_url: str,
    generation: str,
    tmp_path: Path,
    broker: KafkaServer,
    broker_topics: TopicSet,
) -> None:
    topics = broker_topics
    settings = settings_of(
        broker.bootstrap, redis_url, topics, generation, tmp_path, agents=["updater", "scorer"]
    )
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await put_events(settings, stream_of(500, seed=1))
        await until(lambda: is_answered(settings), "a request is answered", 60)
        for number, gently in enumerate((True, False)):
            process = broker.process
            await asyncio.to_thread(process.stop if gently else process.kill)
            await asyncio.to_thread(broker.start)
            user = f"came after restart {number}"
            async with Producer(settings.kafka, topics) as producer:
                await producer.send_event(click(user, "i1"))

            async def told(user: str = user) -> bool:
                return bool(await pushed_to(settings, user))

            await until(told, "a list was pushed after the restart", 90)
            await until(lambda: is_answered(settings), "a request is answered after it", 90)
            assert worker.process.alive(), worker.process.log_tail()


@pytest.mark.timeout(300)
async def test_a_worker_that_crashes_ends_with_a_code_and_says_why(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        async with admin_client(kafka) as admin:  # users would be on other partitions
            await admin.create_partitions({topics.events.name: NewPartitions(5)})
        code = await asyncio.to_thread(worker.process.wait, 60.0)
        assert code == Exit.FAILED
        assert topics.events.name in worker.process.log_tail()


@pytest.mark.timeout(300)
async def test_a_worker_that_was_killed_answers_again_without_waiting_for_its_own_session(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(
        kafka,
        redis_url,
        topics,
        generation,
        tmp_path,
        agents=["updater", "scorer"],
        session_timeout_ms=120_000,
    )
    await put_events(settings, stream_of(300, seed=1))
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await until(lambda: is_answered(settings), "a request is answered", 60)

        async def is_written() -> bool:
            return await worker.metric("foldstream_item_snapshots_total") > 0

        await until(is_written, "an item snapshot is written")  # or the next has nothing to show
        await asyncio.to_thread(worker.process.kill)
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await until(lambda: is_answered(settings), "a request is answered by the next", 30)
