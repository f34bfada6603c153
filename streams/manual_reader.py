"""ManualReader: reads partitions of its own choice, without a group.

For `rebuild` (another generation beside the live one) and for looking at single messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError

from streams.batch import Message
from streams.errors import BrokerAway
from streams.reader import (
    ANSWER_S,
    PartitionReader,
    check_topic_exists,
    kafka_consumer,
    start_client,
    stop_consumer,
)

READ_ONE_TIMEOUT_S: Final = 20.0


class ManualReader(PartitionReader):
    """`next_batch` and the rest of `PartitionReader`, on partitions given by `assign`."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        client_id: str = "foldstream-reader",
        answer_s: float = ANSWER_S,
        **bounds: int,
    ) -> None:
        """answer_s: as in `ConsumerConfig`. bounds: max_poll_records, buffer_events and
        buffer_bytes, as in `PartitionReader`."""
        super().__init__(bootstrap, topic, **bounds)
        self._client_id = client_id
        self._answer_s = answer_s
        self._single: Any = None
        self._single_lock = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises BrokerAway or TopicMissing."""
        await check_topic_exists(self.bootstrap, self.topic)
        self._consumer = kafka_consumer(self.bootstrap, self._client_id, self._answer_s)
        await start_client(self._consumer, self.bootstrap)
        self._start_fetching()

    async def stop(self) -> None:
        """Stop reading; every `next_batch` raises PartitionRevoked."""
        if self._consumer is None:
            return
        await self._stop_fetching()
        await stop_consumer(self._consumer)
        if self._single is not None:
            await stop_consumer(self._single)

    def assign(self, next_offsets: Mapping[int, int]) -> None:
        """Read these partitions from these offsets, and no others any more."""
        self._add_buffers(next_offsets)
        self._consumer.assign([TopicPartition(self.topic, p) for p in next_offsets])
        for partition, next_offset in next_offsets.items():
            self.seek(partition, next_offset)

    async def read_one(self, partition: int, offset: int) -> Message | None:
        """The committed message at exactly this offset, or None: nothing (any more) is there.

        Does not touch what `assign` reads. Raises BrokerAway.
        """
        begin = (await self.begin_offsets([partition]))[partition]
        end = (await self.end_offsets([partition]))[partition]
        if not begin <= offset < end:
            return None
        async with self._single_lock:  # one consumer, one position
            await self._single_consumer()
            try:
                async with asyncio.timeout(READ_ONE_TIMEOUT_S):
                    return await self._read_at(TopicPartition(self.topic, partition), offset)
            except (TimeoutError, KafkaError) as error:
                raise BrokerAway(f"{self.topic}[{partition}] at {offset}: {error!r}") from error

    async def read_before(
        self, partition: int, next_offset: int, n_offsets: int
    ) -> AsyncIterator[list[Message]]:
        """The committed messages of the last `n_offsets` offsets before one, in portions.

        Fewer than so many messages where the log has gaps or begins later. Raises BrokerAway.
        """
        begin = (await self.begin_offsets([partition]))[partition]
        tp = TopicPartition(self.topic, partition)
        at = max(begin, next_offset - n_offsets)
        async with self._single_lock:
            while at < next_offset:
                try:
                    async with asyncio.timeout(READ_ONE_TIMEOUT_S):
                        records, at = await self._read_from(tp, at)
                except (TimeoutError, KafkaError) as error:
                    raise BrokerAway(f"{self.topic}[{partition}] from {at}: {error!r}") from error
                yield [record for record in records if record.offset < next_offset]

    async def _read_from(self, tp: TopicPartition, offset: int) -> tuple[list[Message], int]:
        """Messages from an offset on, and the position behind them."""
        single = await self._single_consumer()
        single.assign([tp])
        single.seek(tp, offset)
        while True:
            fetched = await single.getmany(tp, timeout_ms=100, max_records=500)
            position = int(await single.position(tp))
            if position > offset:
                return list(fetched.get(tp, [])), position

    async def _single_consumer(self) -> Any:
        """The consumer of single looks; the lock is held."""
        if self._single is None:
            single = kafka_consumer(self.bootstrap, self._client_id, self._answer_s)
            await start_client(single, self.bootstrap)
            self._single = single
        return self._single

    async def _read_at(self, tp: TopicPartition, offset: int) -> Message | None:
        self._single.assign([tp])
        self._single.seek(tp, offset)
        while True:
            try:
                fetched = await self._single.getmany(tp, timeout_ms=100, max_records=1)
            except OffsetOutOfRangeError:
                return None
            records: list[Message] = fetched.get(tp, [])
            if records:
                return records[0] if records[0].offset == offset else None
            if await self._single.position(tp) > offset:
                return None
