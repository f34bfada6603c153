"""RecentMessages: the last messages of a topic, whenever a page asks; no group, no commits.

One client for each topic, opened when first asked and shared by all browsers; one look at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from streams.batch import Message
from streams.errors import BrokerAway
from streams.reader import kafka_consumer, start_client, stop_consumer
from streams.topics import Topic

Answer = TypeVar("Answer")

ANSWER_S = 3.0
"""A page waits this long for the broker; then it says so, and asks again later."""


class RecentMessages:
    """Reads the end of one topic."""

    def __init__(self, bootstrap: str, topic: Topic, answer_s: float = ANSWER_S) -> None:
        """answer_s: longest wait for a look, connecting included."""
        self._bootstrap = bootstrap
        self._answer_s = answer_s
        self._topic = topic.name
        self._n_partitions = topic.partitions or 1
        self._consumer: Any = None
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        """Close the client, if one was opened."""
        async with self._turn:
            await self._drop()

    async def ends(self) -> dict[int, int]:
        """Where each partition ends now: a cheap question that only a broker at work answers.

        Raises BrokerAway.
        """
        async with self._turn:
            return await self._limited(self._ends())

    async def last(self, n: int, partition: int | None = None) -> list[Message]:
        """Up to n messages from the end of each partition (or of one), newest first.

        Raises BrokerAway.
        """
        async with self._turn:
            return await self._limited(self._last(n, partition))

    async def _limited(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        try:
            return await asyncio.wait_for(work, self._answer_s)
        except (TimeoutError, KafkaError, OSError) as error:
            await self._drop()
            raise BrokerAway(
                f"no answer from Kafka at {self._bootstrap} about {self._topic}: {error!r}"
            ) from error

    async def _opened(self) -> Any:
        if self._consumer is None:
            consumer = kafka_consumer(self._bootstrap, "foldstream-dashboard")
            await start_client(consumer, self._bootstrap)  # closes it, whatever ends the start
            consumer.assign(self._partitions(None))
            consumer.pause(*self._partitions(None))
            self._consumer = consumer
        return self._consumer

    async def _drop(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await stop_consumer(consumer)

    def _partitions(self, partition: int | None) -> list[TopicPartition]:
        numbers = range(self._n_partitions) if partition is None else [partition]
        return [TopicPartition(self._topic, number) for number in numbers]

    async def _ends(self) -> dict[int, int]:
        consumer = await self._opened()
        ends = await consumer.end_offsets(self._partitions(None))
        return {tp.partition: end for tp, end in ends.items()}

    async def _last(self, n: int, partition: int | None) -> list[Message]:
        consumer = await self._opened()
        partitions = self._partitions(partition)
        begins = await consumer.beginning_offsets(partitions)
        ends = await consumer.end_offsets(partitions)
        wanted = [tp for tp in partitions if ends[tp] > begins[tp]]
        for tp in wanted:
            consumer.seek(tp, max(begins[tp], ends[tp] - n))
            consumer.resume(tp)
        found: list[Message] = []
        unread = list(wanted)
        # Half the time limit: a batch that was compacted away must not make a page wait.
        give_up_s = time.monotonic() + self._answer_s / 2
        while unread and time.monotonic() < give_up_s:
            fetched = await consumer.getmany(*unread, timeout_ms=200)
            for records in fetched.values():
                found += records
            unread = [tp for tp in unread if await consumer.position(tp) < ends[tp]]
        consumer.pause(*wanted)  # or it would go on fetching what nobody asks for
        return sorted(found, key=lambda record: record.timestamp, reverse=True)
