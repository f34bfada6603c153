"""The scorer: reads profiles from the store and emits ranked lists.

Two doors: `ScoringService` follows `profile-changes` and pushes a list to every user whose profile
changed; `RequestAnswerer` answers `requests` (recommend, rerank). The newest profile wins: a change
that is overtaken before its turn is skipped and counted. Positions on `profile-changes` are
committed to Kafka only behind acknowledged recommendations, so a crash repeats some and loses
none.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from mode import Service

from agents.metrics import Metrics
from agents.ranking import Ranked, Ranking
from profiles.errors import RecordCorrupt, RecordTooNew, StoreAway
from profiles.record import decode_profile
from profiles.shape import ModelShape
from profiles.store import ProfileStore
from streams.codec import decode_change, decode_request
from streams.errors import BrokerAway, DecodeError
from streams.events import (
    ChangedUser,
    Recommendation,
    RecommendRequest,
    Request,
    Stamps,
)
from streams.pace import Pace
from streams.partitioner import partition_of
from streams.producer import Producer
from streams.reader import stop_consumer

logger = structlog.get_logger(__name__)

ROUND_USERS = 128
"""Users scored at once: enough for one matrix product, few enough that others get a turn."""

PENDING_USERS = 50_000
"""Users waiting for their turn; beyond it changes wait in Kafka."""


MOST_EMITTING = 8
"""Rounds that wait for the broker's acknowledgement at once: it answers within milliseconds."""

LAST_WORD_S = 2.0
"""How long a stop waits for it; what stays unacknowledged is emitted again by the next owner."""

REMEMBER_MS = 1_000
"""Between two commits of positions: what lies in between is emitted again after a crash."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A user whose profile changed and who has no new list yet."""

    partition: int
    first_at: int  # position on profile-changes of the oldest change not served
    changed: ChangedUser
    folded_ms: int


@dataclass(frozen=True, slots=True)
class ScorerConfig:
    """Where the scorer reads, and what it emits."""

    bootstrap: str
    changes_topic: str
    group: str
    instance_id: str
    session_timeout_ms: int
    placement: str
    n: int
    model_name: str
    now_ms: Callable[[], int]


