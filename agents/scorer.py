"""The scorer's first door: a list for every user whose profile changed, without being asked.

`ScoringService` follows `profile-changes`, reads profiles from the store and emits ranked lists.
The newest profile wins: a change that is overtaken before its turn is skipped and counted.
Positions on `profile-changes` are committed to Kafka only behind acknowledged recommendations, so a
crash repeats some and loses none. An updater of the same process tells of a commit before Kafka
does (`foretell`), which saves a way there and back; the message that follows only says how far we
came. The other door, for requests, is `agents.answerer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError
from mode import Service

from agents.errors import AgentsError
from agents.list_json import Ranked
from agents.metrics import Metrics
from agents.ranking import Ranking
from profiles.errors import RecordCorrupt, RecordTooNew, StoreAway
from profiles.store import ProfileStore
from streams.codec import decode_change, encode
from streams.errors import BrokerAway, DecodeError, MessageTooLarge
from streams.events import ChangedUser, ProfileChange, Recommendation, Stamps
from streams.pace import FetchPace, Pace
from streams.producer import Producer
from streams.reader import check_client, is_connected, kafka_consumer, start_client, stop_consumer

logger = structlog.get_logger(__name__)

ROUND_USERS = 128
"""Users scored at once: enough for one matrix product, few enough that others get a turn."""

PENDING_USERS = 50_000
"""Users waiting for their turn; beyond it changes wait in Kafka."""


MOST_EMITTING = 8
"""Rounds that wait for the broker's acknowledgement at once: it answers within milliseconds."""

LAST_WORD_S = 2.0
"""How long a stop waits for it; what stays unacknowledged is emitted again by the next owner."""

CHANGES_AT_ONCE = 500
"""Messages of `profile-changes` decoded in one go; each may name thousands of users."""

LARGE_PRODUCT = 2_000_000
"""Users x items beyond which a round is ranked in a thread: 10 ms on the event loop are enough."""

HEARTBEAT_MS = 1_000
"""Two must fit into a session of 6 s of which a broken connection has taken 5 s."""

REMEMBER_S = 1.0
"""Between two commits of positions: what lies in between is emitted again after a crash."""

LOOK_S = 0.2
"""How long a loop of ours waits for something to do before it shows that it is alive."""

MOST_FORETOLD = 10_000
"""Messages of a partition foretold and not read; beyond it the scorer waits for Kafka's word."""

TURNS_PER_S = 100
"""Turns beyond which users are gathered: a turn costs a look at the store and a send, however few
it serves."""


@dataclass(slots=True, eq=False)
class Announcement:
    """One message of `profile-changes`, as far as its users have no acknowledged list."""

    partition: int
    at: int | None = None  # its position; None: foretold and not read yet
    n_waiting: int = 0


@dataclass(slots=True, eq=False)
class Waiting:
    """A user whose profile changed and who has no new list yet."""

    partition: int
    changed: ChangedUser
    folded_ms: int
    announced: Announcement  # the oldest that this list will answer


@dataclass(frozen=True, slots=True)
class ScorerConfig:
    """Where the scorer reads, and what it emits."""

    bootstrap: str
    changes_topic: str
    group: str
    instance_id: str
    session_timeout_ms: int
    answer_s: float
    placement: str
    n: int
    model_name: str
    now_ms: Callable[[], int]


def _name_of(change: ProfileChange) -> tuple[int, int]:
    """What tells a commit's message from others of its partition, also where it was done again."""
    return change.next_offset, change.folded_ms


