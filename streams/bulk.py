"""A producer for many messages at once: whole batches are built here and sent one a partition.

aiokafka's `send` costs about 20 us a message (a future, a lock and a partitioner each); filling
its batch builders ourselves costs 3 us. Order within a partition is kept, the producer is
idempotent and waits for all replicas. What has been acknowledged is told by `checkpoint`, which
is what an ingest that resumes needs; single events go through `producer`.

A batch that the broker refused is sent again through a new client, with all that was refused
behind it, in their order (`streams.delivery` says why the old one is of no use any more); so until
a batch is acknowledged its messages are kept. What stays true: a message is sent again only when
the broker said that it did not take it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.errors import KafkaError, ProducerClosed
from aiokafka.partitioner import murmur2

from streams.delivery import NOT_TAKEN, TOO_LARGE, Client, Delivery, check_size
from streams.errors import BrokerAway, MessageTooLarge
from streams.topics import TopicMissing, partition_counts

BATCH_BYTES = 256 * 1024
"""Of one partition's batch before compression: the broker takes 1 MB; larger gains nothing."""

SMALL_BYTES = 16 * 1024
"""A message below this is below every topic's limit that was ever seen; above it is measured."""

MAX_REMEMBERED_KEYS = 1_000_000
"""Keys whose partition is remembered: murmur2 in Python costs 2-10 us."""

Place = tuple[str, int]

Message = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]
"""Key, value, headers."""

NO_HEADERS: list[tuple[str, bytes]] = []


@dataclass(eq=False, slots=True)
class _Batch:
    """Messages of one partition, in a builder of one client.

    number: rises in the order of sending; what a refused batch is split into keeps it. future: its
    acknowledgement; None before it was handed over, and after it was refused.
    """

    place: Place
    client: Client
    builder: Any
    number: int = 0
    n_refused: int = 0
    messages: list[Message] = field(default_factory=list)
    future: asyncio.Future[Any] | None = None

    def append(self, message: Message) -> bool:
        """False when it is full; an empty one takes a message of any size."""
        key, value, headers = message
        added = self.builder.append(key=key, value=value, timestamp=None, headers=list(headers))
        if added is None:
            return False
        self.messages.append(message)
        return True


class Checkpoint:
    """The batches that were under way at one moment."""

    def __init__(self, producer: BulkProducer, number: int) -> None:
        self._producer = producer
        self._number = number

    async def acknowledged(self) -> None:
        """Wait until the broker has them all.

        Raises BrokerAway when one was not delivered, MessageTooLarge when a message (named once)
        is larger than its topic takes: the others are there.
        """
        await self._producer.settle(self._number)


