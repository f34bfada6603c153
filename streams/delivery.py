"""Messages to the broker: checked for their size, sent once, and never stuck behind a refusal.

Owns the idempotent aiokafka client and its replacement. Such a client numbers its batches before
it sends them; when the broker refuses one, its number is missing, and everything behind it in
that partition is refused as well, for ever. So a client with a failed batch is emptied, closed
and replaced. What stays true: a message is sent again only when the broker said that it did not
take it, so none is there twice.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    KafkaError,
    MessageSizeTooLargeError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    RecordListTooLargeError,
    UnknownProducerId,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import MessageAccumulator
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.structs import RecordMetadata

from streams.errors import BrokerAway, MessageTooLarge, StreamsError
from streams.reader import ANSWER_S, is_connected, start_client
from streams.topics import Topic, TopicMissing, admin_client

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Above the largest message of any topic here; aiokafka's default of 1 MB refuses a large dead
letter."""

STOP_TIMEOUT_S: Final = 5.0
"""For what is queued at a stop; whoever must not lose it waits for its acknowledgement before."""

ALONE_S: Final = 0.5
"""The same without any connection to the broker: it is not back within a stop."""

BATCH_BYTES: Final = 128 * 1024
"""aiokafka's 16 kB hold some hundred events: at full speed the round trips were the limit."""

LIMIT: Final = "max.message.bytes"

TOO_LARGE: Final = (MessageSizeTooLargeError, RecordListTooLargeError)
"""The broker refuses a batch whole: small messages of it, too."""

OUT_OF_SEQUENCE: Final = (
    OutOfOrderSequenceNumber,
    UnknownProducerId,
    InvalidProducerEpoch,
    InvalidProducerIdMapping,
    ProducerFenced,  # aiokafka's name for an invalid epoch
)
"""Not taken because of what befell an earlier batch, or the broker's memory of this client."""

NOT_TAKEN: Final = TOO_LARGE + OUT_OF_SEQUENCE
"""Surely not in the log: may be sent again."""


class OutMessage(NamedTuple):
    """A message to send; partition None: the one of its key."""

    topic: str
    value: bytes | None
    key: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None


@dataclass(slots=True)
class Client:
    """One aiokafka producer, of use until a batch fails.

    limits: bytes of the largest message, by topic.
    """

    producer: Any
    limits: dict[str, int]
    broken: bool = False

    def note(self, future: asyncio.Future[RecordMetadata]) -> None:
        """See how a message ended. Any failure breaks the client: what can be repeated, aiokafka
        repeats for ever."""
        error = None if future.cancelled() else future.exception()
        if isinstance(error, KafkaError) and not self.broken:
            self.broken = True
            log.warning("the broker did not take a batch: %r", error)

    def is_usable(self) -> bool:
        """Whether nothing has failed yet."""
        return not (self.broken or self.producer._sender.sender_task.done())


