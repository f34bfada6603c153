"""Asking the scorer: one request out on `requests`, its answer back on `recommendations`."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.codec import decode_recommendation
from streams.errors import DecodeError
from streams.events import Recommendation, Request
from streams.partitioner import partition_of
from streams.producer import Producer
from streams.reader import start_client
from streams.topics import TopicSet


class Requester:
    """A client of the scorer; reads only what is answered after it was opened."""

    def __init__(self, bootstrap: str, topics: TopicSet) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._producer = Producer(bootstrap, topics, client_id="foldstream-requester")

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._producer.stop()

    async def ask(self, request: Request, timeout_s: float) -> Recommendation:
        """Send the request and wait for its answer. Raises TimeoutError and BrokerAway."""
        topic = self._topics.recommendations
        partition = TopicPartition(
            topic.name, partition_of(request.user_id, self._topics.partitions)
        )
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap, enable_auto_commit=False, group_id=None
        )
        await start_client(consumer, self._bootstrap)
        try:
            consumer.assign([partition])
            await consumer.seek_to_end(partition)
            await consumer.position(partition)  # the seek is lazy: fix the end before we ask
            await self._producer.send_request(request)
            async with asyncio.timeout(timeout_s):
                return await self._answer(consumer, request.request_id)
        finally:
            await consumer.stop()

    async def _answer(self, consumer: AIOKafkaConsumer, request_id: str) -> Recommendation:
        while True:
            record = await consumer.getone()
            try:
                answer = decode_recommendation(record.value)
            except DecodeError:
                continue  # somebody else's message on the topic; ours will come
            if answer.request_id == request_id:
                return answer
