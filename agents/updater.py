"""The updater: follows the partitions of `foldstream.events` that the group gives it.

`ProfileUpdater.follow` reads like the sentence that describes it: read a batch, fold it, go on.
What one batch goes through is `partition_fold`; which partitions are ours, and what happens when a
commit is refused, is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog
from mode import Service

from agents.errors import AgentsError
from agents.flood import DeadLetterFlood, LookBack
from agents.generations import RecordFormat
from agents.log_check import LogCheck, all_of, grown
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import (
    RETRY_S,
    Announcer,
    FoldFault,
    Limits,
    PartitionFold,
)
from agents.translate import Translator
from agents.trials import LiveTrials, TrialLog
from profiles.errors import Fenced, RecordCorrupt, RecordTooNew, StoreAway, StoreWentBack
from profiles.interactions import Kinds
from profiles.store import Acquired, LogPosition, ProfileStore
from streams.batch import Reject
from streams.codec import EventCodec
from streams.consumer import BatchConsumer, ConsumerConfig
from streams.errors import BrokerAway, OffsetGap, PartitionRevoked
from streams.events import ProfileChange
from streams.log_identity import LogIdentity, log_identity
from streams.manual_reader import ManualReader
from streams.pace import WorkPace, demand_s
from streams.producer import Producer
from streams.reader import LARGE_TURN

ASK_S = 5.0
"""How long to wait for the coordinator's answer; aiokafka itself would wait for ever."""

COMMITS_PER_S = 300
LEAST_COMMITS_PER_S, MOST_COMMITS_PER_S = 200, 2_000
"""Beyond, batches grow instead. A step costs 0.5 to 0.9 ms however small it is; how many of them
leave the event loop enough room is seen while it runs. With 16 partitions and 300 of them a batch
waits 53 ms at most."""

logger = structlog.get_logger(__name__)


class KafkaAnnouncer(Announcer):
    """Sends a commit's outbox to `profile-changes`, and dead letters to their topic."""

    def __init__(self, producer: Producer, source_topic: str, max_bytes: int) -> None:
        """max_bytes: a longer value travels as its position and SHA-256."""
        self._producer = producer
        self._source_topic = source_topic
        self._max_bytes = max_bytes

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        for message in messages:
            await self._producer.announce(partition, message)

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        await self._producer.send_dead_letters(
            rejects, self._source_topic, max_bytes=self._max_bytes
        )


@dataclass(slots=True)
class Parts:
    """What every partition's fold is made of; the same objects for all partitions."""

    model: Model
    store: ProfileStore
    codec: EventCodec
    translator: Translator
    kinds: Kinds
    announcer: Announcer
    metrics: Metrics
    limits: Limits
    now_ms: Callable[[], int]
    record_format: RecordFormat
    trials: tuple[LiveTrials, TrialLog] | None = None
    foretell: Callable[[ProfileChange], None] | None = None

    def fold_of(
        self,
        acquired: Acquired,
        log: LogPosition,
        warm: PartitionFold | None = None,
        look_back: LookBack | None = None,
    ) -> PartitionFold:
        """The fold of one partition that has just been acquired."""
        return PartitionFold(
            acquired,
            log,
            model=self.model,
            store=self.store,
            codec=self.codec,
            translator=self.translator,
            kinds=self.kinds,
            announcer=self.announcer,
            metrics=self.metrics,
            limits=self.limits,
            now_ms=self.now_ms,
            record_format=self.record_format,
            trials=self.trials,
            warm=warm,
            look_back=look_back,
            foretell=self.foretell,
        )