class Delivery:
    """Sends to any topic; knows the limits of the given ones.

    compression, answer_s: see `streams.producer.Producer`.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: Sequence[Topic],
        client_id: str,
        compression: str | None,
        answer_s: float = ANSWER_S,
        *,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        self.bootstrap = bootstrap
        self._declared = {topic.name: topic.max_message_bytes for topic in topics}
        self._limited = set(self._declared)
        self._client_id = client_id
        self._compression = compression
        self._batch_bytes = batch_bytes
        self._answer_s = answer_s
        self._client: Client | None = None
        self._ending: Client | None = None
        self._replacing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerAway."""
        self._client = await self._connected()

    async def stop(self) -> None:
        """Send what is queued, then close; within `STOP_TIMEOUT_S`, without a broker at once.

        What is then unsent fails with BrokerAway at whoever waits for its acknowledgement.
        """
        replacing = self._replacing
        ending = asyncio.ensure_future(self._end(replacing))
        give_up = time.monotonic() + STOP_TIMEOUT_S
        while not ending.done() and time.monotonic() < give_up:
            await asyncio.wait((ending,), timeout=ALONE_S)
            client = self._ending or self._client
            if client is None or not is_connected(client.producer.client):
                break
        if ending.done():
            ending.result()
            return
        log.warning("the broker did not take the last messages")
        for task in (ending, replacing):
            if task is not None:
                task.cancel()
                await asyncio.wait((task,))
        client, self._client = self._ending or self._client, None
        if client is not None:
            await _abandon(client.producer)

    async def _end(self, replacing: asyncio.Task[None] | None) -> None:
        if replacing is not None:
            await asyncio.wait((replacing,))
        self._ending, self._client = self._client, None  # nobody may queue, or replace it, any more
        if self._ending is not None:
            await self._ending.producer.stop()

    async def queue(self, message: OutMessage) -> asyncio.Future[RecordMetadata]:
        """Put a message into the send buffer, waiting while that is full.

        The future is its acknowledgement, or fails with aiokafka's error. Raises MessageTooLarge
        (nothing else is touched by it), TopicMissing and BrokerAway.
        """
        client, future = await self._queue(message)
        future.add_done_callback(client.note)
        return future

    async def _queue(self, message: OutMessage) -> tuple[Client, asyncio.Future[RecordMetadata]]:
        topic, value, key, headers, partition = message
        listed = list(headers)
        while True:
            client = await self.working()
            check_size(client, topic, key, value, listed)
            try:
                future: asyncio.Future[RecordMetadata] = await client.producer.send(
                    topic, value, key, partition, headers=listed
                )
            except ProducerClosed as error:
                if client is self._client and client.is_usable():
                    raise BrokerAway(f"sending to {topic}: {error!r}") from error
                continue  # it was replaced while we waited for room in its buffer
            except (KafkaError, OSError) as error:  # TimeoutError is an OSError
                raise _translated(error, message) from error
            return client, future

    async def deliver(self, messages: Sequence[OutMessage]) -> list[RecordMetadata]:
        """Send all; returns once each is acknowledged, in the order given.

        One that fails does not keep the others: the first failure is raised once all have
        ended. Raises as `queue` does.
        """
        results, failed = await self._settled(messages)
        for n in failed:
            if isinstance(results[n], StreamsError):
                raise results[n]
        return results

    async def deliver_each(
        self, messages: Sequence[OutMessage]
    ) -> list[RecordMetadata | StreamsError]:
        """As `deliver`, with what it would raise in the place of each message that failed."""
        return (await self._settled(messages))[0]

    async def _settled(self, messages: Sequence[OutMessage]) -> tuple[list[Any], list[int]]:
        """How each message ended, after another try where that is safe; and which failed first."""
        results, failed = await self._results(messages)
        again = [n for n in failed if isinstance(results[n], NOT_TAKEN)]
        if again:
            # Through a new client, which knows the limits of these topics as they are now, so it
            # is told which one of a batch was too large.
            self._limited.update(messages[n].topic for n in again)
            repeated, _ = await self._results([messages[n] for n in again])
            for n, result in zip(again, repeated, strict=True):
                results[n] = result
        for n in failed:
            result = results[n]
            if isinstance(result, KafkaError | OSError):
                results[n] = _translated(result, messages[n])
                results[n].__cause__ = result
            elif isinstance(result, BaseException) and not isinstance(result, StreamsError):
                raise result
        return results, failed

    async def _results(self, messages: Sequence[OutMessage]) -> tuple[list[Any], list[int]]:
        """How each message ended, RecordMetadata or an exception; and which are exceptions."""
        too_large: dict[int, BaseException] = {}
        queued: list[tuple[Client, asyncio.Future[RecordMetadata]]] = []
        try:
            for n, message in enumerate(messages):
                try:
                    queued.append(await self._queue(message))
                except MessageTooLarge as error:
                    too_large[n] = error
            # Not noted by a callback each: at full speed that were a fifth of a send's cost.
            results = await asyncio.gather(*(one for _, one in queued), return_exceptions=True)
        except BaseException:
            for client, future in queued:
                future.add_done_callback(client.note)
            raise
        for (client, future), result in zip(queued, results, strict=True):
            if isinstance(result, BaseException):
                client.note(future)
        for n, refusal in too_large.items():  # in rising order, so each finds its place
            results.insert(n, refusal)
        return results, [n for n, one in enumerate(results) if isinstance(one, BaseException)]

    async def working(self) -> Client:
        """The client, made anew when it is of no use any more. Raises BrokerAway."""
        while True:
            client = self._client
            if client is None:
                raise StreamsError("the producer is not started")
            if client.is_usable():
                return client
            task = self._replacing
            if task is None or task.done():
                task = self._replacing = asyncio.create_task(self._replace(client))
            # A task of its own: whoever asked for it may be cancelled, the others still wait.
            await asyncio.wait((task,))
            if task.cancelled():
                raise BrokerAway("stopped before it was sent")
            task.result()

    async def learn(self, topic: str) -> None:
        """Know the limit of one more topic from now on. Raises BrokerAway."""
        if topic not in self._limited:
            limits = await self._limits_of(self._limited | {topic})
            self._limited.add(topic)
            (await self.working()).limits.update(limits)

    async def _replace(self, client: Client) -> None:
        log.warning("making a new producer, the old one's sequence is broken")
        try:
            # First the rest of what it holds: nothing may overtake it.
            await client.producer.stop()
        except KafkaError as error:
            log.warning("closing the old producer: %s", error)
        self._client = await self._connected()

    async def _connected(self) -> Client:
        limits = await self._limits()
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            client_id=self._client_id,
            request_timeout_ms=int(self._answer_s * 1_000),
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            compression_type=self._compression,
            max_request_size=max([MAX_REQUEST_BYTES, *limits.values()]),
            # aiokafka does not split a batch that is too large for its topic.
            max_batch_size=min([self._batch_bytes, *limits.values()]),
        )
        await start_client(producer, self.bootstrap)
        return Client(producer, limits)

    async def _limits(self) -> dict[str, int]:
        return await self._limits_of(self._limited)

    async def _limits_of(self, topics: Collection[str]) -> dict[str, int]:
        """The largest message of each topic, from its configuration at the broker: it may have
        been made or changed by others."""
        limits = dict(self._declared)
        if not topics:
            return limits
        async with admin_client(self.bootstrap, self._answer_s) as admin:
            responses = await admin.describe_configs(
                [
                    ConfigResource(ConfigResourceType.TOPIC, name, {LIMIT: ""})
                    for name in sorted(topics)
                ]
            )
        for response in responses:
            for code, reason, _kind, name, entries in response.resources:
                if code:
                    log.warning("%s of topic %s can't be read: %s", LIMIT, name, reason)
                for entry in entries or ():
                    if entry[0] == LIMIT:
                        limits[name] = int(entry[1])
        if self._compression is not None:
            # The broker measures what arrives, and what can't be compressed grows a little.
            limits = {name: (limit - 32) * 255 // 256 for name, limit in limits.items()}
        return limits


def check_size(
    client: Client,
    topic: str,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes]],
) -> None:
    """Raises MessageTooLarge for a message that its topic would not take."""
    limit = client.limits.get(topic, MAX_REQUEST_BYTES)
    size = DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, headers)
    if size > limit:
        raise MessageTooLarge(
            f"a message for {topic} is too large: {size} bytes; the topic's {LIMIT} lets {limit} "
            "through",
            max_bytes=max(0, limit - size + len(value or b"")),
        )