class BulkProducer:
    """Sends keyed messages in large batches; also from several tasks.

    bootstrap: host:port,...; client_id: shown in the broker's logs.
    """

    def __init__(self, bootstrap: str, client_id: str = "foldstream-bulk") -> None:
        self._bootstrap = bootstrap
        # zstd: 0.4 us an event and an eighth of the bytes; aiokafka takes lz4's slow level 9:
        # 2.3 us.
        self._delivery = Delivery(
            bootstrap,
            (),
            client_id,
            "zstd",
            batch_bytes=BATCH_BYTES,
            answer_s=60.0,  # a broker that restarts is back within it
        )
        self._open: dict[Place, _Batch] = {}
        self._unsettled: dict[_Batch, None] = {}  # sent or refused, in the order of sending
        self._n_sent = 0
        self._n_partitions: dict[str, int] = {}
        self._partitions: dict[tuple[str, bytes], int] = {}
        self._failure: BaseException | None = None
        self._too_large: MessageTooLarge | None = None
        self._sending = asyncio.Lock()
        """Held while a batch is neither `_open` nor `_unsettled`; keeps batches in order."""

    async def start(self) -> None:
        """Connect. Raises BrokerAway."""
        try:
            await self._delivery.start()
        except BrokerAway as error:
            raise BrokerAway(f"no broker at {self._bootstrap}: is the stack up?") from error

    async def stop(self) -> None:
        """Send what is queued and disconnect. Open batches are dropped: `flush` first."""
        await self._delivery.stop()

    async def put(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Add one message; waits only when its partition's batch is full and the last is unsent.

        Raises BrokerAway when an earlier batch could not be delivered, MessageTooLarge for this
        message (nothing else is touched by it) or one of before, TopicMissing.
        """
        partition = self._partitions.get((topic, key))
        if partition is None:
            partition = await self._partition_of(topic, key)
        batch = self._open.get((topic, partition))
        # What `_add` does, without its calls: they cost a third more, and this is the usual case.
        if batch is not None and (value is None or len(value) <= SMALL_BYTES):
            added = batch.builder.append(key=key, value=value, timestamp=None, headers=NO_HEADERS)
            if added is not None:
                batch.messages.append((key, value, NO_HEADERS))
                return
        await self._add((topic, partition), (key, value, NO_HEADERS))

    async def put_at(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """`put` on a partition of the sender's choice, with headers: for what is no event."""
        if topic not in self._n_partitions:
            await self._learn(topic)
        await self._add((topic, partition), (key, value, list(headers)))

    async def send_open(self) -> None:
        """Hand all open batches to the broker connection, without waiting for their answers."""
        for place in list(self._open):
            await self._send(place)

    async def checkpoint(self) -> Checkpoint:
        """Send what is open; the result tells when all that was put so far is acknowledged."""
        await self.send_open()
        async with self._sending:  # what another task is handing over counts too
            return Checkpoint(self, self._n_sent)

    async def flush(self) -> None:
        """Wait until everything is acknowledged. Raises as `Checkpoint.acknowledged`."""
        await (await self.checkpoint()).acknowledged()

    def raise_failure(self) -> None:
        """Raise BrokerAway when a batch could not be delivered, MessageTooLarge once for a message
        that was refused."""
        self._raise_failed()
        too_large, self._too_large = self._too_large, None
        if too_large is not None:
            raise too_large

    def _raise_failed(self) -> None:
        """Raise BrokerAway when a batch could not be delivered: nobody knows whether it was taken,
        so this producer is at its end."""
        if self._failure is not None:
            raise self._away(self._failure) from self._failure

    async def settle(self, number: int) -> None:
        """Wait until all batches up to a number are acknowledged; see `Checkpoint`."""
        while self._failure is None:
            mine = [batch for batch in self._unsettled if batch.number <= number]
            if not mine:
                break
            waiting = [batch.future for batch in mine if batch.future is not None]
            if len(waiting) < len(mine):
                async with self._sending:
                    await self._send_refused()
            else:
                await asyncio.wait(waiting)
                await asyncio.sleep(0)  # their callbacks
        self.raise_failure()

    async def _add(self, place: Place, message: Message) -> None:
        while True:
            batch = self._open.get(place)
            if batch is None:
                client = await self._delivery.working()
                batch = self._open.get(place)  # another task may have made it meanwhile
                if batch is None:
                    batch = self._open[place] = _empty(place, client)
            if len(message[1] or b"") > SMALL_BYTES:
                check_size(batch.client, place[0], *message)
            if batch.append(message):
                return
            await self._send(place)

    async def _send(self, place: Place) -> None:
        async with self._sending:
            self.raise_failure()
            await self._send_refused()
            batch = self._open.pop(place, None)
            if batch is None:  # another task was quicker
                return
            self._n_sent += 1
            batch.number = self._n_sent
            await self._hand_over(batch)
            await self._send_refused()  # if its client had broken meanwhile

    async def _hand_over(self, batch: _Batch) -> None:
        """Give a batch to its client, unless that is broken; `_sending` is held."""
        self._unsettled[batch] = None
        if not batch.client.is_usable():
            return
        topic, partition = batch.place
        try:
            future = await batch.client.producer.send_batch(
                batch.builder, topic, partition=partition
            )
        except ProducerClosed:  # it was replaced while we waited for room in its buffer
            return
        except (KafkaError, OSError) as error:
            self._failure = self._failure or error
            raise self._away(error) from error
        batch.future = future
        future.add_done_callback(lambda done: self._end(batch, done))

    def _end(self, batch: _Batch, future: asyncio.Future[Any]) -> None:
        """The broker's answer."""
        batch.client.note(future)
        error = None if future.cancelled() else future.exception()
        if isinstance(error, NOT_TAKEN):
            batch.future = None  # and stays unsettled
            batch.n_refused += isinstance(error, TOO_LARGE)
            return
        self._unsettled.pop(batch, None)
        self._failure = self._failure or error

    async def _send_refused(self) -> None:
        """Send again what was refused or never handed over; `_sending` is held.

        `working` ends the broken client first, so everything that was under way is then either
        acknowledged or among the refused: those stand in the order in which they were sent.
        """
        while any(batch.future is None for batch in self._unsettled):
            client = await self._delivery.working()
            await asyncio.sleep(0)  # the callbacks of what ended with the old one
            self._raise_failed()
            again = [batch for batch in self._unsettled if batch.future is None]
            for batch in again:
                del self._unsettled[batch]
            for batch in again:
                for part in self._split(batch, client):
                    await self._hand_over(part)

    def _split(self, batch: _Batch, client: Client) -> list[_Batch]:
        """A refused batch for another client: as one, or as several that are small enough."""
        topic = batch.place[0]
        # A new client knows the topic's limit. What it sends is refused only if the limit can't be
        # read or is not the broker's last word: then each goes alone, to tell which one it is.
        alone = batch.n_refused > 1
        parts: list[_Batch] = []
        for message in batch.messages:
            try:
                check_size(client, topic, *message)
                if alone and len(batch.messages) == 1:
                    raise MessageTooLarge(
                        f"a message for {topic} is too large for the broker: "
                        f"{len(message[1] or b'')} bytes",
                        max_bytes=len(message[1] or b"") - 1,
                    )
            except MessageTooLarge as error:
                self._too_large = self._too_large or error
                continue
            if alone or not parts or not parts[-1].append(message):
                parts.append(_empty(batch.place, client, batch))
                parts[-1].append(message)
        return parts

    def _away(self, error: BaseException) -> BrokerAway:
        return BrokerAway(f"the broker at {self._bootstrap} did not take a batch: {error!r}")

    async def _learn(self, topic: str) -> int:
        """Partition count and size limit of a topic that is new to us."""
        count = self._n_partitions.get(topic)
        if count is None:
            found = await partition_counts(self._bootstrap, [topic])
            if topic not in found:
                raise TopicMissing(f"topic {topic} does not exist at {self._bootstrap}")
            await self._delivery.learn(topic)
            count = self._n_partitions[topic] = found[topic]
        return count

    async def _partition_of(self, topic: str, key: bytes) -> int:
        """Partition of a key, as Java's and aiokafka's default partitioner choose it."""
        count = await self._learn(topic)
        if len(self._partitions) >= MAX_REMEMBERED_KEYS:
            self._partitions.clear()
        partition = int(murmur2(key) & 0x7FFFFFFF) % count
        self._partitions[topic, key] = partition
        return partition


def _empty(place: Place, client: Client, like: _Batch | None = None) -> _Batch:
    number, n_refused = (like.number, like.n_refused) if like is not None else (0, 0)
    return _Batch(place, client, client.producer.create_batch(), number, n_refused)
