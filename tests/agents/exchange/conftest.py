"""The broker and store that the processes of a test share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from profiles.store import ProfileStore, StoreConfig
from streams.producer import Producer
from streams.topics import TopicSet
from tests.agents.exchange.processes import Shop


@pytest_asyncio.fixture
async def shop(
    kafka: str, redis_url: str, topics: TopicSet, generation: str
) -> AsyncIterator[Shop]:
    async with (
        ProfileStore(StoreConfig(redis_url, generation, 2)) as store,
        Producer(kafka, topics) as producer,
    ):
        yield Shop(store, producer, topics)