async def _abandon(producer: Any) -> None:
    """End a client whose broker is away; what is unsent fails with BrokerAway."""
    await producer.client.close()  # first: requests under way fail at once
    sending = producer._sender.sender_task
    for _ in range(3):  # it waits for this and that, and takes one cancellation for each
        sending.cancel()
        done, _ = await asyncio.wait((sending,), timeout=1.0)
        if done:
            break
    unsent = producer._message_accumulator
    batches = [batch for queued in unsent._batches.values() for batch in queued]
    for batch in [*batches, *unsent._pending_batches]:
        # Not `fail_all`: it fails what nobody waits for as well, which asyncio then complains of.
        for future, _ in batch._msg_futures:
            if not future.done():
                future.set_exception(BrokerAway("stopped before it was sent"))
    for task in asyncio.all_tasks():  # the flush of its `stop` would wait for them for ever
        frame = getattr(task.get_coro(), "cr_frame", None)
        if (
            frame is not None
            and frame.f_code is MessageAccumulator.close.__code__
            and frame.f_locals["self"] is unsent
        ):
            task.cancel()
            await asyncio.wait((task,))


def _translated(error: BaseException, message: OutMessage) -> StreamsError:
    """aiokafka's error as one that says what helps."""
    topic, value = message.topic, message.value or b""
    if isinstance(error, UnknownTopicOrPartitionError):
        return TopicMissing(f"topic {topic} (or the partition) does not exist")
    if isinstance(error, TOO_LARGE):  # though its limit says otherwise, or can't be read
        return MessageTooLarge(
            f"a message for {topic} is too large for the broker: {error!r}", len(value) - 1
        )
    return BrokerAway(f"sending to {topic}: {error!r}")
