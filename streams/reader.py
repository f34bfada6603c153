"""Reads partitions into bounded buffers: what `BatchConsumer` and `ManualReader` share.

One task fetches for all partitions. In the step that takes records from aiokafka it also reads
the positions, without an await between, so a batch is always the whole of [start, end).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import (
    ConsumerStoppedError,
    CorruptRecordException,
    GroupAuthorizationFailedError,
    IllegalStateError,
    KafkaError,
    NoOffsetForPartitionError,
    OffsetOutOfRangeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnsupportedCodecError,
)

from streams.aiokafka_bulk import teach
from streams.aiokafka_mends import mend
from streams.batch import RawBatch
from streams.errors import BrokerAway, OffsetGap, PartitionRevoked, StreamsError
from streams.pace import QUIET, FetchPace
from streams.partition_buffers import PartitionBuffer, State
from streams.topics import TopicMissing, partition_counts

log = logging.getLogger(__name__)

LARGE_TURN: Final = 500
"""Messages of a batch that is worth its cost; after smaller ones the pace is watched."""

POLL_MS: Final = 100
"""Longest wait of one turn: so long may a moved end without messages, or a partition that was
just resumed, wait while all others are silent. Messages are handed on at once."""

ANSWER_S: Final = 5.0
"""A request unanswered for so long has lost its broker, and its connection is made anew: nothing
else notices that the far end is gone without a word. Below a session (6 s at least), so that a
heartbeat gets its second chance within it; above the longest honest wait seen, 2 s of a broker
whose disk is busy. A group that rebalances for longer is only asked again."""

FETCH_BYTES: Final = 2 * 1024 * 1024
"""One answer to a fetch, which has to come within `ANSWER_S` over a slow link too (0.5 MB/s). Still
tens of thousands of events: larger ones were no faster."""

STOP_S: Final = 2.0
"""For the goodbye at a stop: with a broker that answers it takes milliseconds."""

NOBODY_S: Final = 0.2
"""The same where no connection is left to say it on."""

HOPELESS: Final = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    UnsupportedCodecError,
    RecordTooLargeError,
)
"""Another try can't help: a person must act."""

CORRUPT_TRIES: Final = 5
"""A damaged answer may have been the network; five in a row are the disk."""


def kafka_consumer(
    bootstrap: str, client_id: str, answer_s: float = ANSWER_S, **settings: Any
) -> Any:
    """An aiokafka consumer with what every reader here relies on; not started.

    read_committed: aborted events must not be folded. auto_offset_reset none: the default would
    skip events silently. max_poll_interval: never (24 days); the default leaves the group after
    five minutes without a fetch, which is what a pause for a store that is away looks like.
    metadata_max_age: a topic that is given more partitions must not be folded on by the old count;
    the default looks every five minutes.
    """
    return AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=client_id,
        enable_auto_commit=False,
        isolation_level="read_committed",
        request_timeout_ms=int(answer_s * 1_000),
        fetch_min_bytes=QUIET[0],
        fetch_max_wait_ms=QUIET[1],
        fetch_max_bytes=FETCH_BYTES,
        max_poll_interval_ms=2**31 - 1,
        metadata_max_age_ms=10_000,
        **{"auto_offset_reset": "none"} | settings,
    )


async def start_client(client: Any, bootstrap: str) -> None:
    """Start an aiokafka client, or close it and raise BrokerAway."""
    mend()
    teach()
    try:
        await client.start()
    except (KafkaError, OSError) as error:
        await client.stop()
        raise BrokerAway(f"no answer from Kafka at {bootstrap}: {error}") from error
    except asyncio.CancelledError:
        await client.stop()
        raise


def is_connected(client: Any) -> bool:
    """Whether an aiokafka client has any connection left (its far end may be silent)."""
    return any(connection.connected() for connection in client._conns.values())


async def stop_consumer(consumer: Any, leave: bool = False) -> None:
    """Stop an aiokafka consumer, also when its broker is away: within seconds, without an error.

    leave: a static member leaves its group too; otherwise its partitions idle for the session
    time-out, which is right only before a restart.
    Its own `stop` then waits for the request time-out, or ends with a CancelledError that
    nobody sent.
    """
    if leave and consumer._coordinator is not None:
        # aiokafka sends LeaveGroup at the right moment (its group task has ended, so nothing
        # joins again behind it), but never for a static member: so let it be none.
        consumer._coordinator._group_instance_id = None
    stopping = asyncio.ensure_future(consumer.stop())
    patience_s = STOP_S if is_connected(consumer._client) else NOBODY_S
    done, _ = await asyncio.wait((stopping,), timeout=patience_s)
    if not done:
        log.warning("no goodbye to the broker within %g s", patience_s)
        stopping.cancel()
        await asyncio.wait((stopping,), timeout=1.0)
    if not stopping.done() or stopping.cancelled() or stopping.exception() is not None:
        await consumer._client.close()
        consumer._closed = True  # or it would warn, when it is collected, that nobody stopped it


