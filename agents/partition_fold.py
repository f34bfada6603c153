"""One partition's left fold: read a batch, translate, fold, commit, announce.

`PartitionFold` holds what belongs to one partition (claim, seen ring, profile cache, position) and
turns one batch into one atomic commit. It is the same for the live updater and for a rebuild;
they differ in where batches come from, which generation the store writes to, and whether anyone
is told. What stays true: nothing leaves this object before its commit succeeded, except dead
letters, whose repeats are recognised.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import structlog
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from agents.errors import AgentsError
from agents.flood import FloodRule, FloodWatch, LookBack
from agents.generations import RecordFormat
from agents.metrics import Metrics
from agents.model import Model
from agents.translate import Translator
from agents.trials import LiveTrials, TrialLog
from profiles.errors import DivergedError, ProfilesError, StoreAway
from profiles.fold import FoldReport, fold_batch
from profiles.interactions import MAX_KINDS, Kinds
from profiles.items import ItemTable
from profiles.packed import PackedRecords
from profiles.seen import SeenRing
from profiles.store import Acquired, CommitBatch, LogPosition, ProfileStore
from profiles.store_checkpoint import with_last
from profiles.table import ProfileTable
from streams.batch import RawBatch, Reject
from streams.codec import EventCodec, encode_change
from streams.errors import BrokerAway
from streams.event_columns import ColumnDecoder, EventColumns
from streams.events import ChangedUser, ProfileChange
from streams.trials import Trial

logger = structlog.get_logger(__name__)

RETRY_S = 0.5
"""Between two tries of a neighbour that is away: one that restarts is back within seconds."""

LAST_WORD_S = 1.0
"""How long a partition that is handed back waits for the broker: an acknowledgement takes
milliseconds, and whatever stays unsent is in the outbox for the next owner."""


SMALL_BATCH = 64
"""Events folded in well under a millisecond: about 10 us each, translation included."""


class Announcer(Protocol):
    """Where a commit's outbox goes."""

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        """Returns once the broker has acknowledged all of them."""

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        """Dead letters: returns once the broker has acknowledged all of them."""


class FoldFault(AgentsError):
    """An error of ours in decoding or folding a batch: this partition stops, the others go on."""


