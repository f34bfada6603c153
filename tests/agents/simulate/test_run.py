"""A shop's stream reaches the topics, and its shoppers answer the lists they are shown."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from aiokafka import AIOKafkaProducer

from agents.simulate.run import SimulationPlan, SimulationReport, simulate
from agents.simulate.shop import Shop, ShopConfig
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.events import RankedItem, Recommendation, Stamps
from streams.tailing import TopicTail
from streams.topics import TopicSet


async def read_all(kafka: str, topic: str) -> list[Any]:
    async with TopicTail(kafka, topic, from_beginning=True, follow=False) as tail:
        return [record async for records in tail.records() for record in records]


async def test_stream_and_catalogue_reach_their_topics(kafka: str, topics: TopicSet) -> None:
    config = ShopConfig(n_items=50, late=0.1, repeat=0.1, malformed=0.1)
    producer, report = BulkProducer(kafka), SimulationReport()
    await producer.start()
    await simulate(Shop(config), producer, topics, SimulationPlan(n_events=3_000), report)
    await producer.stop()
    expected = [value for chunk in Shop(config).stream(3_000) for value in chunk.values]
    found = [record.value for record in await read_all(kafka, topics.events.name)]
    assert sorted(found) == sorted(expected)
    assert report.messages == len(found)
    assert len(await read_all(kafka, topics.items.name)) == report.items == 50


async def test_a_rate_is_kept(kafka: str, topics: TopicSet) -> None:
    producer, report = BulkProducer(kafka), SimulationReport()
    await producer.start()
    plan = SimulationPlan(n_events=100, rate=200.0, with_catalogue=False)
    await simulate(Shop(ShopConfig()), producer, topics, plan, report)
    await producer.stop()
    assert report.seconds >= 0.45


async def test_pushed_lists_are_shown_and_clicked(kafka: str, topics: TopicSet) -> None:
    shop = Shop(ShopConfig(n_users=100, n_items=100, events_per_s=50))
    best = [f"i{row}" for row in (-shop.truth("u5")).argsort()[:20]]
    listed = Recommendation(
        recommendation_id="0/1/home",
        user_id="u5",
        placement="home",
        kind="push",
        items=[RankedItem(item_id=item, rank=n, score=1.0) for n, item in enumerate(best)],
        model="test",
        stamps=Stamps(scored_ms=1, emitted_ms=1),
    )
    producer, report = BulkProducer(kafka), SimulationReport()
    await producer.start()
    plan = SimulationPlan(rate=50.0, answer_share=1.0, with_catalogue=False)
    async with (
        AIOKafkaProducer(bootstrap_servers=kafka) as scorer,
        TopicTail(kafka, topics.recommendations.name) as tail,
    ):
        running = asyncio.create_task(simulate(shop, producer, topics, plan, report, tail))
        async with asyncio.timeout(30), TopicTail(kafka, topics.impressions.name) as watched:
            await scorer.send_and_wait(topics.recommendations.name, encode(listed), key=b"u5")
            await anext(aiter(watched.records()))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    await producer.stop()
    shown = [msgspec.json.decode(r.value) for r in await read_all(kafka, topics.impressions.name)]
    assert [(one["recommendation_id"], one["item_ids"]) for one in shown] == [("0/1/home", best)]
    events = [msgspec.json.decode(r.value) for r in await read_all(kafka, topics.events.name)]
    answers = [event for event in events if event.get("request_id") == "0/1/home"]
    assert len(answers) == report.answer_clicks > 0
    assert all(event["item_id"] == best[event["position"]] for event in answers)
