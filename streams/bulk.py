"""A producer for many messages at once: whole batches are built here and sent one a partition.

aiokafka's `send` costs about 20 us a message (a future, a lock and a partitioner each); filling
its batch builders ourselves costs 3 us. Order within a partition is kept, the producer is
idempotent and waits for all replicas. What has been acknowledged is told by `checkpoint`, which
is what an ingest that resumes needs; single events go through `producer`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.partitioner import murmur2

from streams.errors import BrokerAway

BATCH_BYTES = 256 * 1024
"""Of one partition's batch before compression: the broker takes 1 MB; larger gains nothing."""

MAX_REMEMBERED_KEYS = 1_000_000
"""Keys whose partition is remembered: murmur2 in Python costs 2-10 us."""


class Checkpoint:
    """The batches that were under way at one moment."""

    def __init__(self, producer: BulkProducer, pending: list[asyncio.Future[Any]]) -> None:
        self._producer = producer
        self._pending = pending

    async def acknowledged(self) -> None:
        """Wait until the broker has them all. Raises BrokerAway when one was not delivered."""
        if self._pending:
            await asyncio.wait(self._pending)
        self._producer.raise_failure()


class BulkProducer:
    """Sends keyed messages in large batches; also from several tasks.

    bootstrap: host:port,...; client_id: shown in the broker's logs.
    """

    def __init__(self, bootstrap: str, client_id: str = "foldstream-bulk") -> None:
        self._bootstrap = bootstrap
        self._producer = AIOKafkaProducer(
            bootstrap_servers=bootstrap,
            client_id=client_id,
            acks="all",
            enable_idempotence=True,
            # 0.4 us an event and an eighth of the bytes; aiokafka takes lz4's slow level 9: 2.3 us.
            compression_type="zstd",
            max_batch_size=BATCH_BYTES,
            max_request_size=8 * BATCH_BYTES,
            request_timeout_ms=60_000,  # a broker that restarts is back within it
        )
        self._open: dict[tuple[str, int], Any] = {}
        self._unacknowledged: set[asyncio.Future[Any]] = set()
        self._n_partitions: dict[str, int] = {}
        self._partitions: dict[tuple[str, bytes], int] = {}
        self._failure: BaseException | None = None
        self._sending = asyncio.Lock()
        """Held while a batch is neither `_open` nor `_unacknowledged`; keeps batches in order."""

    async def start(self) -> None:
        """Connect. Raises BrokerAway."""
        try:
            await self._producer.start()
        except KafkaConnectionError as error:
            await self._producer.stop()
            raise BrokerAway(f"no broker at {self._bootstrap}: is the stack up?") from error

    async def stop(self) -> None:
        """Send what is queued and disconnect. Open batches are dropped: `flush` first."""
        await self._producer.stop()

    async def put(self, topic: str, key: bytes, value: bytes | None) -> None:
        """Add one message; waits only when its partition's batch is full and the last is unsent.

        Raises BrokerAway when an earlier batch could not be delivered.
        """
        place = (topic, self._partitions.get((topic, key), -1))
        if place[1] < 0:
            place = (topic, await self._partition_of(topic, key))
        while True:
            builder = self._open.get(place)
            if builder is None:
                builder = self._open[place] = self._producer.create_batch()
            # An empty batch takes a message of any size, so this ends at the second turn.
            if builder.append(key=key, value=value, timestamp=None) is not None:
                return
            await self._send(place)

    async def send_open(self) -> None:
        """Hand all open batches to the broker connection, without waiting for their answers."""
        for place in list(self._open):
            await self._send(place)

    async def checkpoint(self) -> Checkpoint:
        """Send what is open; the result tells when all that was put so far is acknowledged."""
        await self.send_open()
        async with self._sending:  # what another task is handing over counts too
            return Checkpoint(self, list(self._unacknowledged))

    async def flush(self) -> None:
        """Wait until everything is acknowledged. Raises BrokerAway."""
        await (await self.checkpoint()).acknowledged()

    def raise_failure(self) -> None:
        """Raise BrokerAway when a batch could not be delivered."""
        if self._failure is not None:
            raise self._away(self._failure) from self._failure

    async def _send(self, place: tuple[str, int]) -> None:
        async with self._sending:
            self.raise_failure()
            builder = self._open.pop(place, None)
            if builder is None:  # another task was quicker
                return
            try:
                future = await self._producer.send_batch(builder, place[0], partition=place[1])
            except KafkaError as error:
                raise self._away(error) from error
            self._unacknowledged.add(future)
            future.add_done_callback(self._acknowledge)

    def _acknowledge(self, future: asyncio.Future[Any]) -> None:
        self._unacknowledged.discard(future)
        error = None if future.cancelled() else future.exception()
        self._failure = self._failure or error

    def _away(self, error: BaseException) -> BrokerAway:
        return BrokerAway(f"the broker at {self._bootstrap} did not take a batch: {error!r}")

    async def _partition_of(self, topic: str, key: bytes) -> int:
        """Partition of a key, as Java's and aiokafka's default partitioner choose it."""
        count = self._n_partitions.get(topic)
        if count is None:
            try:
                count = len(await self._producer.partitions_for(topic))
            except KafkaError as error:
                raise self._away(error) from error
            self._n_partitions[topic] = count
        if len(self._partitions) >= MAX_REMEMBERED_KEYS:
            self._partitions.clear()
        partition = int(murmur2(key) & 0x7FFFFFFF) % count
        self._partitions[topic, key] = partition
        return partition
