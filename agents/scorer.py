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

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from mode import Service

from agents.metrics import Metrics
from agents.ranking import Ranking
from profiles.errors import RecordCorrupt, RecordTooNew, StoreAway
from profiles.profile import Profile
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
from streams.partitioner import partition_of
from streams.producer import Producer

logger = structlog.get_logger(__name__)

ROUND_USERS = 128
"""Users scored at once: enough for one matrix product, few enough that others get a turn."""

PENDING_USERS = 50_000
"""Users waiting for their turn; beyond it changes wait in Kafka."""


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
        shape: ModelShape,
        ranking: Ranking,
        store: ProfileStore,
        producer: Producer,
        metrics: Metrics,
    ) -> None:
        super().__init__()
        self._config = config
        self._shape = shape
        self._ranking = ranking
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._pending: dict[str, Waiting] = {}
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
            await self._remember(consumer)
        finally:
            await consumer.stop()

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
        turn = list(self._pending.values())[:ROUND_USERS]
        while True:
            try:
                await self._serve(turn)
                break
            except (StoreAway, BrokerAway) as away:
                logger.warning("cannot score yet", reason=str(away))
                self.progress_ms = self._config.now_ms()  # waiting for a neighbour, not stuck
                await self.sleep(0.5)
                if self.should_stop:
                    return
        for waiting in turn:
            self._pending.pop(waiting.changed.user_id, None)
        if self._config.now_ms() - self._remembered_ms >= REMEMBER_MS:
            await self._remember(consumer)

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

    async def _serve(self, turn: Sequence[Waiting]) -> None:
        by_partition: dict[int, list[str]] = {}
        for waiting in turn:
            by_partition.setdefault(waiting.partition, []).append(waiting.changed.user_id)
        read = await asyncio.gather(
            *(self._store.read_many(partition, ids) for partition, ids in by_partition.items())
        )
        records = {
            user_id: record
            for ids, found in zip(by_partition.values(), read, strict=True)
            for user_id, record in zip(ids, found, strict=True)
        }
        served = []
        for waiting in turn:
            user_id = waiting.changed.user_id
            if (record := records[user_id]) is None:
                continue
            try:
                served.append((waiting, decode_profile(record, self._shape, user_id)))
            except (RecordCorrupt, RecordTooNew) as error:
                # One user's record must not keep everybody from their lists.
                logger.error("profile not read", reason=str(error))
                self._metrics.profiles_unreadable.inc()
        lists = self._ranking.rank([profile for _, profile in served], self._config.n)
        scored_ms = self._config.now_ms()
        pushed = []
        for (waiting, profile), items in zip(served, lists, strict=True):
            changed = waiting.changed
            recommendation = Recommendation(
                recommendation_id=(
                    f"{waiting.partition}/{profile.last_offset}/{self._config.placement}"
                ),
                user_id=changed.user_id,
                placement=self._config.placement,
                kind="push",
                items=items,
                profile_offset=profile.last_offset,
                model=self._config.model_name,
                stamps=Stamps(
                    event_ms=changed.event_ms,
                    appended_ms=changed.appended_ms,
                    folded_ms=waiting.folded_ms,
                    scored_ms=scored_ms,
                    emitted_ms=self._config.now_ms(),
                ),
            )
            pushed.append(recommendation)
        await self._producer.send_recommendations(pushed)
        done_ms = self._config.now_ms()
        for waiting, _ in served:
            self._metrics.observe_freshness(done_ms - waiting.changed.appended_ms)
        self._metrics.recommendations.labels("push").inc(len(served))

    async def _remember(self, consumer: AIOKafkaConsumer) -> None:
        """Commit, for each partition, the position before its first user still waiting."""
        self._remembered_ms = self._config.now_ms()
        try:
            positions = {
                partition: await consumer.position(partition) for partition in consumer.assignment()
            }
            for waiting in self._pending.values():
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
        profile = await self._profile(partition, request)
        if isinstance(request, RecommendRequest):
            items = self._ranking.rank([profile], request.n)[0]
        else:
            items = self._ranking.rerank(profile, request.candidates, request.n)
        now_ms = self._config.now_ms()
        late = request.after_offset is not None and (profile.last_offset < request.after_offset)
        return Recommendation(
            recommendation_id=request.request_id,
            request_id=request.request_id,
            user_id=request.user_id,
            placement=request.placement,
            kind="recommend" if isinstance(request, RecommendRequest) else "rerank",
            items=items,
            profile_offset=profile.last_offset if profile.last_offset >= 0 else None,
            error="older_profile" if late else None,
            model=self._config.model_name,
            stamps=Stamps(scored_ms=now_ms, emitted_ms=now_ms),
        )

    async def _profile(self, partition: int, request: Request) -> Profile:
        """The user's profile; waits up to `wait_ms` until it has folded `after_offset`."""
        deadline_ms = self._config.now_ms() + request.wait_ms
        while True:
            record = (await self._store.read_many(partition, [request.user_id]))[0]
            profile = Profile() if record is None else decode_profile(record, self._shape)
            wanted = request.after_offset
            if wanted is None or profile.last_offset >= wanted:
                return profile
            if self._config.now_ms() >= deadline_ms:
                return profile
            await asyncio.sleep(0.005)  # a commit takes about a millisecond; 5 keeps the store idle
