"""BatchConsumer: the group consumer of the hot path.

Owns one aiokafka consumer: membership, assignment, seek, pause, the Kafka commit for lag tools.
Leaves to its owner where to start (the owner's checkpoint, never Kafka's committed offset) and
what to do with a batch. What stays true: a partition is read only after ``on_assigned`` said
from where, and ``on_revoked`` was awaited before another worker gets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from streams.aiokafka_bulk import in_bulk
from streams.errors import BrokerAway, PartitionRevoked, StreamsError
from streams.partition_buffers import State
from streams.reader import (
    ANSWER_S,
    PartitionReader,
    check_topic_exists,
    is_connected,
    kafka_consumer,
    start_client,
    stop_consumer,
)

log = logging.getLogger(__name__)

OnAssigned = Callable[[list[int]], Awaitable[dict[int, int]]]
OnRevoked = Callable[[list[int]], Awaitable[None]]

COMMIT_INTERVAL_S: Final = 1.0
"""Kafka commits are for lag tools only; those look every few seconds."""

STOP_COMMIT_S: Final = 2.0
"""How long a stop waits for the last of them."""


@dataclass(frozen=True, slots=True)
class ConsumerConfig:
    """What a `BatchConsumer` needs to know.

    instance_id: name of the static member, the same after a restart (which then takes its
    partitions back at once, without a rebalance); None: a dynamic member.
    session_timeout_ms: without a sign of life for so long, the partitions go to others.
    heartbeat_interval_ms: so much later at most these others hear of it; an answer to each is
    cheap, a standstill is not.
    rebalance_timeout_ms: so long may ``on_revoked`` take before the group goes on without us.
    answer_s: a request unanswered for so long has lost its broker.
    buffer_events, buffer_bytes: bounds of each partition's buffer.
    """

    bootstrap: str
    topic: str
    group: str
    instance_id: str | None = None
    client_id: str = "foldstream"
    session_timeout_ms: int = 10_000
    heartbeat_interval_ms: int = 500
    rebalance_timeout_ms: int = 30_000
    answer_s: float = ANSWER_S
    max_poll_records: int = 2_000
    buffer_events: int = 20_000
    buffer_bytes: int = 8 * 1024 * 1024


class BatchConsumer(PartitionReader):
    """Reads the partitions that the group gives us.

    on_assigned: gets partition numbers, returns the next_offset of each to read from. It may take
    as long as it likes (heartbeats go on), and is cancelled when the partitions are taken away
    meanwhile. A partition that it leaves out stays ours and unread until `seek`. What it raises
    ends the consumer: `failed`, and every `next_batch`, get it.
    on_revoked: gets the partitions that we had, `next_batch` of which raises already; the
    rebalance waits for it. Called also when `on_assigned` was cancelled.
    Both may be called again and again with the same partitions: rebalances are eager.
    """

    def __init__(
        self, config: ConsumerConfig, on_assigned: OnAssigned, on_revoked: OnRevoked
    ) -> None:
        super().__init__(
            config.bootstrap,
            config.topic,
            max_poll_records=config.max_poll_records,
            buffer_events=config.buffer_events,
            buffer_bytes=config.buffer_bytes,
        )
        self.config = config
        self._on_assigned = on_assigned
        self._on_revoked = on_revoked
        self._opening: asyncio.Task[None] | None = None
        self._commits: dict[int, int] = {}
        self._commit_task: asyncio.Task[None] | None = None
        self.n_rebalances = 0

    async def start(self) -> None:
        """Connect and join the group; returns before partitions are assigned.

        Raises BrokerAway or TopicMissing; both may be tried again with a new consumer.
        """
        config = self.config
        await check_topic_exists(config.bootstrap, config.topic)
        self._consumer = kafka_consumer(
            config.bootstrap,
            config.client_id,
            config.answer_s,
            group_id=config.group,
            value_deserializer=in_bulk,
            group_instance_id=config.instance_id,
            session_timeout_ms=config.session_timeout_ms,
            heartbeat_interval_ms=config.heartbeat_interval_ms,
            rebalance_timeout_ms=config.rebalance_timeout_ms,
        )
        # Subscribed only after the start: with a topic from the outset, aiokafka's start waits
        # for the assignment, which may wait for other members.
        await start_client(self._consumer, config.bootstrap)
        self._consumer.subscribe([config.topic], listener=_Listener(self))
        self._start_fetching()
        self._commit_task = asyncio.create_task(self._commit_often(), name=f"commit {self.topic}")

    async def stop(self, leave: bool) -> None:
        """Stop reading; every `next_batch` raises PartitionRevoked. Does not call ``on_revoked``.

        leave: tell the group, so that others get our partitions within a second. Without it a
        static member keeps them until its session times out: right before a restart. A member
        without `instance_id` always leaves.
        """
        if self._consumer is None:
            return
        await self._stop_opening()
        await self._stop_fetching()
        if self._commit_task is not None:
            self._commit_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._commit_task
        if is_connected(self._consumer._client):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_COMMIT_S):
                    await self._commit_now()
        await stop_consumer(self._consumer, leave)

    def request_commit(self, partition: int, next_offset: int) -> None:
        """Tell Kafka, soon, how far the partition is: for lag tools, nothing else reads it.

        Coalesced, about once a second; errors are logged only.
        """
        self._commits[partition] = next_offset

    async def still_ours(self, partition: int, next_offset: int) -> bool:
        """Ask the coordinator whether this partition is still ours, by a Kafka commit.

        False: we are no member any more, or a rebalance is under way, which will tell. Raises
        BrokerAway when nobody answers: ask again.
        """
        if partition not in self.assigned():
            return False
        try:
            await self._consumer.commit({TopicPartition(self.topic, partition): next_offset})
        except (CommitFailedError, IllegalStateError):
            return False
        except KafkaError as error:
            raise BrokerAway(f"group of {self.topic}: {error}") from error
        return partition in self.assigned()

    # Called by aiokafka's group task --------------------------------------------------------

    async def revoked(self, partitions: Iterable[int]) -> None:
        """The group takes everything back before it deals anew (eager rebalance)."""
        gone = sorted(partitions)
        self._close_buffers()
        await self._stop_opening()
        self._commits.clear()
        if not gone:
            return
        try:
            await self._on_revoked(gone)
        except Exception as error:
            # aiokafka logs what a listener raises and goes on; the owner must hear of it.
            self._fail(error)
            raise

    async def given(self, partitions: Iterable[int]) -> None:
        """New partitions: ask the owner where to go on, beside the group task.

        Not awaited here: aiokafka sends heartbeats only after this returns, and the owner may
        have to wait for its store.
        """
        self.n_rebalances += 1
        mine = sorted(partitions)
        self._add_buffers(mine)
        if mine and self._failure is None:
            self._opening = asyncio.create_task(self._open(mine), name=f"open {self.topic}")

    async def _open(self, partitions: list[int]) -> None:
        try:
            offsets = await self._on_assigned(partitions)
            for partition, next_offset in offsets.items():
                buffer = self._buffers.get(partition)
                # The owner may have sought already, and even read on.
                if buffer is not None and buffer.state is State.WAITING:
                    with contextlib.suppress(PartitionRevoked):  # `revoked` is on its way
                        self.seek(partition, next_offset)
        except Exception as error:  # noqa: BLE001  handed to the owner by `failed` and next_batch
            self._fail(error)
        except asyncio.CancelledError:
            if self._opening is asyncio.current_task():  # not `_stop_opening`: who else?
                self._fail(StreamsError(f"taking over partitions of {self.topic} was cancelled"))
            raise

    async def _stop_opening(self) -> None:
        task, self._opening = self._opening, None
        if task is not None and not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # The commit for lag tools ---------------------------------------------------------------

    async def _commit_often(self) -> None:
        while True:
            await asyncio.sleep(COMMIT_INTERVAL_S)
            await self._commit_now()

    async def _commit_now(self) -> None:
        commits, self._commits = self._commits, {}
        mine = self.assigned() or set(commits)
        offsets = {TopicPartition(self.topic, p): o for p, o in commits.items() if p in mine}
        if not offsets:
            return
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            log.info("Kafka commit of %s: %s", self.topic, error)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, consumer: BatchConsumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        await self._consumer.revoked(tp.partition for tp in revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        await self._consumer.given(tp.partition for tp in assigned)
