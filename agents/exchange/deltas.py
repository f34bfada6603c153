"""Deltas between processes: sends what was committed here, adds what others sent.

A message holds sums to add to rows of the item table, and nothing that was not committed: it is
made in a moment when nothing is between fold and commit. Everyone reads all messages in one order
and adds each once: a snapshot says which messages it holds (`Lineage`), a message says which
snapshot it goes back to. docs/decisions/0027-item-deltas.md has the accounts.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from mode import Service

from agents.exchange.ledger import Ledger, Received
from agents.exchange.messages import (
    ITEMS,
    LEAST_POSITIVES,
    POSITIVES_BYTES,
    TOKENS,
    WORDS,
    item_bytes,
    positive_bytes,
    to_messages,
    token_bytes,
)
from agents.metrics import Metrics
from agents.model import Model
from profiles.errors import SnapshotBroken, StoreAway
from profiles.store import ProfileStore
from profiles.store_items import Lineage
from profiles.view import ItemDelta
from streams.batch import Message
from streams.errors import BrokerAway, DecodeError, MessageTooLarge
from streams.item_deltas import HELLO_VERSION, ItemDeltas, decode_deltas, encode_deltas
from streams.producer import Producer
from streams.replica import FROM_END, Replica

SEND_S = 0.25
"""Between two messages of a process: a click is in other processes' lists well within a second.
At 1,000 events a second it is 250 events, which cost no quality (docs/decisions)."""

LISTEN_S, HELLO_S = 15.0, 4.0
"""Who has said nothing for LISTEN_S is gone; everyone says something every HELLO_S."""

DELIVER_S = 2.0
"""How long a message may keep snapshots waiting; the next round sends it again."""

CATCH_UP_S = 5.0
"""How long partitions wait for deltas when they are taken over: a broker that answers takes
milliseconds. What comes later is added later, and was counted as lost."""

REPLAY_S = 60.0
"""How long reading up to now may take before somebody looks whether it is still wanted."""

BEGIN_AGAIN_S = 1.0
"""After a base that could not be written: its store is away."""

QUIET_S = 0.5
"""How long a round waits for commits under way."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ExchangeConfig:
    """bytes_per_s: of rows; 0: say nothing, not even that we listen. sends: this process folds.
    snapshot_interval_s: what has waited for half of it goes out whatever the limit."""

    bootstrap: str
    topic: str
    generation: str
    sender: str
    sends: bool
    bytes_per_s: int
    snapshot_interval_s: float


