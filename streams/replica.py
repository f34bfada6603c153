"""Replica: reads a whole topic, without a group, and keeps reading.

For topics that every process needs entirely (the catalogue, others' learning). What stays true:
messages of a partition arrive in order and each at least once; after `caught_up`, everything that
was in the topic when the replica started has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import CorruptRecordException, KafkaError

from streams.batch import Message
from streams.errors import BrokerAway, StreamsError
from streams.reader import (
    ANSWER_S,
    CORRUPT_TRIES,
    HOPELESS,
    check_topic_exists,
    kafka_consumer,
    start_client,
    stop_consumer,
)

log = logging.getLogger(__name__)

MAX_POLL_RECORDS: Final = 500
"""Messages handled before the event loop gets its turn."""

STUCK_S: Final = 30.0
"""Without any answer for so long the client is made anew: aiokafka can be stuck for good after a
broker came back (#1154). An idle broker answers four times a second."""

RETRY_S: Final = 1.0

FROM_END: Final = -1
"""As a place to begin: behind everything that is there."""


class Replica:
    """Hands every message of a topic to ``on_message``.

    on_message: called on the event loop, one message at a time; quick. What it raises ends the
    replica: `caught_up` and `wait` raise it. after_round: awaited when the messages of one answer
    were handed over, before their positions count: work that may take longer, and that holds the
    reading back. start_at: by partition, where to begin: an offset, or `FROM_END`; default, and
    for one outside of what the broker has: the oldest message.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        on_message: Callable[[Message], None],
        client_id: str = "foldstream-replica",
        *,
        answer_s: float = ANSWER_S,
        after_round: Callable[[], Awaitable[None]] | None = None,
        start_at: Mapping[int, int] | None = None,
    ) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self._on_message = on_message
        self._after_round = after_round
        self._start_at = start_at or {}
        self._client_id = client_id
        self._answer_s = answer_s
        self._next_offsets: dict[int, int] = {}
        self._goal: dict[int, int] = {}
        self._caught_up = asyncio.Event()
        self._consumer: Any = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        self._n_corrupt = 0
        self._corrupt_at = -STUCK_S
        self.n_messages = 0

    async def start(self) -> None:
        """Connect and begin to read. Raises BrokerAway or TopicMissing."""
        n_partitions = await check_topic_exists(self.bootstrap, self.topic)
        consumer = self._consumer = await self._connect()
        partitions = [TopicPartition(self.topic, p) for p in range(n_partitions)]
        try:
            begins = await consumer.beginning_offsets(partitions)
            ends = await consumer.end_offsets(partitions)
        except BaseException as error:
            await stop_consumer(consumer)
            if isinstance(error, KafkaError | OSError):
                raise BrokerAway(f"offsets of {self.topic}: {error}") from error
            raise
        for tp, begin in begins.items():
            wanted = self._start_at.get(tp.partition, begin)
            if wanted == FROM_END:
                wanted = ends[tp]
            self._next_offsets[tp.partition] = wanted if begin <= wanted <= ends[tp] else begin
        self._goal = {tp.partition: offset for tp, offset in ends.items()}
        self._task = asyncio.create_task(self._run(), name=f"replica {self.topic}")

    async def stop(self) -> None:
        """Stop reading; never raises what ended the replica before."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await stop_consumer(self._consumer)  # a task that had not begun closed nothing

    async def caught_up(self) -> None:
        """Return once everything that was in the topic at the start has been handed over.

        Raises what ended the replica; CancelledError when it was stopped before.
        """
        if self._task is None:
            raise StreamsError("the replica is not started")
        reached = asyncio.create_task(self._caught_up.wait())
        try:
            await asyncio.wait([reached, self._task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            reached.cancel()
        if not self._caught_up.is_set():
            self._raise_end(self._task)
            self._task.result()

    async def wait(self) -> None:
        """Return when the replica was stopped; raise what ended it otherwise, whatever it was."""
        if self._task is None:
            raise StreamsError("the replica is not started")
        await asyncio.wait([self._task])
        self._raise_end(self._task)

    def _raise_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            task.result()
        elif not self._stopped:
            # aiokafka now and then ends with a CancelledError that nobody sent.
            raise StreamsError(f"reading all of {self.topic} was cancelled by nobody we know")

    @property
    def is_caught_up(self) -> bool:
        """Whether `caught_up` would return at once."""
        return self._caught_up.is_set()

    async def reached_end(self) -> None:
        """Return once everything that is in the topic now has been handed over.

        Raises what ended the replica, and BrokerAway.
        """
        if self._task is None:
            raise StreamsError("the replica is not started")
        partitions = [TopicPartition(self.topic, p) for p in self._next_offsets]
        try:
            ends = await self._consumer.end_offsets(partitions)
        except (KafkaError, OSError) as error:
            raise BrokerAway(f"offsets of {self.topic}: {error}") from error
        self._goal = {tp.partition: offset for tp, offset in ends.items()}
        self._caught_up.clear()
        self._note_progress()
        await self.caught_up()

    def next_offsets(self) -> dict[int, int]:
        """For each partition, the position behind what was handed over."""
        return dict(self._next_offsets)

    async def _connect(self) -> Any:
        # earliest: when compaction or retention has overtaken us, the oldest message left is the
        # right place to go on for a reader that only wants the present state.
        consumer = kafka_consumer(
            self.bootstrap, self._client_id, self._answer_s, auto_offset_reset="earliest"
        )
        await start_client(consumer, self.bootstrap)
        return consumer

    async def _run(self) -> None:
        while True:
            try:
                await self._read(self._consumer)
            except HOPELESS as error:
                raise StreamsError(f"{self.topic} can't be read: {error!r}") from error
            except CorruptRecordException as error:
                self._note_damage(error)
                log.warning("reading all of %s: %r; once more", self.topic, error)
            except (KafkaError, BrokerAway) as error:
                log.warning("reading all of %s: %r; connecting again", self.topic, error)
            finally:
                await stop_consumer(self._consumer)
            self._consumer = await self._reconnect()

    def _note_damage(self, error: CorruptRecordException) -> None:
        """Raise StreamsError at the fifth time without `STUCK_S` of peace between two. (Not the
        fifth without a message between: other partitions go on.)"""
        now = time.monotonic()
        self._n_corrupt = self._n_corrupt + 1 if now - self._corrupt_at < STUCK_S else 1
        self._corrupt_at = now
        if self._n_corrupt >= CORRUPT_TRIES:
            raise StreamsError(
                f"{self.topic}: damaged record batch, {CORRUPT_TRIES} times: {error}; restore the "
                "partition from a replica"
            ) from error

    async def _reconnect(self) -> Any:
        while True:
            await asyncio.sleep(RETRY_S)
            with contextlib.suppress(BrokerAway):
                return await self._connect()

    async def _read(self, consumer: Any) -> None:
        """Read from the positions reached so far, until the client fails or is stuck."""
        partitions = [TopicPartition(self.topic, p) for p in self._next_offsets]
        consumer.assign(partitions)
        for tp in partitions:
            consumer.seek(tp, self._next_offsets[tp.partition])
        answered_at = time.time()
        while True:
            self._note_progress()
            fetched = await consumer.getmany(timeout_ms=100, max_records=MAX_POLL_RECORDS)
            ended = consumer._fetcher.error_future
            if ended.done():  # of what aiokafka has no answer for; a new client has it
                cause = None if ended.cancelled() else ended.exception()
                why = cause and (cause.__cause__ or cause)
                raise BrokerAway(f"aiokafka's fetcher has ended: {why!r}") from cause
            for tp in partitions:
                for record in fetched.get(tp, ()):
                    self._on_message(record)
                    self.n_messages += 1
            if fetched and self._after_round is not None:
                await self._after_round()
            for tp in partitions:
                self._next_offsets[tp.partition] = await consumer.position(tp)
                answered_at = max(answered_at, (consumer.last_poll_timestamp(tp) or 0) / 1_000)
            if time.time() - answered_at > STUCK_S:
                raise BrokerAway(f"no answer for {STUCK_S:.0f} s")

    def _note_progress(self) -> None:
        if not self._caught_up.is_set() and all(
            self._next_offsets[p] >= end for p, end in self._goal.items()
        ):
            self._caught_up.set()