@contextmanager
def our_fault(doing: str) -> Iterator[None]:
    """Whatever goes wrong in code of ours that does no I/O is a fault in the fold."""
    try:
        yield
    except ProfilesError as error:
        if not isinstance(error, DivergedError):
            raise
        raise FoldFault(f"{doing}: {error}") from error
    except Exception as error:
        raise FoldFault(f"{doing}: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one partition's work."""

    batch_events: int
    cache_profiles: int
    flood: FloodRule | None  # None: set bad messages aside, however many
    accept_gap: bool = False


@dataclass(slots=True)
class _Folded:
    """What the model thread hands back."""

    report: FoldReport
    records: PackedRecords
    users: list[ChangedUser]
    kinds: NDArray[np.int64]  # (MAX_KINDS,) events by kind
    items: ItemTable  # that learned from them
    trials: list[Trial]


class PartitionFold:
    """The fold of one partition, from one acquisition to the loss of the partition."""

    def __init__(
        self,
        acquired: Acquired,
        log: LogPosition,
        *,
        model: Model,
        store: ProfileStore,
        codec: EventCodec,
        translator: Translator,
        kinds: Kinds,
        announcer: Announcer,
        metrics: Metrics,
        limits: Limits,
        now_ms: Callable[[], int],
        record_format: RecordFormat,
        trials: tuple[LiveTrials, TrialLog] | None = None,
        warm: PartitionFold | None = None,
        look_back: LookBack | None = None,
        foretell: Callable[[ProfileChange], None] | None = None,
    ) -> None:
        """trials: looks at events before they are learned, and where that goes.

        warm: the fold of the same partition from before, if nobody else had it since.

        look_back: reads what lies before in the log; without it a flood is judged by what comes.

        foretell: hears of each commit at once, before its announcement is on the way.
        """
        self.claim = acquired.claim
        self.partition = acquired.claim.partition
        self.next_offset = acquired.next_offset  # the position after everything committed
        self.read_to = acquired.next_offset  # the position after everything read
        self.give_up = asyncio.Event()
        self.state = "running"
        self.fault: str | None = None
        self.away_because = ""  # what the store said last, while `state` is "waiting for store"
        self.pending = False  # profiles and items hold what is not (surely) committed
        self._began: float | None = None  # monotonic time at which the batch in work began
        self.n_events = 0
        self.n_dead_letters = 0
        self._log = log
        self._model = model
        self._store = store
        self._decoder = ColumnDecoder(codec)
        self._translator = translator
        self._kinds = kinds
        self._announcer = announcer
        self._metrics = metrics
        self._limits = limits
        self._now_ms = now_ms
        self._trials = trials
        self._foretell = foretell
        self._watermark_ms = acquired.checkpoint.watermark_ms if acquired.checkpoint else 0
        self._gaps = acquired.checkpoint.gaps if acquired.checkpoint else ()
        self._seen = SeenRing(model.config.n_seen_slots, acquired.seen)
        self._format = record_format
        self._profiles: ProfileTable = warm._profiles if warm else self._no_profiles()
        self._flood: FloodWatch | None = None
        if limits.flood is not None:
            self._flood = FloodWatch(self.partition, codec, limits.flood, look_back)
        self._announced: asyncio.Future[None] | None = None
        if acquired.outbox:  # what a crash left unsent
            self._announce(acquired.outbox)

    @property
    def n_cached(self) -> int:
        """Profiles held in memory."""
        return len(self._profiles)

    async def step(self, raw: RawBatch) -> None:
        """Turn one batch into one commit.

        Raises Fenced, StoreWentBack (the batch is taken back by dropping this object and
        restoring the model), StoreAway and BrokerAway only once `give_up` is set, DeadLetterFlood,
        RecordCorrupt and FoldFault (this partition stops). Whenever the batch had been folded
        but not committed, the object stays `pending` and the model is tainted.
        """
        self.read_to = raw.end
        with self._at_work():
            with our_fault(f"decoding [{raw.start}, {raw.end})"):
                batch = self._decoder.decode(raw)
            await self._set_aside(raw, batch)
            await self.finish()  # the outbox holds one announcement: the one before must be out
            with our_fault(f"looking for repeats in [{batch.start}, {batch.end})"):
                news = batch.only(
                    self._seen.filter(batch.offsets, batch.repeat_hashes, batch.start, batch.end)
                )
            if self._profiles.record_format != self._format.writes:
                self._profiles = self._no_profiles()  # what is cached is in the store
            rows = await self._gather(news.user_ids)
            # Nothing in here waits for anything but the model thread and the commit: a snapshot
            # waits for it.
            async with self._model.stillness.folding():
                try:
                    folded = await self._fold(news, rows) if len(news) else None
                    await self._commit(batch, raw, folded)
                finally:
                    if self.pending:  # before anybody else may be still
                        self._model.tainted = True
                        self._model.stillness.away.discard(self.partition)
        self._metrics.repeats.inc(len(batch) - len(news))

    async def skip(self, to: int) -> None:
        """Go on at `to`, without what the log no longer holds: a person has said so.

        Written into the checkpoint like any batch, and counted. Raises as `step`.
        """
        await self.finish()
        start = self.next_offset
        self._seen.filter([], [], start, to)
        gaps = (*self._gaps, (start, to))
        batch = CommitBatch(
            start=start,
            end=to,
            records=[],
            seen=self._seen.writes(start, to),
            outbox=[],
            watermark_ms=self._watermark_ms,
            log=self._log,
            gaps=gaps,
        )
        await self._store.commit_until_known(
            self.claim, batch, on_away=self._note_away, give_up=self.give_up
        )
        self.state = "running"
        self.next_offset = self.read_to = to
        self._gaps = gaps
        self._model.note_commit(self.partition, to)
        self._metrics.gap_offsets.labels(str(self.partition)).inc(to - start)
        logger.warning("gap accepted", partition=self.partition, first=start, upto=to)

    def _no_profiles(self) -> ProfileTable:
        return ProfileTable(self._model.config.shape, record_format=self._format.writes)

    def stuck_s(self) -> float:
        """Seconds that the batch in work has taken, not counting one that waits for a neighbour."""
        if self._began is None or self.state != "running":
            return 0.0
        return time.monotonic() - self._began

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        self._began = time.monotonic()
        try:
            yield
        finally:
            self._began = None

    async def finish(self) -> None:
        """Wait for the last announcement; the next owner would repeat it otherwise.

        Raises BrokerAway once `give_up` is set and the broker has not taken it.
        """
        announced, self._announced = self._announced, None
        if announced is not None:
            await self._see_through(announced)

    def let_go(self) -> None:
        """Send nothing more: what is not announced yet is in the outbox for the next owner."""
        if self._announced is not None:
            self._announced.cancel()

    async def _set_aside(self, raw: RawBatch, batch: EventColumns) -> None:
        """Dead letters are acknowledged before the commit passes them."""
        if self._flood is not None:
            await self._flood.check(raw, batch, self._until_done)
        if not batch.rejects:
            return
        rejects = batch.rejects
        await self._until_done(lambda: self._announcer.set_aside(rejects))
        for reject in batch.rejects:
            self._metrics.dead_letters.labels(reject.code).inc()
        self.n_dead_letters += len(batch.rejects)

    async def _fold(self, news: EventColumns, rows: NDArray[np.int32]) -> _Folded:
        """Translate and fold in the model thread. rows: of the users, all of them in the cache."""
        model = self._model
        self.pending = True

        def job() -> _Folded:
            interactions = self._translator.translate_columns(
                news, self._decoder.types, rows, model.items
            )
            ranked: list[Trial] = []
            state = (self._profiles, model.items, interactions, model.config, self._watermark_ms)
            if self._trials is None:
                report = fold_batch(*state)
            else:
                report, ranked = self._trials[0].fold(*state)
            records = self._profiles.packed(report.user_rows)
            last = report.last_index
            newest = (news.offsets[last], news.times_ms[last], news.appended_ms[last])
            users = map(ChangedUser, records.user_ids, *(column.tolist() for column in newest))
            return _Folded(
                report=report,
                records=records,
                users=list(users),
                kinds=np.bincount(interactions.kind, minlength=MAX_KINDS),
                items=model.items,
                trials=ranked,
            )

        with our_fault(f"folding offsets {news.offsets[0]} to {news.offsets[-1]}"):
            return await model.run(job, small=len(news) <= SMALL_BATCH)

    async def _gather(self, user_ids: list[str]) -> NDArray[np.int32]:
        """Bring every user's record into the cache; those nobody has seen start afresh.

        Returns int32 (B,): the row of each, good until the next call.
        """
        rows = self._profiles.known_rows(user_ids)
        if rows is not None:
            return rows
        missing = self._profiles.missing(user_ids)
        limit = self._limits.cache_profiles
        if len(self._profiles) + len(missing) > limit:
            # Before they come: room that was taken once is not given back.
            self._profiles.evict_to(max(0, min(limit * 3 // 4, limit - len(missing))))
            missing = self._profiles.missing(user_ids)
        while True:
            try:
                records = await self._store.read_many(self.partition, missing)
                break
            except StoreAway as away:
                await self._wait_for_store(away)
        self._format.check(missing, records)
        self._profiles.load(missing, records)
        return self._profiles.rows(user_ids)

    async def _commit(self, batch: EventColumns, raw: RawBatch, folded: _Folded | None) -> None:
        messages = []
        change = None
        watermark_ms = self._watermark_ms
        if folded is not None:
            watermark_ms = folded.report.watermark_ms
            change = ProfileChange(
                partition=self.partition,
                next_offset=batch.end,
                folded_ms=self._now_ms(),
                users=folded.users,
            )
            messages = encode_change(change)
        log = self._log
        if raw.records:
            last = raw.records[-1]
            log = with_last(log, last.offset, last.timestamp, xxh3_64_intdigest(last.key or b""))
        began = time.perf_counter()
        await self._store.commit_until_known(
            self.claim,
            CommitBatch(
                start=batch.start,
                end=batch.end,
                records=folded.records if folded else [],
                seen=self._seen.writes(batch.start, batch.end),
                outbox=messages,
                watermark_ms=watermark_ms,
                log=log,
            ),
            on_away=self._note_away,
            give_up=self.give_up,
        )
        self.pending = False
        self.state = "running"
        self._model.stillness.away.discard(self.partition)
        self.next_offset = batch.end
        self._log = log
        self._watermark_ms = watermark_ms
        self._model.note_commit(self.partition, batch.end)
        self._metrics.observe_commit(time.perf_counter() - began, len(batch))
        if folded is not None:
            self._announce(messages)
            if self._foretell is not None and change is not None and len(messages) == 1:
                self._foretell(change)  # a larger one is in no hurry
            self._count(folded)
            if self._trials is not None:
                self._trials[1].note(self.partition, folded.trials)

    def _count(self, folded: _Folded) -> None:
        self.n_events += folded.report.n_folded
        for code in np.flatnonzero(folded.kinds).tolist():
            self._metrics.folded.labels(self._kinds.name(code)).inc(int(folded.kinds[code]))
        self._metrics.learned.inc(folded.report.n_learned)
        if folded.items is not self._model.items:  # taken back meanwhile, for somebody else's sake
            self._metrics.model_lost.inc(folded.report.n_learned)
        self._metrics.clipped.inc(folded.report.n_clipped)
        self._metrics.blend_skipped.inc(folded.report.n_skipped)

    def _announce(self, messages: list[bytes]) -> None:
        self._announced = asyncio.ensure_future(
            self._send(lambda: self._announcer.announce(self.partition, messages))
        )

    async def _send(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send until the broker has it, however long it is away; again may mean twice.

        Raises BrokerAway once `give_up` is set.
        """
        while True:
            try:
                await send()
                if self.state == "waiting for broker":
                    self.state = "running"
                return
            except BrokerAway as away:
                if self.state != "waiting for broker":
                    logger.warning("broker away", partition=self.partition, reason=str(away))
                self.state = "waiting for broker"
                if await self._given_up(RETRY_S):
                    raise

    async def _until_done(self, send: Callable[[], Awaitable[None]]) -> None:
        """Send and wait. Raises BrokerAway once `give_up` is set and the broker is silent."""
        await self._see_through(asyncio.ensure_future(self._send(send)))

    async def _see_through(self, sending: asyncio.Future[None]) -> None:
        """Wait for the broker's answer; once `give_up` is set, only `LAST_WORD_S` longer."""
        if not sending.done():
            given_up = asyncio.ensure_future(self.give_up.wait())
            try:
                await asyncio.wait((sending, given_up), return_when=asyncio.FIRST_COMPLETED)
                if not sending.done():
                    await asyncio.wait((sending,), timeout=LAST_WORD_S)
            finally:
                given_up.cancel()
        if not sending.done():
            sending.cancel()
            raise BrokerAway(f"partition {self.partition}: given up before the broker answered")
        sending.result()

    async def _given_up(self, within_s: float) -> bool:
        """Whether `give_up` is set, now or within so many seconds."""
        try:
            async with asyncio.timeout(within_s):
                await self.give_up.wait()
        except TimeoutError:
            return False
        return True

    def _note_away(self, away: StoreAway) -> None:
        if self.state != "waiting for store":
            logger.warning("store away", partition=self.partition, reason=str(away))
            self._metrics.store_away.inc()
        self.state = "waiting for store"
        self.away_because = str(away)
        if self.pending:
            self._model.stillness.note_away(self.partition)

    async def _wait_for_store(self, away: StoreAway) -> None:
        """Returns when it is time to ask again; raises `away` once `give_up` is set."""
        self._note_away(away)
        if await self._given_up(RETRY_S):
            raise away