class DeltaExchange(Service):
    """Sender and receiver of one process's item deltas."""

    def __init__(
        self,
        config: ExchangeConfig,
        model: Model,
        store: ProfileStore,
        producer: Producer,
        metrics: Metrics,
        now_ms: Callable[[], int],
        owns_snapshots: Callable[[], bool] = lambda: False,
    ) -> None:
        """owns_snapshots: whether partition 0 is ours."""
        super().__init__()
        self.begin_sharing: Callable[[], Awaitable[object]] | None = None
        self._config = config
        self._model = model
        self._store = store
        self._producer = producer
        self._metrics = metrics
        self._now_ms = now_ms
        self._owns_snapshots = owns_snapshots
        self._ledger = Ledger(config.sender)
        self._replica: Replica | None = None
        self._reading = asyncio.Lock()  # held while a replica is replaced or waited for
        self._inbox: list[tuple[int, ItemDeltas]] = []
        self._heard: dict[str, float] = {}  # sender -> monotonic time
        self._newest: dict[str, int] = {}  # worker -> append time of its newest delta
        self._bases: set[str] = set()  # of messages, as far as they were looked into
        self._look = asyncio.Event()  # the store may have another base
        self._lacking = False  # messages were passed over that the table will not get any more
        self._lacking_at = ""  # version of the snapshot that was there then
        self._unsent: deque[bytes] = deque()
        self._allowance = 0.0  # bytes
        self._rounded_at = time.monotonic()
        self._said_at = 0.0
        self._begin_at = 0.0
        self._settled: dict[int, int] = {}  # covers as last sent
        model.exchange = self

    async def on_start(self) -> None:
        await self._say()

    async def on_stop(self) -> None:
        if self._config.bytes_per_s:
            try:
                async with asyncio.timeout(DELIVER_S):
                    async with self._model.saving:  # nobody else sends the same ones
                        # The last snapshot counts as told what it had made into messages.
                        told = await self._deliver()
                    if told:
                        await self._say(leaving=True)
            except (BrokerAway, TimeoutError) as away:
                logger.warning("left without a word", reason=repr(away))

    async def on_shutdown(self) -> None:
        """When no task of ours is left that could begin to read once more."""
        if self._replica is not None:
            await self._replica.stop()

    @property
    def n_listeners(self) -> int:
        """Other processes that add our deltas."""
        since = time.monotonic() - LISTEN_S
        return sum(at >= since for at in self._heard.values())

    def lineage(self, base: str | None) -> Lineage:
        """What the table holds; call it in the model thread."""
        return self._ledger.lineage(base)

    # Receiving ------------------------------------------------------------------------------

    async def pause(self) -> None:
        """Add nothing more until `replay`; nothing is being added when this returns.

        Before the table is replaced: else a message is added to the new one, and then read again.
        """
        async with self._reading:
            await self._stop_reading()

    async def _stop_reading(self) -> None:
        if self._replica is not None:
            old, self._replica = self._replica, None
            await old.stop()
        self._inbox.clear()
        await self._model.run(lambda: None)  # a job of before, which goes on when its caller ends

    async def replay(self, lineage: Lineage | None) -> None:
        """The table is that of a snapshot (None: empty): add what was sent since, then go on.

        Ours, too: whatever was sent is known to all. Raises BrokerAway: nothing more is read.
        """
        async with self._reading:
            await self._stop_reading()
            self._ledger.restart(lineage)
            start_at = {}
            if lineage is not None:
                known = lineage.next_offset
                start_at[0] = FROM_END if known is None else known
            replica = Replica(
                self._config.bootstrap,
                self._config.topic,
                self._take,
                f"{self._config.sender}-deltas",
                after_round=self._add,
                start_at=start_at,
            )
            await replica.start()
            self._replica = replica
            try:
                async with asyncio.timeout(REPLAY_S):
                    await replica.caught_up()
            except TimeoutError as error:
                raise BrokerAway(f"item deltas not read within {REPLAY_S:.0f} s") from error

    async def catch_up(self) -> None:
        """Add everything that has been sent until now, if the broker answers in time."""
        try:
            async with asyncio.timeout(CATCH_UP_S), self._reading:
                if self._replica is not None:
                    await self._replica.reached_end()
        except (BrokerAway, TimeoutError) as away:
            logger.warning("deltas not read to their end", reason=repr(away))

    @Service.task
    async def _watch_replica(self) -> None:
        """A replica that ends by itself ends the worker: it would learn alone."""
        while not self.should_stop:
            if self._replica is not None:
                await self._replica.wait()  # returns when it was stopped: another one is on its way
            await self.sleep(0.1)

    def _take(self, message: Message) -> None:
        try:
            deltas = decode_deltas(message.value)
        except DecodeError as error:
            self._metrics.unreadable.labels("item-deltas", error.code).inc()
            logger.warning("not item deltas", offset=message.offset, reason=str(error))
            return
        if deltas.generation != self._config.generation:
            return
        if deltas.sender != self._config.sender:
            age_s = max(0.0, (self._now_ms() - message.timestamp) / 1_000)
            if deltas.leaving:
                self._heard.pop(deltas.sender, None)
            elif age_s < LISTEN_S:  # read again, it may be old: it was said when it was said
                before = self._heard.get(deltas.sender, -math.inf)
                self._heard[deltas.sender] = max(before, time.monotonic() - age_s)
            if deltas.seq:
                self._newest[worker_of(deltas.sender)] = message.timestamp
        self._inbox.append((message.offset, deltas))

    async def _add(self) -> None:
        """Everything taken in, added in the model thread between two batches."""
        inbox, self._inbox = self._inbox, []
        received: Received = await self._model.run(lambda: self._add_to_table(inbox))
        for positions in received.covers:
            self._model.note_covers(positions)
        self._metrics.deltas_applied.inc(received.n_rows)
        self._metrics.deltas_missed.inc(received.n_missed)
        if received.n_missed:
            logger.warning("deltas are missing", messages=received.n_missed)
            self._lacking, self._lacking_at = True, ""
            self._look.set()
        unknown = received.bases - self._bases - {self._model.base}
        if unknown:
            self._bases |= unknown
            self._look.set()
        if received.n_rows:
            self._model.note_news()

    def _add_to_table(self, inbox: list[tuple[int, ItemDeltas]]) -> Received:
        items = self._model.items
        received = self._ledger.add(inbox, items, self._model.base)
        if not self._config.sends:
            self._ledger.take_weights(items, self._heard)
        return received

    # The base -------------------------------------------------------------------------------

    @Service.task
    async def _keep_base(self) -> None:
        """Go back to the newest snapshot when it holds learning that was in no delta, or in one
        that we lack."""
        while not self.should_stop:
            await self.wait(self._look, timeout=self._config.snapshot_interval_s)
            self._look.clear()
            if not await self.go_to_newest_base():
                await self.sleep(1.0)
                self._look.set()

    async def go_to_newest_base(self) -> bool:
        """Move to the snapshot in the store if it has what no delta tells us; False: one of broker
        and store is away, or the snapshot is broken."""
        try:
            found = await self._store.item_snapshot_base()
            # The owner of the snapshots is about to write the next one, and its updater settles
            # a table that is unsettled (the broker went away while it moved).
            if self._wants(found) and not self._owns_snapshots():
                await self._rebase()
        except (StoreAway, BrokerAway, SnapshotBroken) as away:
            logger.warning("item snapshot not read", reason=str(away))
            return False
        return True

    async def _rebase(self) -> None:
        lacking, self._lacking = self._lacking, False  # the replay may find that more is missing
        try:
            await self._model.rebase()
        except (StoreAway, BrokerAway, SnapshotBroken):
            self._lacking = self._lacking or lacking
            raise

    def _wants(self, found: tuple[str, str] | None) -> bool:
        """Whether to go to the snapshot in the store, given by version and base."""
        if self._model.unsettled:
            return True
        if found is None:
            return False
        version, base = found
        if self._lacking and not self._lacking_at:
            self._lacking_at = version  # the next one holds what we lack, or is before it
        if self._is_mute():
            return True
        return base != self._model.base or (self._lacking and version != self._lacking_at)

    def _is_mute(self) -> bool:
        """Whether we fold and tell nobody. Only the owner of the snapshots may, while it is alone;
        whoever takes them from it has a base to share."""
        model = self._model
        return self._config.sends and bool(model.own) and model.items.sharing is None

    # Sending --------------------------------------------------------------------------------

    @Service.task
    async def _send_regularly(self) -> None:
        while not self.should_stop and self._config.bytes_per_s:
            await self.sleep(SEND_S)
            try:
                await self._round()
            except BrokerAway as away:
                logger.warning("deltas not sent", reason=str(away))
            self._measure()

    async def _round(self) -> None:
        if self._config.sends and self.n_listeners:
            if self._model.items.sharing is not None:
                await self.send(everything=False)
            elif self._owns_snapshots():
                await self._begin()
        if time.monotonic() - self._said_at > HELLO_S:
            await self._say()

    async def _begin(self) -> None:
        """Somebody listens who has nothing to add our deltas to yet."""
        if self.begin_sharing is None or time.monotonic() < self._begin_at:
            return
        if not await self.begin_sharing():
            self._begin_at = time.monotonic() + BEGIN_AGAIN_S

    async def send(self, *, everything: bool) -> bool:
        """Send one round: of what is pending as much as the limit lets through, or `everything`.

        Returns whether all that was to be sent is acknowledged; the rest goes with the next round.
        """
        model = self._model
        async with model.saving:
            if not await self._deliver():
                return False
            async with model.stillness.still(QUIET_S) as quiet:
                if not quiet or model.tainted or model.unsettled or model.items.sharing is None:
                    return False
                await self.make(everything=everything)
            return await self._deliver()

    async def make(self, *, everything: bool = False) -> None:
        """Make one round's messages, for the next `send` to deliver.

        Hold `saving` of the model and a quiet `stillness`, of a table that is shared and settled.
        """
        model = self._model
        self._allow()
        positions = dict(model.own)
        async with model.viewing:
            made, delta = await model.run(lambda: self._make(positions, everything))
            model.publish(delta)
        self._unsent.extend(made)

    async def drained(self) -> None:
        """Return once everything made is acknowledged. Raises BrokerAway."""
        if not await self._deliver():
            raise BrokerAway("a message of ours with item deltas is not acknowledged yet")

    def _allow(self) -> None:
        now = time.monotonic()
        rate = self._config.bytes_per_s
        more = rate * (now - self._rounded_at)
        self._allowance = min(2 * SEND_S * rate, self._allowance + more)
        self._rounded_at = now

    def _make(
        self, positions: Mapping[int, int], everything: bool
    ) -> tuple[list[bytes], ItemDelta]:
        """One round's messages, and what changed for readers here; in the model thread, while all
        that it holds is committed."""
        items, covers = self._model.items, self._model.covers
        assert items.sharing is not None
        delta = items.take_delta()
        covers.note(items.sharing.round, positions)
        n_rounds = max(1, round(self._config.snapshot_interval_s / 2 / SEND_S))
        overdue = items.sharing.round - (0 if everything else n_rounds)
        of_items, of_tokens, of_words, of_positives = self._most(everything)
        changes = {
            ITEMS: items.take_changes(of_items, overdue),
            TOKENS: items.take_token_changes(of_tokens, overdue),
            WORDS: items.take_word_changes(of_words, overdue),
        }
        covers.settle(items.oldest_pending)
        items.end_round()
        positives = items.take_positives(of_positives)
        news = {p: n for p, n in covers.sent.items() if self._settled.get(p) != n}
        self._settled.update(news)
        if not any(changes.values()) and not positives.n_learned and not news:
            return [], delta
        made = []
        for message in to_messages(
            self._blank(), changes, positives, items.blend, news, items.clock_ms
        ):
            made.append(encode_deltas(self._ledger.number(message)))
        self._allowance -= sum(map(len, made))
        return made, delta

    def _most(self, everything: bool) -> tuple[int, int, int, int]:
        """How many items, tokens, words and positives this round may tell.

        Positives first, for they are told once or never; of what is left tokens and words have a
        quarter each, where there are any.
        """
        shape, items = self._model.config.shape, self._model.items
        each = positive_bytes(shape.n_tokens)
        positives = max(LEAST_POSITIVES, POSITIVES_BYTES // each)
        if everything:
            return len(items), len(items.tokens), len(items.queries), positives
        positives = max(LEAST_POSITIVES, min(positives, int(self._allowance / 2 / each)))
        waiting = min(positives, items.n_positives_pending)
        left = max(0.0, self._allowance - each * waiting)
        of_tokens = left / 4 if len(items.tokens) else 0.0
        of_words = left / 4 if len(items.queries) else 0.0
        return (
            int((left - of_tokens - of_words) / item_bytes(shape.n_factors)),
            int(of_tokens / token_bytes(shape.n_factors)),
            int(of_words / token_bytes(shape.n_factors)),
            positives,
        )

    def _blank(self) -> ItemDeltas:
        return ItemDeltas(self._config.generation, self._config.sender, base=self._model.base)

    async def _deliver(self) -> bool:
        """Send what was made, one after the other: a number that is passed over is lost."""
        while self._unsent:
            value = self._unsent[0]
            try:
                async with asyncio.timeout(DELIVER_S):
                    await self._producer.send_item_deltas(self._config.sender, value)
            except MessageTooLarge as error:  # others notice that its number is missing
                logger.error("deltas that the topic does not take are lost", reason=str(error))
                self._unsent.popleft()
                continue
            except (BrokerAway, TimeoutError) as away:
                logger.warning("deltas not acknowledged", reason=repr(away))
                return False
            self._unsent.popleft()
            self._said_at = time.monotonic()
            self._metrics.deltas_sent_bytes.inc(len(value))
        return True

    async def _say(self, *, leaving: bool = False) -> None:
        """That we listen, or do no more."""
        if not self._config.bytes_per_s:
            return
        message = ItemDeltas(
            self._config.generation,
            self._config.sender,
            base=self._model.base,
            leaving=leaving,
            version=HELLO_VERSION,
        )
        await self._producer.send_item_deltas(self._config.sender, encode_deltas(message))
        self._said_at = time.monotonic()

    def _measure(self) -> None:
        metrics: Any = self._metrics
        metrics.deltas_pending.set(self._model.items.n_pending)
        metrics.delta_listeners.set(self.n_listeners)
        heard = {worker_of(sender) for sender in self._heard}
        for worker in list(self._newest):
            if worker in heard:
                age_s = (self._now_ms() - self._newest[worker]) / 1_000
                metrics.delta_age_s.labels(worker).set(max(0.0, age_s))
            else:
                del self._newest[worker]
                metrics.delta_age_s.remove(worker)
        since = time.monotonic() - LISTEN_S
        for sender in [sender for sender, at in self._heard.items() if at < since]:
            del self._heard[sender]


def worker_of(sender: str) -> str:
    """The worker's name, without what tells its processes apart.

    >>> worker_of("shop-1-9f86d081")
    'shop-1'
    """
    return sender.rpartition("-")[0]