def _in_order(one: Announcement, other: Announcement) -> tuple[Announcement, Announcement]:
    """Two announcements, first the one that holds the position back further.

    What was not read yet holds nothing back, and may never come; of two such the first told is
    read first.
    """
    if other.at is not None and (one.at is None or other.at < one.at):
        return other, one
    return one, other


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
        self._unanswered: dict[int, Announcement] = {}  # by identity; read, with users who wait
        # By partition, then by what tells a message from others, in the order of their coming.
        self._foretold: dict[int, dict[tuple[int, int], Announcement]] = {}
        self._assigned: set[int] = set()
        self._in_hand = 0  # users who are being ranked
        self._wake = asyncio.Event()  # somebody waits for a list
        self._emitting: set[asyncio.Task[None]] = set()
        self._fetching = FetchPace()
        self._turns = Pace(TURNS_PER_S, burst=TURNS_PER_S // 4)
        self._following: asyncio.Task[None]
        self._broken: asyncio.Future[None]
        self._users_a_change = 1_000  # of the largest lately
        self._n_done = 0  # lists acknowledged, and messages read behind all their lists
        self._remembered = 0  # of that when the positions were last committed
        self._remembered_s = -REMEMBER_S  # monotonic
        self._read_s = self._turned_s = time.monotonic()  # a wall clock may be set back
        self.leave_group = True  # at a stop; not where this process is back within seconds
        metrics.scorer_waiting.set_function(lambda: self.n_waiting)

    @property
    def n_waiting(self) -> int:
        """Users whose profile changed and who have no new list yet, as far as was read."""
        return len(self._pending) + self._in_hand

    def progress_age_s(self) -> float:
        """Seconds since the loop that is further behind last turned."""
        return time.monotonic() - min(self._read_s, self._turned_s)

    def foretell(self, change: ProfileChange) -> None:
        """An updater of this process has committed this; its one message will come by Kafka, too.

        Passed over where another process's scorer reads that partition, and where too many wait.
        """
        if change.partition not in self._assigned or len(self._pending) >= PENDING_USERS:
            return
        told = self._foretold.setdefault(change.partition, {})
        if len(told) < MOST_FORETOLD:
            told[_name_of(change)] = announcement = Announcement(change.partition)
            self._expect(change, announcement)

    async def on_start(self) -> None:
        # Not a task of mode's: those are cancelled at a stop, and ours has a last word to say.
        self._broken = asyncio.get_running_loop().create_future()
        self._following = asyncio.create_task(self._follow(), name="scorer")

    async def on_stop(self) -> None:
        await asyncio.wait((self._following,), timeout=2 * LAST_WORD_S)
        if not self._following.done():
            self._following.cancel()
            await asyncio.wait((self._following,))

    @Service.task
    async def _watch(self) -> None:
        """An error that nobody has an answer for ends the worker."""
        await asyncio.wait((self._following, self._broken), return_when=asyncio.FIRST_COMPLETED)
        for ended in (self._following, self._broken):
            if ended.cancelled() and not self.should_stop:
                raise AgentsError("the scorer was cancelled from outside")
            if ended.done():
                ended.result()

    async def _follow(self) -> None:
        consumer = kafka_consumer(
            self._config.bootstrap,
            self._config.instance_id,
            self._config.answer_s,
            group_id=self._config.group,
            group_instance_id=self._config.instance_id,
            session_timeout_ms=self._config.session_timeout_ms,
            heartbeat_interval_ms=HEARTBEAT_MS,
            auto_offset_reset="earliest",  # a list too many is harmless, a user left out is not
        )
        await start_client(consumer, self._config.bootstrap)
        consumer.subscribe([self._config.changes_topic])
        loops = {asyncio.create_task(one(consumer)) for one in (self._read, self._take_turns)}
        try:
            await self._until_both_end(loops)
            if is_connected(consumer._client):  # else there is nobody to hear a last word
                if self._emitting:
                    await asyncio.wait(self._emitting, timeout=LAST_WORD_S)
                await self._remember(consumer)
        finally:
            self._assigned = set()  # from here on nothing is foretold
            for task in (*loops, *self._emitting):
                task.cancel()
            await stop_consumer(consumer, leave=self.leave_group)

    async def _until_both_end(self, loops: set[asyncio.Task[None]]) -> None:
        """Raises what ended one of them before a stop was asked for."""
        while loops:
            ended, loops = await asyncio.wait(loops, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                if task.cancelled():
                    raise AgentsError("a loop of the scorer was cancelled from outside")
                task.result()

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        """Take in what has changed, as long as not too many wait."""
        while not self.should_stop:
            self._read_s = time.monotonic()
            check_client(consumer, self._config.changes_topic)
            # During a rebalance getmany() would wait for its end, and nobody would see us alive.
            if (
                len(self._pending) >= PENDING_USERS
                or consumer._subscription.reassignment_in_progress
            ):
                await asyncio.sleep(LOOK_S / 10)
                continue
            # By what a change named last: 500 of a busy updater would be two million users.
            room = (PENDING_USERS - len(self._pending)) // self._users_a_change
            fetched = await consumer.getmany(
                timeout_ms=int(LOOK_S * 1_000), max_records=max(1, min(CHANGES_AT_ONCE, room))
            )
            self._note_assignment({one.partition for one in consumer.assignment()})
            for partition, records in fetched.items():
                for record in records:
                    self._take(partition.partition, record.offset, record.value)
            self._fetching.note(consumer, sum(map(len, fetched.values())))
            await asyncio.sleep(0)  # getmany() doesn't wait while there are records

    def _note_assignment(self, assigned: set[int]) -> None:
        """What was foretold of a partition that is another's now won't be read here."""
        for partition in self._assigned - assigned:
            self._foretold.pop(partition, None)
        self._assigned = assigned

    async def _take_turns(self, consumer: AIOKafkaConsumer) -> None:
        """Serve those who wait, and remember how far we came."""
        while not self.should_stop:
            self._turned_s = time.monotonic()
            if self._pending:
                await self._serve()
                if len(self._pending) < ROUND_USERS:
                    await asyncio.sleep(self._turns.pause_s())
            else:
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
            if self._remembered < self._n_done and (
                time.monotonic() - self._remembered_s >= REMEMBER_S
            ):
                await self._remember(consumer)

    async def _serve(self) -> None:
        """The next users, oldest change first."""
        turn = list(islice(self._pending.values(), ROUND_USERS))
        # Who changes from here on waits for another turn: the store may have been read by then.
        for waiting in turn:
            del self._pending[waiting.changed.user_id]
        self._in_hand = len(turn)
        try:
            lists = await self._rank(turn)
        except StoreAway as away:
            logger.warning("cannot score yet", reason=str(away))
            self._put_back(turn)
            await self.sleep(0.5)
            return
        finally:
            self._in_hand = 0
        await self._emit(turn, lists)

    def _put_back(self, turn: Sequence[Waiting]) -> None:
        """They go on waiting, before those who came meanwhile."""
        later, self._pending = self._pending, {one.changed.user_id: one for one in turn}
        for waiting in later.values():
            self._wait(waiting)

    def _take(self, partition: int, at: int, value: bytes) -> None:
        """Note who changed, unless that was foretold."""
        try:
            change = decode_change(value)
        except DecodeError as error:
            self._metrics.unreadable.labels("profile-changes", error.code).inc()
            logger.error("not a profile change", partition=partition, offset=at, reason=str(error))
            return
        self._users_a_change = max(len(change.users), self._users_a_change // 2, 1)
        announcement = self._known(change, at)
        if announcement is None:
            announcement = Announcement(partition, at)
            self._expect(change, announcement)
        self._note_position(announcement, at)
        self._n_done += not announcement.n_waiting

    def _known(self, change: ProfileChange, at: int) -> Announcement | None:
        """What was foretold of this message; they are read in the order in which they were told."""
        told = self._foretold.get(change.partition, {})
        name = _name_of(change)
        if name not in told:
            return None
        for passed in list(told):
            announcement = told.pop(passed)
            if passed == name:
                return announcement
            self._note_position(announcement, at)  # its own message won't come any more
        raise AssertionError("not reached")

    def _note_position(self, announcement: Announcement, at: int) -> None:
        announcement.at = at
        if announcement.n_waiting:
            self._unanswered[id(announcement)] = announcement

    def _answered(self, announcement: Announcement) -> None:
        """One user fewer of it waits."""
        announcement.n_waiting -= 1
        if not announcement.n_waiting:
            self._unanswered.pop(id(announcement), None)

    def _expect(self, change: ProfileChange, announcement: Announcement) -> None:
        announcement.n_waiting = len(change.users)
        for user in change.users:
            self._wait(Waiting(change.partition, user, change.folded_ms, announcement))
        self._wake.set()

    def _wait(self, waiting: Waiting) -> None:
        """A user who waits already keeps the place, and gets one list for both changes."""
        user_id = waiting.changed.user_id
        before = self._pending.get(user_id)
        if before is not None:
            self._metrics.overtaken.inc()
            held, released = _in_order(before.announced, waiting.announced)
            if waiting.changed.offset < before.changed.offset:  # foretold, then read what was first
                waiting = before
            waiting.announced = held
            self._answered(released)
        self._pending[user_id] = waiting

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
            if len(known) * self._ranking.n_items > LARGE_PRODUCT:
                return await asyncio.to_thread(self._ranked, known)
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
        task = asyncio.create_task(self._send(turn, pushed))
        self._emitting.add(task)
        task.add_done_callback(self._note_end)
        while len(self._emitting) >= MOST_EMITTING and not self.should_stop:
            self._turned_s = time.monotonic()  # waiting for a neighbour, not stuck
            await asyncio.wait(self._emitting, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._emitting.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._broken.done():
            self._broken.set_exception(error)

    async def _send(self, turn: Sequence[Waiting], pushed: Sequence[Recommendation]) -> None:
        """Until the broker has them, however long it is away; again may mean twice."""
        refused = 0
        while True:
            try:
                await self._producer.send_recommendations(pushed)
                break
            except BrokerAway as away:
                logger.warning("cannot emit yet", reason=str(away))
                await asyncio.sleep(0.5)
            except MessageTooLarge as error:
                # The others of this round may be out already: again is harmless.
                logger.error("list not emitted", reason=str(error))
                small = [one for one in pushed if len(encode(one)) <= error.max_bytes]
                refused += len(pushed) - len(small)
                if len(small) == len(pushed):
                    raise
                pushed = small
        for waiting in turn:
            self._answered(waiting.announced)
        self._n_done += len(turn)
        done_ms = self._config.now_ms()
        for recommendation in pushed:
            appended_ms = recommendation.stamps.appended_ms
            if appended_ms is not None:
                self._metrics.observe_freshness(done_ms - appended_ms)
        self._metrics.recommendations.labels("push").inc(len(pushed))
        self._metrics.requests_failed.inc(refused)

    def _pushed(self, waiting: Waiting, ranked: Ranked, scored_ms: int) -> Recommendation:
        changed = waiting.changed
        return Recommendation(
            recommendation_id=(
                f"{waiting.partition}/{ranked.profile_offset}/{self._config.placement}"
            ),
            user_id=changed.user_id,
            placement=self._config.placement,
            kind="push",
            items=ranked.sendable,
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
        """Commit, for each partition, the position before its first user without an emitted list.

        What could not be committed is only emitted again.
        """
        self._remembered_s = time.monotonic()
        n_done = self._n_done
        try:
            async with asyncio.timeout(LAST_WORD_S):  # aiokafka itself would wait for ever
                positions = {
                    partition: await consumer.position(partition)
                    for partition in consumer.assignment()
                }
                for announcement in self._unanswered.values():
                    partition = TopicPartition(self._config.changes_topic, announcement.partition)
                    if partition in positions and announcement.at is not None:
                        positions[partition] = min(positions[partition], announcement.at)
                if positions:
                    await consumer.commit(positions)
            self._remembered = n_done
        except (CommitFailedError, IllegalStateError, KafkaError, TimeoutError) as error:
            logger.info("scorer position not committed", reason=repr(error))