def check_client(consumer: Any, topic: str) -> None:
    """Raise what aiokafka's own tasks have to say; a dead one says nothing by itself (#983)."""
    consumer._coordinator.check_errors()
    fetcher = consumer._fetcher.error_future
    if fetcher.done() and not consumer._closed:
        cause = None if fetcher.cancelled() else fetcher.exception()
        raise StreamsError(f"aiokafka's fetcher of {topic} has ended") from cause


async def check_topic_exists(bootstrap: str, topic: str) -> int:
    """The topic's partition count. Raises TopicMissing or BrokerAway."""
    counts = await partition_counts(bootstrap, [topic])
    if topic not in counts:
        raise TopicMissing(
            f"topic {topic} does not exist at {bootstrap}: start a foldstream worker once (it "
            "creates its topics), or correct the topic prefix"
        )
    return counts[topic]


class PartitionReader:
    """Fetches the partitions that a subclass opens; hands them out batch by batch.

    max_poll_records: most messages of one turn; decoding them holds the event loop (1-2 us each).
    buffer_events, buffer_bytes: bounds of each partition's buffer.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        max_poll_records: int = 2_000,
        buffer_events: int = 20_000,
        buffer_bytes: int = 8 * 1024 * 1024,
    ) -> None:
        self.bootstrap = bootstrap
        self.topic = topic
        self._max_poll_records = max_poll_records
        self._buffer_events = buffer_events
        self._buffer_bytes = buffer_bytes
        self._pace = FetchPace()
        self._consumer: Any = None
        self._buffers: dict[int, PartitionBuffer] = {}
        self._opened_at: dict[int, float] = {}
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._fetch_task: asyncio.Task[None] | None = None
        self._stopping = False
        self._turned_at = time.monotonic()
        self._n_corrupt: Counter[str] = Counter()  # by error, answers in a row
        self.failed: asyncio.Future[None]
        """From the start on: gets the exception that ended the reader; never a result."""

    # What the owner calls -------------------------------------------------------------------

    async def next_batch(self, partition: int, max_events: int) -> RawBatch:
        """The next messages of a partition: waits until there is one, or until the end moved.

        ``start`` is the ``end`` of the previous batch, or where `seek` went. One task at a time
        may wait for a partition.
        Raises PartitionRevoked (also for a partition never assigned), OffsetGap when the log
        does not hold the next offset (after everything fetched before was handed out), and
        whatever ended the reader.
        """
        buffer = self._buffers.get(partition)
        if buffer is None:
            self._raise_failure()
            raise PartitionRevoked(f"{self.topic}[{partition}] is not assigned to this reader")
        while True:
            if buffer.state is State.CLOSED:
                self._raise_failure()
                raise PartitionRevoked(f"{self.topic}[{partition}] was revoked")
            batch = buffer.take(max_events)
            if batch is not None:
                if buffer.state is State.FULL and buffer.is_half_empty:
                    self._resume(buffer)
                return batch
            self._raise_failure()
            if buffer.state is State.GAP:
                raise await self._gap(buffer)
            buffer.changed.clear()
            await buffer.changed.wait()

    def seek(self, partition: int, next_offset: int) -> None:
        """Go on at ``next_offset``; nothing fetched before shows up after it.

        Raises PartitionRevoked.
        """
        buffer = self._buffers.get(partition)
        if buffer is None or buffer.state is State.CLOSED:
            raise PartitionRevoked(f"{self.topic}[{partition}] is not assigned to this reader")
        tp = TopicPartition(self.topic, partition)
        try:
            self._consumer.seek(tp, next_offset)
            self._consumer.resume(tp)
        except IllegalStateError as error:
            raise PartitionRevoked(f"{self.topic}[{partition}] was revoked") from error
        buffer.seek(next_offset)
        self._opened_at[partition] = time.time()
        self._changed.set()

    def release(self, partition: int) -> None:
        """Hand nothing more out of this partition: its `next_batch` raises PartitionRevoked.

        For a stop that must end the work on a batch before the group is left.
        """
        buffer = self._buffers.get(partition)
        if buffer is not None:
            buffer.mark(State.CLOSED)

    def assigned(self) -> set[int]:
        """Partitions that are ours now, read or not."""
        return {p for p, buffer in self._buffers.items() if buffer.state is not State.CLOSED}

    def n_buffered(self, partition: int) -> int:
        """Messages fetched and not handed out; 0 for a partition that is not ours."""
        buffer = self._buffers.get(partition)
        return len(buffer.records) if buffer is not None else 0

    def n_buffered_bytes(self, partition: int) -> int:
        """About what they take in memory; 0 for a partition that is not ours."""
        buffer = self._buffers.get(partition)
        return buffer.n_bytes if buffer is not None else 0

    def lag(self, partition: int) -> int | None:
        """Offsets between what was handed out and the last stable one; None: not known yet.

        The last stable offset, not the end: what an open transaction holds back is nobody's lag.
        Counts offsets, so markers and compacted messages are in it until they are passed.
        """
        buffer = self._buffers.get(partition)
        if buffer is None or buffer.state in (State.CLOSED, State.WAITING):
            return None
        tp = TopicPartition(self.topic, partition)
        try:
            stable = self._consumer.last_stable_offset(tp)
            if stable is None or stable < 0:
                stable = self._consumer.highwater(tp)
        except (IllegalStateError, AssertionError):
            return None
        # A buffer can be ahead of the last answer's number only by what the answer brought.
        return None if stable is None else max(0, stable - buffer.start)

    def n_partitions(self) -> int | None:
        """The topic's partition count as last heard (every ten seconds); None: not heard yet."""
        known = self._consumer.partitions_for_topic(self.topic)
        return len(known) if known else None

    async def begin_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """First offset that the log still holds, of any partitions. Raises BrokerAway."""
        return await self._log_offsets(self._consumer.beginning_offsets, partitions)

    async def end_offsets(self, partitions: Iterable[int]) -> dict[int, int]:
        """Last stable offset (the position behind the last readable message).

        Of any partitions, also such as are not assigned. Raises BrokerAway.
        """
        return await self._log_offsets(self._consumer.end_offsets, partitions)

    def progress_age_s(self) -> float:
        """Seconds since the fetching task last turned: it does ten times a second, broker or not.

        The measure of liveness; a broker that is away is in `fetch_age_s`.
        """
        return time.monotonic() - self._turned_at

    def fetch_age_s(self) -> float:
        """Seconds since the broker last answered for the partition that waits longest.

        0 when nothing is to be fetched. Below 1 in health: the measure of readiness, and the only
        sign of aiokafka's fetcher being stuck after a broker came back (#1154).
        """
        oldest: float | None = None
        for partition, buffer in self._buffers.items():
            if buffer.state is not State.READING:
                continue
            answered = self._opened_at.get(partition, 0.0)
            with contextlib.suppress(IllegalStateError, AssertionError):
                stamp = self._consumer.last_poll_timestamp(TopicPartition(self.topic, partition))
                answered = max(answered, (stamp or 0) / 1_000)
            oldest = answered if oldest is None else min(oldest, answered)
        return 0.0 if oldest is None else max(0.0, time.time() - oldest)

    # For subclasses -------------------------------------------------------------------------

    def _start_fetching(self) -> None:
        self.failed = asyncio.get_running_loop().create_future()
        self._fetch_task = asyncio.create_task(self._fetch(), name=f"fetch {self.topic}")

    async def _stop_fetching(self) -> None:
        self._stopping = True
        if self._fetch_task is not None:
            self._fetch_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetch_task
            self._fetch_task = None
        self._close_buffers()

    def _close_buffers(self) -> None:
        for buffer in self._buffers.values():
            buffer.mark(State.CLOSED)

    def _add_buffers(self, partitions: Iterable[int]) -> None:
        self._close_buffers()
        self._opened_at = {}
        self._buffers = {
            p: PartitionBuffer(p, self._buffer_events, self._buffer_bytes) for p in partitions
        }

    def _fail(self, error: BaseException) -> None:
        """End the reader: everyone who waits gets the error, and so does `failed`."""
        if self._failure is not None:
            return
        self._failure = error
        log.error("reader of %s stopped: %s", self.topic, error)
        if not self.failed.done():
            self.failed.set_exception(error)
            self.failed.exception()  # retrieved: whoever watches gets it, nobody must
        for buffer in self._buffers.values():
            buffer.changed.set()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    # The fetching task ----------------------------------------------------------------------

    async def _fetch(self) -> None:
        try:
            while self._failure is None and not self._stopping:
                self._turned_at = time.monotonic()
                await self._turn()
        except Exception as error:  # noqa: BLE001  a bug here must reach every waiting task
            self._fail(error)

    async def _turn(self) -> None:
        buffers = {
            TopicPartition(self.topic, p): buffer
            for p, buffer in self._buffers.items()
            if buffer.state is State.READING
        }
        try:
            check_client(self._consumer, self.topic)
            if not buffers:  # getmany() of no partition would mean all of them
                self._changed.clear()
                # Not asyncio.wait_for: on Python 3.11 it swallows a cancellation that comes
                # together with the event, and the stop then waits for ever.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL_MS / 1_000):
                        await self._changed.wait()
                return
            fetched = await self._consumer.getmany(
                *buffers, timeout_ms=POLL_MS, max_records=self._max_poll_records
            )
        except OffsetOutOfRangeError as error:
            for tp, offset in error.args[0].items():
                buffer = buffers.get(tp)
                if buffer is not None and buffer.state is State.READING and buffer.end == offset:
                    self._consumer.pause(tp)
                    buffer.mark(State.GAP)
            return
        except NoOffsetForPartitionError:
            return  # from the moment between assignment and our seek; the seek has settled it
        except ConsumerStoppedError:
            return
        except HOPELESS as error:
            raise StreamsError(f"{self.topic} can't be read: {error!r}") from error
        except KafkaError as error:
            await self._recover(error, buffers)
            return
        # From here to the end of the loop: no await that could suspend, see the module's head.
        if self._n_corrupt:
            sound = list(map(str, fetched))  # its error names the partition in its text alone
            for text in [t for t in self._n_corrupt if any(tp in t for tp in sound)]:
                del self._n_corrupt[text]
        for tp, buffer in buffers.items():
            if buffer.state is not State.READING:
                continue  # closed by a rebalance, or moved by a seek that failed
            if buffer.append(fetched.get(tp, ()), await self._consumer.position(tp)):
                self._consumer.pause(tp)
        self._pace.note(self._consumer, sum(map(len, fetched.values())))

    async def _recover(
        self, error: KafkaError, buffers: dict[TopicPartition, PartitionBuffer]
    ) -> None:
        """After an error of the client: back to the buffers' ends, then on.

        aiokafka may have moved the position of a partition whose records were lost with the
        exception; the ends of the buffers are what was really received.
        """
        if isinstance(error, CorruptRecordException):
            self._n_corrupt[str(error)] += 1
            if self._n_corrupt[str(error)] >= CORRUPT_TRIES:
                raise StreamsError(
                    f"{self.topic}: damaged record batch, {CORRUPT_TRIES} times: {error}; restore "
                    "the partition from a replica"
                ) from error
        coordination = getattr(self._consumer._coordinator, "_coordination_task", None)
        if coordination is not None and coordination.done():
            raise StreamsError(f"aiokafka's group task of {self.topic} has ended") from error
        log.warning("reading %s: %r; going on", self.topic, error)
        for tp, buffer in buffers.items():
            if buffer.state is State.READING:
                with contextlib.suppress(IllegalStateError):
                    self._consumer.seek(tp, buffer.end)
        await asyncio.sleep(0.2)

    def _resume(self, buffer: PartitionBuffer) -> None:
        buffer.state = State.READING
        self._opened_at[buffer.partition] = time.time()
        with contextlib.suppress(IllegalStateError):  # revoked: the buffer is closed in a moment
            self._consumer.resume(TopicPartition(self.topic, buffer.partition))
        self._changed.set()

    async def _gap(self, buffer: PartitionBuffer) -> OffsetGap:
        wanted, partition = buffer.end, buffer.partition
        gap: tuple[int, int] | None = None
        try:
            begin = (await self.begin_offsets([partition]))[partition]
            end = (await self.end_offsets([partition]))[partition]
            holds = f"the log holds {begin} to {end}"
            if not begin <= wanted <= end:
                gap = (wanted, begin) if wanted < begin else (end, wanted)
                holds += f", so offsets [{gap[0]}, {gap[1]}) are missing"
        except BrokerAway as error:
            holds = f"its range is not known: {error}"
        return OffsetGap(
            f"{self.topic}[{partition}]: offset {wanted} is out of range, {holds}; retention or a "
            "person took events before they were read, or the log lost its end",
            gap,
        )

    async def _log_offsets(self, method: Any, partitions: Iterable[int]) -> dict[int, int]:
        wanted = [TopicPartition(self.topic, p) for p in partitions]
        try:
            found = await method(wanted)
        except (KafkaError, OSError) as error:
            raise BrokerAway(f"offsets of {self.topic}: {error}") from error
        return {tp.partition: offset for tp, offset in found.items()}