class ScoringService(Service):
    """Pushes a list to each user whose profile changed."""

    def __init__(
        self,
        config: ScorerConfig,
        ranking: Ranking,
        store: ProfileStore,
        producer: Producer,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self._config = config
        self._ranking = ranking
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._pending: dict[str, Waiting] = {}
        self._unacknowledged: dict[int, Waiting] = {}  # by identity: a user may be in two rounds
        self._emitting: set[asyncio.Task[None]] = set()
        self._pace = Pace()
        self._remembered_ms = 0
        self.progress_ms = config.now_ms()

    @property
    def n_waiting(self) -> int:
        """Users whose profile changed and who have no new list yet, as far as was read."""
        return len(self._pending)

    @Service.task
    async def _follow(self) -> None:
        consumer = AIOKafkaConsumer(
            self._config.changes_topic,
            bootstrap_servers=self._config.bootstrap,
            group_id=self._config.group,
            group_instance_id=self._config.instance_id,
            session_timeout_ms=self._config.session_timeout_ms,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # a list too many is harmless, a user left out is not
        )
        await consumer.start()
        try:
            while not self.should_stop:
                await self._round(consumer)
            if self._emitting:
                await asyncio.wait(self._emitting, timeout=LAST_WORD_S)
            await self._remember(consumer)
        finally:
            for task in self._emitting:
                task.cancel()
            if consumer._coordinator is not None:
                # As in `BatchConsumer.stop`: only a member without a static name says goodbye.
                consumer._coordinator._group_instance_id = None
            await stop_consumer(consumer)

    async def _round(self, consumer: AIOKafkaConsumer) -> None:
        """Take in what has changed, serve the next users, remember how far we came."""
        if len(self._pending) < PENDING_USERS:
            fetched = await consumer.getmany(timeout_ms=0 if self._pending else 200)
            for partition, records in fetched.items():
                for record in records:
                    self._take(partition.partition, record.offset, record.value)
        self.progress_ms = self._config.now_ms()
        if not self._pending:
            return
        turn = list(islice(self._pending.values(), ROUND_USERS))
        try:
            lists = await self._rank(turn)
        except StoreAway as away:
            logger.warning("cannot score yet", reason=str(away))
            await self.sleep(0.5)
            return
        for waiting in turn:
            self._pending.pop(waiting.changed.user_id, None)
        await self._emit(turn, lists)
        if self._config.now_ms() - self._remembered_ms >= REMEMBER_MS:
            await self._remember(consumer)
        if len(turn) < ROUND_USERS:
            await asyncio.sleep(self._pace.pause_s())

    def _take(self, partition: int, at: int, value: bytes) -> None:
        """Note who changed; a user still waiting keeps its place and gets the newer profile."""
        try:
            change = decode_change(value)
        except DecodeError as error:
            self._metrics.dead_letters.labels(error.code).inc()
            logger.error("not a profile change", partition=partition, offset=at, reason=str(error))
            return
        for user in change.users:
            before = self._pending.get(user.user_id)
            if before is not None:
                self._metrics.skipped.inc()
            first_at = at if before is None else before.first_at
            self._pending[user.user_id] = Waiting(partition, first_at, user, change.folded_ms)

    async def _rank(self, turn: Sequence[Waiting]) -> list[tuple[Waiting, Ranked]]:
        """Read the users' newest profiles and rank for them. Raises StoreAway."""
        records = await self._store.read_across(
            [(waiting.partition, waiting.changed.user_id) for waiting in turn]
        )
        known = [
            (waiting, record)
            for waiting, record in zip(turn, records, strict=True)
            if record is not None
        ]
        try:
            return self._ranked(known)
        except (RecordCorrupt, RecordTooNew):
            lists = []  # one user's record must not keep everybody from their lists
            for one in known:
                try:
                    lists += self._ranked([one])
                except (RecordCorrupt, RecordTooNew) as error:
                    logger.error("profile not read", reason=str(error))
                    self._metrics.profiles_unreadable.inc()
            return lists

    def _ranked(self, known: Sequence[tuple[Waiting, bytes]]) -> list[tuple[Waiting, Ranked]]:
        ranked = self._ranking.rank(
            [waiting.changed.user_id for waiting, _ in known],
            [record for _, record in known],
            self._config.n,
        )
        return [(waiting, one) for (waiting, _), one in zip(known, ranked, strict=True)]

    async def _emit(self, turn: Sequence[Waiting], lists: Sequence[tuple[Waiting, Ranked]]) -> None:
        """Send the lists; the next round doesn't wait for the broker, up to `MOST_EMITTING`."""
        scored_ms = self._config.now_ms()
        pushed = [self._pushed(waiting, ranked, scored_ms) for waiting, ranked in lists]
        for waiting in turn:
            self._unacknowledged[id(waiting)] = waiting
        task = asyncio.create_task(self._send(turn, pushed))
        self._emitting.add(task)
        task.add_done_callback(self._emitting.discard)
        if len(self._emitting) >= MOST_EMITTING:
            await asyncio.wait(self._emitting, return_when=asyncio.FIRST_COMPLETED)

    async def _send(self, turn: Sequence[Waiting], pushed: Sequence[Recommendation]) -> None:
        """Until the broker has them, however long it is away; again may mean twice."""
        while True:
            try:
                await self._producer.send_recommendations(pushed)
                break
            except BrokerAway as away:
                logger.warning("cannot emit yet", reason=str(away))
                self.progress_ms = self._config.now_ms()  # waiting for a neighbour, not stuck
                await asyncio.sleep(0.5)
        for waiting in turn:
            del self._unacknowledged[id(waiting)]
        done_ms = self._config.now_ms()
        for recommendation in pushed:
            appended_ms = recommendation.stamps.appended_ms
            if appended_ms is not None:
                self._metrics.observe_freshness(done_ms - appended_ms)
        self._metrics.recommendations.labels("push").inc(len(pushed))

    def _pushed(self, waiting: Waiting, ranked: Ranked, scored_ms: int) -> Recommendation:
        changed = waiting.changed
        return Recommendation(
            recommendation_id=(
                f"{waiting.partition}/{ranked.profile_offset}/{self._config.placement}"
            ),
            user_id=changed.user_id,
            placement=self._config.placement,
            kind="push",
            items=ranked.items,
            profile_offset=ranked.profile_offset,
            model=self._config.model_name,
            stamps=Stamps(
                event_ms=changed.event_ms,
                appended_ms=changed.appended_ms,
                folded_ms=waiting.folded_ms,
                scored_ms=scored_ms,
                emitted_ms=self._config.now_ms(),
            ),
        )

    async def _remember(self, consumer: AIOKafkaConsumer) -> None:
        """Commit, for each partition, the position before its first user still waiting."""
        self._remembered_ms = self._config.now_ms()
        try:
            positions = {
                partition: await consumer.position(partition) for partition in consumer.assignment()
            }
            for waiting in chain(self._pending.values(), self._unacknowledged.values()):
                partition = TopicPartition(self._config.changes_topic, waiting.partition)
                if partition in positions:
                    positions[partition] = min(positions[partition], waiting.first_at)
            await consumer.commit(positions)
        except (CommitFailedError, IllegalStateError, KafkaError) as error:
            # A rebalance came between: what was not committed is only emitted again.
            logger.info("scorer position not committed", reason=str(error))


class RequestAnswerer:
    """Answers requests; the body of the Faust agent on `requests`."""

    def __init__(
        self,
        config: ScorerConfig,
        shape: ModelShape,
        ranking: Ranking,
        store: ProfileStore,
        producer: Producer,
        metrics: Metrics,
        n_partitions: int,
        ready: asyncio.Event,
        at_once: int = 64,
    ) -> None:
        """ready: set once the rest of the worker serves. at_once: requests in work; further ones
        wait in the topic."""
        self._config = config
        self._shape = shape
        self._ranking = ranking
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._n_partitions = n_partitions
        self._ready = ready
        self._room = asyncio.Semaphore(at_once)
        self._work: set[asyncio.Task[None]] = set()

    async def run(self, stream: AsyncIterable[bytes]) -> None:
        """Answer each request of the stream; one that waits doesn't hold up the others."""
        await self._ready.wait()
        async for value in stream:
            await self._room.acquire()
            task = asyncio.create_task(self._answer_value(value))
            self._work.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        self._room.release()
        if not task.cancelled() and task.exception() is not None:
            logger.error("request not answered", reason=repr(task.exception()))
            self._metrics.requests_failed.inc()

    async def _answer_value(self, value: bytes) -> None:
        try:
            request = decode_request(value)
        except DecodeError as error:
            self._metrics.requests_failed.inc()
            logger.warning("not a request", code=error.code, reason=error.detail)
            return
        answer = await self.answer(request)
        await self._producer.send_recommendation(answer)
        self._metrics.recommendations.labels(answer.kind).inc()

    async def answer(self, request: Request) -> Recommendation:
        """The answer to one request, from a profile at least as new as it asks for if that
        comes in time."""
        partition = partition_of(request.user_id, self._n_partitions)
        record = await self._record(partition, request)
        if isinstance(request, RecommendRequest):
            ranked = self._ranking.rank([request.user_id], [record], request.n)[0]
        else:
            ranked = self._ranking.rerank(request.user_id, record, request.candidates, request.n)
        offset = -1 if ranked.profile_offset is None else ranked.profile_offset
        now_ms = self._config.now_ms()
        late = request.after_offset is not None and offset < request.after_offset
        return Recommendation(
            recommendation_id=request.request_id,
            request_id=request.request_id,
            user_id=request.user_id,
            placement=request.placement,
            kind="recommend" if isinstance(request, RecommendRequest) else "rerank",
            items=ranked.items,
            profile_offset=ranked.profile_offset,
            error="older_profile" if late else None,
            model=self._config.model_name,
            stamps=Stamps(scored_ms=now_ms, emitted_ms=now_ms),
        )

    async def _record(self, partition: int, request: Request) -> bytes | None:
        """The user's record; waits up to `wait_ms` until it has folded `after_offset`."""
        deadline_ms = self._config.now_ms() + request.wait_ms
        wanted = request.after_offset
        while True:
            record = (await self._store.read_many(partition, [request.user_id]))[0]
            if wanted is None or self._config.now_ms() >= deadline_ms:
                return record
            if record is not None:
                profile = decode_profile(record, self._shape, request.user_id)
                if profile.last_offset >= wanted:
                    return record
            await asyncio.sleep(0.005)  # a commit takes about a millisecond; 5 keeps the store idle
