"""Reads a topic for onlookers: without a group, from its beginning or from now on.

Leaves nothing behind in the broker and promises nothing: what must not miss a message reads
with `consumer` or `replica`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError

from streams.errors import BrokerAway, NotAllowed, StreamsError
from streams.topics import TopicMissing, is_refusal, partition_counts

POLL_MS = 200


class TopicTail:
    """An async context manager that gives a topic's messages, committed ones only.

    from_beginning: start with the oldest message instead of the next one. from_ms: start with the
    first one appended at that time (ms since 1970) or later.
    follow: go on for ever; otherwise end at what the topic held when it was opened.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        from_beginning: bool = False,
        from_ms: int | None = None,
        follow: bool = True,
    ) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._from_beginning = from_beginning
        self._from_ms = from_ms
        self._follow = follow
        self._ends: dict[TopicPartition, int] = {}
        self._consumer: Any = None

    async def __aenter__(self) -> Self:
        """Connect and find the start. Raises BrokerAway, TopicMissing."""
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=self._bootstrap,
            client_id="foldstream-tail",
            group_id=None,
            enable_auto_commit=False,
            isolation_level="read_committed",
            auto_offset_reset="earliest",
        )
        try:
            await self._consumer.start()
        except KafkaConnectionError as error:
            await self._consumer.stop()
            raise BrokerAway(f"no broker at {self._bootstrap}: is the stack up?") from error
        try:
            await self._begin()
        except BaseException:
            await self._consumer.stop()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._consumer.stop()

    async def records(self) -> AsyncIterator[Sequence[Any]]:
        """aiokafka records in groups as they arrive; within a partition in order.

        Raises BrokerAway when the broker doesn't go on, NotAllowed when it may not.
        """
        while self._follow or await self._is_before_the_end():
            try:
                found = await self._consumer.getmany(timeout_ms=POLL_MS)
            except KafkaError as error:
                raise self._unreadable(error) from error
            group = [
                record
                for partition, records in found.items()
                for record in records
                if self._follow or record.offset < self._ends[partition]
            ]
            if group:
                # Groups are small and partitions arrive mixed: people want one line of time.
                group.sort(key=lambda record: record.timestamp)
                yield group

    async def _begin(self) -> None:
        count = (await partition_counts(self._bootstrap, [self._topic])).get(self._topic)
        if not count:
            raise TopicMissing(
                f"topic {self._topic} does not exist; a worker, ingest or simulate creates it"
            )
        partitions = [TopicPartition(self._topic, number) for number in range(count)]
        self._consumer.assign(partitions)
        self._ends = await self._consumer.end_offsets(partitions)
        begins = self._ends
        if self._from_ms is not None:
            begins = await self._offsets_at(partitions, self._from_ms)
        elif self._from_beginning:
            begins = await self._consumer.beginning_offsets(partitions)
        # To an offset, never `seek_to_end` or `seek_to_beginning`: the reset of the assignment may
        # still be under way, and its answer would then be taken for that of the other.
        for partition, offset in begins.items():
            self._consumer.seek(partition, offset)

    def _unreadable(self, error: KafkaError) -> StreamsError:
        if is_refusal(error.errno):
            return NotAllowed(f"topic {self._topic} can't be read: {error!r}; grant READ")
        return BrokerAway(f"topic {self._topic} can't be read: {error!r}")

    async def _offsets_at(
        self, partitions: list[TopicPartition], from_ms: int
    ) -> dict[TopicPartition, int]:
        """Of the first message at or after a time; the end where none is that new."""
        try:
            found = await self._consumer.offsets_for_times(dict.fromkeys(partitions, from_ms))
        except KafkaError as error:
            raise self._unreadable(error) from error
        return {
            partition: found[partition].offset if found.get(partition) else self._ends[partition]
            for partition in partitions
        }

    async def _is_before_the_end(self) -> bool:
        for partition, end in self._ends.items():
            if await self._consumer.position(partition) < end:
                return True
        return False
