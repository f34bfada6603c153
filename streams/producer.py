"""One producer, a small method for each topic.

Owns keys and headers of what we send; `streams.delivery` owns the way there. Every ``send_*``
returns once all in-sync replicas have the message; `queue_event` returns earlier, for streams of
events. While the broker is away, sends wait; nothing is sent twice by a repeat.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aiokafka.structs import RecordMetadata

from streams.batch import Reject
from streams.codec import encode
from streams.dead_letters import MAX_VALUE_BYTES, dead_letter
from streams.delivery import Delivery, OutMessage
from streams.events import Event, Impression, Item, Recommendation, Request
from streams.reader import ANSWER_S
from streams.topics import TopicMissing, TopicSet, partition_counts


class Producer:
    """Sends to the topics of one `TopicSet`.

    compression: ``zstd``, ``lz4``, ``gzip`` or None (zstd cost a fifth of lz4, which aiokafka runs
    at its slowest level). A message alone is sent at once (no linger);
    under load they gather while the previous request is under way. answer_s: without an answer to
    a request for so long, it is sent again on a new connection.
    Every method that sends raises MessageTooLarge for a message above its topic's limit (the
    others, and later ones, go through), TopicMissing, and BrokerAway.
    """

    def __init__(
        self,
        bootstrap: str,
        topics: TopicSet,
        client_id: str = "foldstream-producer",
        compression: str | None = "zstd",
        answer_s: float = ANSWER_S,
    ) -> None:
        self.bootstrap = bootstrap
        self.topics = topics
        self._delivery = Delivery(bootstrap, topics.all(), client_id, compression, answer_s)

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
        await self._delivery.start()

    async def stop(self) -> None:
        """Send what is queued, then close.

        A broker that is away is waited for no longer than `streams.delivery.STOP_TIMEOUT_S`;
        what is then unsent fails with BrokerAway at whoever waits for its acknowledgement.
        """
        await self._delivery.stop()

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

        The future of a message that the broker refused fails with aiokafka's error.
        Waits while the buffer is full, so a fast sender is slowed down to the broker's pace.
        """
        return await self._delivery.queue(
            OutMessage(self.topics.events.name, encode(event), event.user_id.encode())
        )

    async def send_events(self, events: Sequence[Event]) -> list[RecordMetadata]:
        """Send many events; returns once all are acknowledged, in the order given."""
        topic = self.topics.events.name
        return await self._delivery.deliver(
            [OutMessage(topic, encode(event), event.user_id.encode()) for event in events]
        )

    async def send_raw(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> RecordMetadata:
        """Send bytes as they are: for what is not (or must not be) an event of ours."""
        return await self._send(topic, value, key, headers, partition)

    # Catalogue, impressions, requests -------------------------------------------------------

    async def send_item(self, item: Item) -> RecordMetadata:
        """Add or replace a catalogue entry."""
        return await self._send(self.topics.items.name, encode(item), item.item_id.encode())

    async def queue_item(self, item: Item) -> asyncio.Future[RecordMetadata]:
        """`send_item` without waiting for the acknowledgement, for whole catalogues."""
        return await self._delivery.queue(
            OutMessage(self.topics.items.name, encode(item), item.item_id.encode())
        )

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
        await self._delivery.deliver(
            [OutMessage(topic, encode(ranked), ranked.user_id.encode()) for ranked in lists]
        )

    async def announce(self, partition: int, value: bytes) -> RecordMetadata:
        """Say what a commit changed, on the same partition of profile-changes.

        value: one message of `streams.codec.encode_change`. Set explicitly, not by hash: the
        reader of partition p then hears of partition p.
        """
        return await self._send(
            self.topics.profile_changes.name, value, b"%d" % partition, partition=partition
        )

    async def send_item_deltas(self, sender: str, value: bytes) -> RecordMetadata:
        """Tell other processes what was learned; value: of `streams.item_deltas.encode_deltas`."""
        return await self._send(self.topics.item_deltas.name, value, sender.encode())

    async def send_trials(self, partition: int, value: bytes) -> RecordMetadata:
        """Tell what events of a partition ranked at; value: of `streams.trials.encode_trials`."""
        return await self._send(self.topics.trials.name, value, b"%d" % partition)

    async def send_metrics(self, value: bytes) -> RecordMetadata:
        """Tell how good the lists are; value: a window of `agents.windows`, as JSON."""
        return await self._send(self.topics.metrics.name, value, None)

    async def send_dead_letters(
        self, rejects: Sequence[Reject], source_topic: str, max_bytes: int = MAX_VALUE_BYTES
    ) -> None:
        """Set messages aside with their reasons; returns once all are acknowledged.

        max_bytes: a longer value travels as its position and SHA-256.
        """
        topic = self.topics.dead_letters.name
        letters = [dead_letter(reject, source_topic, max_bytes) for reject in rejects]
        await self._delivery.deliver(
            [OutMessage(topic, letter.value, letter.key, letter.headers) for letter in letters]
        )

    async def _send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
        partition: int | None = None,
    ) -> RecordMetadata:
        message = OutMessage(topic, value, key, headers, partition)
        return (await self._delivery.deliver([message]))[0]