class ProfileUpdater(Service):
    """Owns the consumer of the events topic and one `PartitionFold` for each partition held."""

    def __init__(
        self,
        parts: Parts,
        consumer_config: ConsumerConfig,
        owner: Callable[[], bytes] = lambda: os.urandom(16),
    ) -> None:
        """owner: makes the 16 random bytes of an acquisition; an argument, so that tests repeat."""
        super().__init__()
        self.folds: dict[int, PartitionFold] = {}
        self.faults: dict[int, str] = {}
        self.leave_group = True  # at a stop; not where this process is back within seconds
        self.consumer = BatchConsumer(
            consumer_config, on_assigned=self._take_over, on_revoked=self._hand_back
        )
        self._reader = ManualReader(
            consumer_config.bootstrap, consumer_config.topic, answer_s=consumer_config.answer_s
        )
        self._check = LogCheck(self._reader, parts.codec, parts.model.config.n_seen_slots)
        self._gaps: list[OffsetGap] = []  # of the take-over that is under way
        self._serves = False  # has taken over partitions once
        self._parts = parts
        # What was learned here is told before somebody else goes on, and read before we do.
        self.before_hand_back: Callable[[], Awaitable[object]] | None = None
        self.before_take_over: Callable[[], Awaitable[object]] | None = None
        self._pace = WorkPace(COMMITS_PER_S, (LEAST_COMMITS_PER_S, MOST_COMMITS_PER_S))
        self._measured_s = _times_s()
        self._config = consumer_config
        self._log: LogIdentity
        self._owner = owner
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._warm: dict[int, PartitionFold] = {}
        self._crashes: list[asyncio.Future[None]] = []
        self._n_rebalances = 0  # counted in the metric so far
        self._refused: set[int] = set()  # partitions that are about to be acquired anew

    async def on_start(self) -> None:
        self._log = await log_identity(self._config.bootstrap, self._config.topic)
        await self._reader.start()
        await self.consumer.start()

    async def on_stop(self) -> None:
        await self._hand_back(list(self.folds))
        await self.consumer.stop(leave=self.leave_group)
        await self._quiesce(list(self._tasks))  # of a rebalance that came in between
        await self._reader.stop()

    def lag(self, partition: int) -> int | None:
        """Offsets of a partition not committed by us yet; None when not known."""
        fold = self.folds.get(partition)
        unread = self.consumer.lag(partition)
        if fold is None or unread is None:
            return None
        return unread + max(0, fold.read_to - fold.next_offset)

    def progress_age_s(self) -> float:
        """Seconds since the part of the work that is furthest behind got on; waiting for store or
        broker doesn't count."""
        return max([self.consumer.progress_age_s(), *(f.stuck_s() for f in self.folds.values())])

    @Service.task
    async def _watch_consumer(self) -> None:
        """A failure of the consumer ends the worker: it replays from the last commit."""
        await self.consumer.failed

    @Service.timer(1.0)
    async def _measure(self) -> None:
        self._check_count()
        self._follow_load()
        metrics = self._parts.metrics
        metrics.assigned.set(len(self.folds))
        metrics.stopped.set(len(self.faults))
        metrics.rebalances.inc(self.consumer.n_rebalances - self._n_rebalances)
        self._n_rebalances = self.consumer.n_rebalances
        metrics.profiles_cached.set(sum(fold.n_cached for fold in self.folds.values()))
        metrics.events_buffered.set(sum(map(self.consumer.n_buffered, self.folds)))
        metrics.bytes_buffered.set(sum(map(self.consumer.n_buffered_bytes, self.folds)))
        for partition in self.folds:
            lag = self.lag(partition)
            if lag is not None:
                metrics.lag.labels(str(partition)).set(lag)

    def _follow_load(self) -> None:
        """As many commits as leave this thread, the event loop's, some room."""
        (at_s, worked_s), self._measured_s = self._measured_s, _times_s()
        passed_s = self._measured_s[0] - at_s
        if passed_s > 0:
            self._pace.follow((self._measured_s[1] - worked_s) / passed_s)

    async def _take_over(self, partitions: list[int]) -> dict[int, int]:
        """Acquire what the group gave us; returns where to go on reading."""
        self._check_count()
        await self._take_model_back(lambda: False)  # what was given up before may have left traces
        if self.before_take_over is not None:
            await self.before_take_over()
        # Partition 0 first: it may bring a newer item table, which others' losses are counted by.
        ordered = sorted(partitions)
        starts = [await self._open(partition) for partition in ordered if partition == 0]
        starts += await asyncio.gather(*(self._open(p) for p in ordered if p != 0))
        opened = {p: start for p, start in zip(ordered, starts, strict=True) if start is not None}
        gaps, self._gaps = self._gaps, []
        if gaps and not self._serves:
            # A person has just started this worker: better not to start than to serve a part. Later
            # only the partition stops; or one gap would end all workers, one after the other.
            raise all_of(gaps)
        self._serves = True
        for partition in opened:
            task = asyncio.create_task(self._follow(partition), name=f"follow-{partition}")
            task.add_done_callback(self._note_end)
            self._tasks[partition] = task
        return opened

    def _check_count(self) -> None:
        """Raises LogMismatch where the topic was given partitions: users would be taken apart."""
        now = self.consumer.n_partitions()
        if now is not None and now != self._log.n_partitions:
            raise grown(self._log.topic, self._log.n_partitions, now)

    async def _open(self, partition: int) -> int | None:
        """Acquire a partition; None when it has to stop: what the store holds of it can't be read,
        or the log does not hold what follows."""
        try:
            return await self._acquire(partition)
        except (RecordCorrupt, OffsetGap) as stop:
            if isinstance(stop, OffsetGap):
                self._gaps.append(stop)
            self.faults[partition] = str(stop)
            logger.error("partition stopped", partition=partition, reason=str(stop))
            return None

    async def _quiesce(self, partitions: list[int]) -> None:
        """Let each partition's batch in flight end, or give up where the store is away."""
        tasks = []
        for partition in partitions:
            if partition in self.folds:
                self.folds[partition].give_up.set()
            if partition in self._tasks:
                self.consumer.release(partition)
                tasks.append(self._tasks.pop(partition))
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _hand_back(self, partitions: list[int]) -> None:
        """The group takes partitions away: nothing of ours may be under way when this returns."""
        await self._quiesce(partitions)
        if self.before_hand_back is not None and any(p in self.folds for p in partitions):
            await self.before_hand_back()
        for partition in partitions:
            self.faults.pop(partition, None)
            fold = self.folds.pop(partition, None)
            if fold is not None:
                fold.let_go()
                # What holds a batch that was not committed would fold it a second time.
                if not fold.pending:
                    self._warm[partition] = fold
                self._parts.metrics.forget_partition(partition)
                self._parts.model.note_handed_back(partition)
                await self._parts.store.release(partition)

    async def _acquire(self, partition: int) -> int:
        """Take the partition over in the store, check the log, load what a fold needs.

        However long store or broker are away. Raises PartitionRevoked when it is not ours any more.
        """
        while True:
            if partition not in self.consumer.assigned():
                raise PartitionRevoked(f"partition {partition} was revoked while it was acquired")
            try:
                log = self._log
                here = LogPosition(log.cluster_id, log.topic, log.n_partitions)
                acquired = await self._parts.store.acquire(partition, self._owner(), here)
                found = await self._check.check(partition, acquired, log)
                if found.gap is None:
                    break
                await self._go_on_behind(found.gap, acquired, found.position)
            except (StoreAway, BrokerAway) as away:
                logger.warning("cannot acquire yet", partition=partition, reason=str(away))
                await asyncio.sleep(RETRY_S)
            except (Fenced, StoreWentBack) as refused:
                logger.warning("acquired by another", partition=partition, reason=str(refused))
                await asyncio.sleep(RETRY_S)
        if partition == 0:
            await self._catch_up()
        warm = self._warm.pop(partition, None)
        if warm is not None and not (
            acquired.claim.epoch == warm.claim.epoch + 1
            and acquired.next_offset == warm.next_offset
        ):
            warm = None  # somebody else had it in between: what we remember may be stale
        self.folds[partition] = self._parts.fold_of(
            acquired, found.position, warm, self._reader.read_before
        )
        self._parts.model.reconcile(partition, acquired.next_offset)
        return acquired.next_offset

    async def _go_on_behind(
        self, gap: OffsetGap, acquired: Acquired, position: LogPosition
    ) -> None:
        """Pass over what the log does not hold, if a person has said so; then acquire anew.

        Raises the gap otherwise: a hard stop that names the remedy.
        """
        if not self._parts.limits.accept_gap or gap.gap is None:
            raise gap
        first, upto = gap.gap
        partition = acquired.claim.partition
        if first >= acquired.next_offset:
            await self._parts.fold_of(acquired, position).skip(upto)
            return
        gaps = acquired.checkpoint.gaps if acquired.checkpoint else ()
        await self._parts.store.step_back(acquired.claim, first, (*gaps, (first, upto)))
        self._parts.metrics.gap_offsets.labels(str(partition)).inc(upto - first)
        logger.warning("the log's lost end accepted", partition=partition, first=first, upto=upto)

    async def _follow(self, partition: int) -> None:
        """Read a batch, fold it, go on; until the partition goes to somebody else."""
        while True:
            fold = self.folds[partition]
            try:
                raw = await self.consumer.next_batch(partition, self._parts.limits.batch_events)
                await fold.step(raw)
                self.consumer.request_commit(partition, fold.next_offset)
                if len(raw) < LARGE_TURN:
                    await asyncio.sleep(self._pace.pause_s())
            except PartitionRevoked:
                with contextlib.suppress(BrokerAway):  # then the next owner sends it
                    await fold.finish()
                return
            except Fenced as fenced:
                self._parts.metrics.fenced.inc()
                logger.warning("fenced", partition=partition, reason=str(fenced))
                if not await self._start_over(partition):
                    return
            except StoreWentBack as back:
                self._parts.metrics.went_back.inc()
                self._parts.model.tainted = True  # with what was committed, and will come again
                logger.warning("store went back", partition=partition, reason=str(back))
                if not await self._start_over(partition):
                    return
            except (StoreAway, BrokerAway) as away:  # given up: the partition is being handed back
                logger.warning("batch given up", partition=partition, reason=str(away))
                return
            except OffsetGap as gap:  # retention, or a person, was quicker than we
                if self._parts.limits.accept_gap and gap.gap is not None:
                    if not await self._start_over(partition):
                        return
                    continue
                logger.error("partition stopped", partition=partition, reason=str(gap))
                self._stop_partition(partition, f"{gap}; foldstream worker --accept-gap goes on")
                return
            except (DeadLetterFlood, RecordCorrupt, RecordTooNew, FoldFault) as stop:
                logger.error(
                    "partition stopped",
                    partition=partition,
                    reason=str(stop),
                    exc_info=stop.__cause__,
                )
                self._stop_partition(partition, str(stop))
                # Vectors may be half moved: back to what was committed.
                await self._take_model_back(fold.give_up.is_set)
                return

    def _note_end(self, task: asyncio.Task[None]) -> None:
        """What `_follow` has no answer for ends the worker: it replays from the last commit.

        A cancellation too: nobody here cancels it, and the partition would stand still in silence.
        """
        error: BaseException | None = None
        if not task.cancelled():
            error = task.exception()
        elif task in self._tasks.values():
            error = AgentsError(f"{task.get_name()} was cancelled from outside")
        if error is not None:
            self._crashes.append(asyncio.ensure_future(self.crash(error)))

    async def _start_over(self, partition: int) -> bool:
        """After a refusal: forget what was pending, acquire anew if it is still ours."""
        refused = self.folds[partition]
        self._refused.add(partition)
        try:
            await self._take_model_back(refused.give_up.is_set)
            while True:
                try:
                    async with asyncio.timeout(ASK_S):
                        ours = await self.consumer.still_ours(partition, refused.next_offset)
                    break
                except (BrokerAway, TimeoutError) as away:
                    logger.warning("cannot ask the group", partition=partition, reason=repr(away))
                    if refused.give_up.is_set():
                        return False
                    await asyncio.sleep(RETRY_S)
            if not ours:  # the rebalance under way gives it to us again, or to somebody else
                return False
            self._warm.pop(partition, None)
            self.consumer.seek(partition, await self._acquire(partition))
        except PartitionRevoked:
            return False
        finally:
            self._refused.discard(partition)
        return True

    async def _catch_up(self) -> None:
        """Partition 0 makes us the writer of item snapshots: go on from the newest."""
        while True:
            if 0 not in self.consumer.assigned():
                raise PartitionRevoked("partition 0 was revoked while it was acquired")
            try:
                await self._parts.model.catch_up(self._positions)
                return
            except (StoreAway, BrokerAway) as away:
                logger.warning("item snapshot not read yet", reason=str(away))
                await asyncio.sleep(RETRY_S)

    async def _take_model_back(self, give_up: Callable[[], bool]) -> None:
        """Drop what the item table learned from batches that were not committed, if any."""
        model = self._parts.model
        while (model.tainted or model.unsettled) and not give_up():
            try:
                await model.take_back(self._positions)
            except (StoreAway, BrokerAway) as away:
                logger.warning("item table not reloaded yet", reason=str(away))
                await asyncio.sleep(RETRY_S)

    def _positions(self) -> dict[int, int]:
        """Next_offset of the partitions that go on from where they are."""
        return {
            partition: fold.next_offset
            for partition, fold in self.folds.items()
            if partition not in self._refused
        }

    def _stop_partition(self, partition: int, fault: str) -> None:
        """This partition waits for people; the others go on."""
        self.faults[partition] = fault
        fold = self.folds[partition]
        fold.state = "stopped"
        fold.fault = fault


def _times_s() -> tuple[float, float]:
    """Seconds that have passed, and those in which this thread had something to do."""
    return time.monotonic(), demand_s()


def wall_clock_ms() -> int:
    """Milliseconds since 1970: the application's clock; nothing below `agents` has one."""
    return time.time_ns() // 1_000_000
