"""Answers to requests, where the broker is in the way."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agents.settings import Settings
from streams.codec import decode_recommendation, encode
from streams.embedded.kafka import KafkaServer
from streams.events import RecommendRequest
from streams.topics import TopicSet
from tests.builders import InProcess, messages_of, settings_of, until

ANSWER_S = 1.0
"""For one answer of the broker, in these tests."""


async def one_of(request: RecommendRequest) -> AsyncIterator[bytes]:
    """A stream with this one request."""
    yield encode(request)


async def answers_to(settings: Settings, request_id: str) -> int:
    """How often a request was answered."""
    records = await messages_of(settings, settings.topics().recommendations.name)
    return sum(decode_recommendation(record.value).request_id == request_id for record in records)


@pytest.mark.timeout(120)
async def test_an_answer_that_the_broker_did_not_take_is_sent_again(
    redis_url: str,
    generation: str,
    tmp_path: Path,
    broker: KafkaServer,
    broker_topics: TopicSet,
) -> None:
    settings = settings_of(
        broker.bootstrap,
        redis_url,
        broker_topics,
        generation,
        tmp_path,
        agents=["updater", "scorer"],
        broker_timeout_s=ANSWER_S,
    )
    async with InProcess(settings) as running:
        answerer = running.worker.answerer
        assert answerer is not None
        running.worker.readiness.reached.set()
        running.worker.producer._delivery._client.broken = True  # as if a batch was refused
        os.kill(broker.process.pid, signal.SIGSTOP)  # so that it can't be made anew
        try:
            await answerer.run(one_of(RecommendRequest(request_id="r1", user_id="u1")))
            await asyncio.sleep(3 * ANSWER_S)  # the first try is over
            assert answerer._work
        finally:
            os.kill(broker.process.pid, signal.SIGCONT)

        async def answered() -> bool:
            return bool(await answers_to(settings, "r1"))

        await until(answered, "the request is answered")
        assert running.metric("foldstream_requests_failed_total") == 0
