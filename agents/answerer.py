"""The scorer's second door: answers to requests (recommend, rerank).

The body of the Faust agent on `requests`. A request may name an event that its answer must know;
an answer that the broker doesn't take is sent again as long as somebody may wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable

import msgspec
import structlog

from agents.list_json import Ranked
from agents.metrics import Metrics
from agents.ranking_thread import RankingThread
from agents.scorer import ScorerConfig
from profiles.errors import RecordCorrupt, RecordTooNew, StoreAway
from profiles.record import decode_profile
from profiles.shape import ModelShape
from profiles.store import ProfileStore
from streams.codec import decode_request
from streams.errors import BrokerAway, DecodeError, MessageTooLarge
from streams.events import Recommendation, RecommendRequest, Request, Stamps
from streams.partitioner import partition_of
from streams.producer import Producer

logger = structlog.get_logger(__name__)

FIRST_LOOK_S, LONGEST_LOOK_S = 0.005, 0.05
"""Pauses of a request that waits for an event to be folded: they double from first to longest."""

ANSWER_WORTH_S = 30.0
"""An answer that the broker didn't take so long is given up: nobody waits for it any more."""

RETRY_S = 0.5
"""Pause before the broker is offered an answer again."""


class RequestAnswerer:
    """Answers requests; the body of the Faust agent on `requests`."""

    def __init__(
        self,
        config: ScorerConfig,
        shape: ModelShape,
        ranking: RankingThread,
        store: ProfileStore,
        producer: Producer,
        metrics: Metrics,
        n_partitions: int,
        ready: asyncio.Event,
        most: int = 5_000,
    ) -> None:
        """ready: set once the rest of the worker serves. most: requests in work, those that wait
        for a newer profile included; further ones stay in the topic."""
        self._config = config
        self._shape = shape
        self._ranking = ranking
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._n_partitions = n_partitions
        self._ready = ready
        self._most = most
        self._work: set[asyncio.Task[None]] = set()

    async def run(self, stream: AsyncIterable[bytes]) -> None:
        """Answer each request of the stream; one that waits doesn't hold up the others."""
        await self._ready.wait()
        async for value in stream:
            while len(self._work) >= self._most:
                await asyncio.wait(self._work, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._answer_value(value))
            self._work.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("request not answered", reason=repr(task.exception()))
            self._metrics.requests_failed.inc()

    async def _answer_value(self, value: bytes) -> None:
        try:
            request = decode_request(value)
        except DecodeError as error:
            self._metrics.requests_failed.inc()
            self._metrics.unreadable.labels("requests", error.code).inc()
            logger.warning("not a request", code=error.code, reason=error.detail)
            return
        answer = await self._sent(await self.answer(request))
        if answer.error is not None:
            self._metrics.requests_failed.inc()
        self._metrics.recommendations.labels(answer.kind).inc()

    async def _sent(self, answer: Recommendation) -> Recommendation:
        """Send an answer, again where the broker was away; returns what was sent.

        Again may mean twice. Raises BrokerAway after `ANSWER_WORTH_S`.
        """
        give_up_s = time.monotonic() + ANSWER_WORTH_S
        is_told = False
        while True:
            try:
                await self._producer.send_recommendation(answer)
                return answer
            except MessageTooLarge as error:
                if answer.error == "answer_too_large":
                    raise
                logger.warning("answer too large", request=answer.request_id, reason=str(error))
                answer = msgspec.structs.replace(answer, items=[], error="answer_too_large")
            except BrokerAway as away:
                if time.monotonic() >= give_up_s:
                    raise
                if not is_told:
                    logger.warning("cannot answer yet", request=answer.request_id, reason=str(away))
                is_told = True
                await asyncio.sleep(RETRY_S)

    async def answer(self, request: Request) -> Recommendation:
        """The answer to one request, from a profile at least as new as it asks for if that
        comes in time.

        error: ``older_profile`` (it did not; the list is from the older one), ``store_away`` or
        ``profile_unreadable`` (no list).
        """
        error = None
        ranked = Ranked(None)
        try:
            record, is_late = await self._record(request)
            error = "older_profile" if is_late else None
            now_ms = self._config.now_ms()
            if isinstance(request, RecommendRequest):
                ranked = await self._ranking.rank(request.user_id, record, request.n, now_ms)
            else:
                ranked = await self._ranking.rerank(
                    request.user_id, record, request.candidates, request.n, now_ms, request.query
                )
        except StoreAway as away:
            logger.warning("request without a profile", reason=str(away))
            error = "store_away"
        except (RecordCorrupt, RecordTooNew) as unreadable:
            logger.error("profile not read", reason=str(unreadable))
            self._metrics.profiles_unreadable.inc()
            error = "profile_unreadable"
        now_ms = self._config.now_ms()
        return Recommendation(
            recommendation_id=request.request_id,
            request_id=request.request_id,
            user_id=request.user_id,
            placement=request.placement,
            kind="recommend" if isinstance(request, RecommendRequest) else "rerank",
            items=ranked.items,
            profile_offset=ranked.profile_offset,
            error=error,
            model=self._config.model_name,
            stamps=Stamps(scored_ms=now_ms, emitted_ms=now_ms),
        )

    async def _record(self, request: Request) -> tuple[bytes | None, bool]:
        """The user's record, and whether it is older than asked for after `wait_ms`.

        Raises StoreAway when the store gave no answer within `wait_ms`.
        """
        partition = partition_of(request.user_id, self._n_partitions)
        deadline_s = time.monotonic() + request.wait_ms / 1_000
        pause_s = FIRST_LOOK_S
        while True:
            in_time = time.monotonic() < deadline_s
            try:
                # The position first: a record read after it knows all that it says.
                reached = await self._reached(partition, request.after_offset)
                if reached or not in_time:
                    record = (await self._store.read_many(partition, [request.user_id]))[0]
                    return record, not (reached or self._knows(record, request))
            except StoreAway:
                if not in_time:
                    raise
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_LOOK_S)

    async def _reached(self, partition: int, after_offset: int | None) -> bool:
        """Whether everything up to that offset is folded, set aside, or known as a repeat."""
        if after_offset is None:
            return True
        checkpoint = await self._store.read_checkpoint(partition)
        return checkpoint is not None and checkpoint.next_offset > after_offset

    def _knows(self, record: bytes | None, request: Request) -> bool:
        if record is None or request.after_offset is None:
            return request.after_offset is None
        profile = decode_profile(record, self._shape, request.user_id)
        return profile.last_offset >= request.after_offset
