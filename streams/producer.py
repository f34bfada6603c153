"""One idempotent producer, a small method for each topic.

Owns keys and headers of what we send. Every ``send_*`` returns once all in-sync replicas have the
message; `queue_event` returns earlier, for streams of events. While the broker is away, sends
wait (aiokafka repeats an idempotent batch for ever); nothing is sent twice by a repeat.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, UnknownTopicOrPartitionError
from aiokafka.structs import RecordMetadata

from streams.batch import Reject
from streams.codec import encode
from streams.dead_letters import MAX_VALUE_BYTES, dead_letter
from streams.errors import BrokerAway, StreamsError
from streams.events import Event, Impression, Item, Recommendation, Request
from streams.reader import start_client
from streams.topics import TopicMissing, TopicSet, partition_counts

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 4 * 1024 * 1024
"""Above the largest message of any topic here; aiokafka's default of 1 MB refuses a large dead
letter."""

STOP_TIMEOUT_S: Final = 10.0

BATCH_BYTES: Final = 128 * 1024
"""aiokafka's 16 kB hold some hundred events: at full speed the round trips were the limit."""


class Producer:
    """Sends to the topics of one `TopicSet`.

    compression: ``zstd``, ``lz4``, ``gzip`` or None (zstd cost a fifth of lz4, which aiokafka runs
    at its slowest level). A message alone is sent at once (no linger);
    under load they gather while the previous request is under way.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: TopicSet,
        client_id: str = "foldstream-producer",
        compression: str | None = "zstd",
    ) -> None:
        self.bootstrap = bootstrap
        self.topics = topics
        self._client_id = client_id
        self._compression = compression
        self._producer: Any = None
        self._replacing = asyncio.Lock()

    async def start(self) -> None:
        """Connect. Raises BrokerAway, and TopicMissing when one of the topics is not there.

        Checked here because aiokafka looks for a missing topic for 40 s at the first send.
        """
        names = [topic.name for topic in self.topics.all()]
        missing = sorted(set(names) - set(await partition_counts(self.bootstrap, names)))
        if missing:
            raise TopicMissing(
                f"no topic {', '.join(missing)} at {self.bootstrap}: start a foldstream worker "
                "once (it creates its topics), or correct the topic prefix"
            )
        self._producer = await self._started()

    async def stop(self) -> None:
        """Send what is queued, then close.

        A broker that is away is waited for no longer than `STOP_TIMEOUT_S`; what is then
        unsent fails with BrokerAway at whoever waits for its acknowledgement.
        """
        producer, self._producer = self._producer, None
        if producer is None:
            return
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await producer.stop()
        except TimeoutError:
            log.warning("the broker did not take the last messages in %.0f s", STOP_TIMEOUT_S)
            await _abandon(producer)

    async def __aenter__(self) -> Producer:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # Events ---------------------------------------------------------------------------------

    async def send_event(self, event: Event) -> RecordMetadata:
        """Send one event under its user; returns where it lies (partition, offset)."""
        return await self._send(self.topics.events.name, encode(event), event.user_id.encode())

    async def queue_event(self, event: Event) -> asyncio.Future[RecordMetadata]:
        """Put one event into the send buffer; await the future for the acknowledgement.

        Waits while the buffer is full, so a fast sender is slowed down to the broker's pace.
        """
        return await self._queue(self.topics.events.name, encode(event), event.user_id.encode())

    async def send_events(self, events: Sequence[Event]) -> list[RecordMetadata]:
        """Send many events; returns once all are acknowledged, in the order given."""
        futures = [await self.queue_event(event) for event in events]
        return list(await self._acknowledged(futures))

    async def send_raw(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> RecordMetadata:
        """Send bytes as they are: for what is not (or must not be) an event of ours."""
        return await self._send(topic, value, key, headers=headers, partition=partition)

    # Catalogue, impressions, requests -------------------------------------------------------

    async def send_item(self, item: Item) -> RecordMetadata:
        """Add or replace a catalogue entry."""
        return await self._send(self.topics.items.name, encode(item), item.item_id.encode())

    async def queue_item(self, item: Item) -> asyncio.Future[RecordMetadata]:
        """`send_item` without waiting for the acknowledgement, for whole catalogues."""
        return await self._queue(self.topics.items.name, encode(item), item.item_id.encode())

    async def delete_item(self, item_id: str) -> RecordMetadata:
        """Take an item out of the catalogue: a null message, which compaction keeps for a day."""
        return await self._send(self.topics.items.name, None, item_id.encode())

    async def send_impression(self, impression: Impression) -> RecordMetadata:
        """Say what a user was shown."""
        return await self._send(
            self.topics.impressions.name, encode(impression), impression.user_id.encode()
        )

    async def send_request(self, request: Request) -> RecordMetadata:
        """Ask for recommendations; the answer carries the request's id."""
        return await self._send(
            self.topics.requests.name, encode(request), request.user_id.encode()
        )

    # What agents say ------------------------------------------------------------------------

    async def send_recommendation(self, recommendation: Recommendation) -> RecordMetadata:
        """Emit one ranked list."""
        return await self._send(
            self.topics.recommendations.name,
            encode(recommendation),
            recommendation.user_id.encode(),
        )

    async def send_recommendations(self, lists: Sequence[Recommendation]) -> None:
        """Emit many; returns once all are acknowledged."""
        topic = self.topics.recommendations.name
        futures = [
            await self._queue(topic, encode(ranked), ranked.user_id.encode()) for ranked in lists
        ]
        await self._acknowledged(futures)

    async def announce(self, partition: int, value: bytes) -> RecordMetadata:
        """Say what a commit changed, on the same partition of profile-changes.

        value: one message of `streams.codec.encode_change`. Set explicitly, not by hash: the
        reader of partition p then hears of partition p.
        """
        return await self._send(
            self.topics.profile_changes.name, value, b"%d" % partition, partition=partition
        )

    async def send_dead_letters(
        self, rejects: Sequence[Reject], source_topic: str, max_bytes: int = MAX_VALUE_BYTES
    ) -> None:
        """Set messages aside with their reasons; returns once all are acknowledged.

        max_bytes: a longer value travels as its position and SHA-256.
        """
        topic = self.topics.dead_letters.name
        futures = []
        for reject in rejects:
            letter = dead_letter(reject, source_topic, max_bytes)
            futures.append(await self._queue(topic, letter.value, letter.key, letter.headers))
        await self._acknowledged(futures)

    # ----------------------------------------------------------------------------------------

    async def _started(self) -> Any:
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            client_id=self._client_id,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            compression_type=self._compression,
            max_request_size=MAX_REQUEST_BYTES,
            max_batch_size=BATCH_BYTES,
        )
        await start_client(producer, self.bootstrap)
        return producer

    async def _send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> RecordMetadata:
        future = await self._queue(topic, value, key, headers, partition)
        return (await self._acknowledged([future]))[0]

    async def _queue(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> asyncio.Future[RecordMetadata]:
        producer = await self._working()
        try:
            future: asyncio.Future[RecordMetadata] = await producer.send(
                topic, value, key, partition, headers=list(headers)
            )
        except (KafkaError, OSError) as error:
            raise _translated(error, topic) from error
        return future

    async def _acknowledged(
        self, futures: Sequence[asyncio.Future[RecordMetadata]]
    ) -> list[RecordMetadata]:
        """Wait for all of them, also after the first failure: none is left behind unseen."""
        results = await asyncio.gather(*futures, return_exceptions=True)
        acknowledged: list[RecordMetadata] = []
        for result in results:
            if isinstance(result, KafkaError | OSError):  # TimeoutError is an OSError
                raise _translated(result, "a topic") from result
            if isinstance(result, BaseException):
                raise result
            acknowledged.append(result)
        return acknowledged

    async def _working(self) -> Any:
        """The client, made anew when its sending task has died (a broken sequence, say).

        An idempotent producer that lost its sequence refuses everything from then on.
        """
        producer = self._producer
        if producer is None:
            raise StreamsError("the producer is not started")
        if not producer._sender.sender_task.done():
            return producer
        async with self._replacing:
            if self._producer is producer:
                log.warning("the producer's sending task has ended; making a new producer")
                try:
                    await producer.stop()
                except KafkaError as error:
                    log.warning("closing the old producer: %s", error)
                self._producer = await self._started()
        return self._producer


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


def _translated(error: BaseException, topic: str) -> StreamsError:
    """aiokafka's error as one that says what helps."""
    if isinstance(error, UnknownTopicOrPartitionError):
        return TopicMissing(f"topic {topic} (or the partition) does not exist")
    if isinstance(error, MessageSizeTooLargeError):
        return StreamsError(f"a message for {topic} is too large for the broker: {error}")
    return BrokerAway(f"sending to {topic}: {error!r}")
