"""A client's request finds its own answer among everybody's."""

from __future__ import annotations

import asyncio

import pytest

from agents.requests import Requester
from streams.codec import decode_request
from streams.events import Recommendation, RecommendRequest, Stamps
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.topics import TopicSet


def answer(request_id: str, user_id: str = "u") -> Recommendation:
    return Recommendation(
        recommendation_id=request_id,
        request_id=request_id,
        user_id=user_id,
        placement="home",
        kind="recommend",
        items=[],
        model="m",
        stamps=Stamps(scored_ms=1, emitted_ms=1),
    )


async def test_the_answer_with_the_requests_id_is_taken(kafka: str, topics: TopicSet) -> None:
    async with (
        Producer(kafka, topics) as producer,
        TopicTail(kafka, topics.requests.name) as asked,
        Requester(kafka, topics) as requester,
    ):
        asking = asyncio.create_task(
            requester.ask(RecommendRequest(request_id="mine", user_id="u"), 30)
        )
        async for records in asked.records():
            assert [decode_request(record.value).request_id for record in records] == ["mine"]
            break
        await producer.send_recommendation(answer("another"))
        await producer.send_raw(topics.recommendations.name, b"{", b"u")
        await producer.send_recommendation(answer("mine"))
        assert (await asking).recommendation_id == "mine"


async def test_nobody_answers_in_time(kafka: str, topics: TopicSet) -> None:
    async with Requester(kafka, topics) as requester:
        with pytest.raises(TimeoutError):
            await requester.ask(RecommendRequest(request_id="r", user_id="u"), 0.3)
