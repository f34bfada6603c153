"""The item table and its one writer: the model thread.

Owns the order in which everything that changes item vectors happens (in the thread, or in the
event loop while the thread has nothing to do), the read-only view that scorers use, and the way
back to the last snapshot. `still` is how a snapshot waits until nothing folded is waiting for its
commit: what was not committed never enters a snapshot (and so never another process).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import structlog
from mode import Service

from agents import list_json
from agents.exchange.covers import Covers
from agents.metrics import Metrics
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.store import ProfileStore
from profiles.store_items import Lineage, StoredSnapshot
from profiles.view import ItemDelta, ItemView
from profiles.warmup import warmup
from streams import event_columns

Result = TypeVar("Result")

LEAST_PAUSE_S = 0.02
"""Between two looks of the readers' view: less than a person sees, more than a look costs."""

MOST_PAUSE_S = 0.5
"""However long a look took: it may have waited for the thread, which compiles for 20 s once."""

QUIET_S = 0.05
"""How long a look of the readers' view waits for commits under way: ten times an ordinary one."""

MOST_PATIENCE_S = 2.0
"""And at most, when the view is old. A commit of a store that answers takes milliseconds."""

logger = structlog.get_logger(__name__)


def _warm_up() -> None:
    warmup()
    event_columns.warmup()
    list_json.warmup()


def pause_after(took_s: float) -> float:
    """How long to leave commits alone after a look of the readers' view that took so long.

    >>> pause_after(0.0005), pause_after(0.01), pause_after(20.0)
    (0.02, 0.2, 0.5)
    """
    return min(MOST_PAUSE_S, max(LEAST_PAUSE_S, 20 * took_s))


class Stillness:
    """Lets many fold at once, or one be still.

    A step from fold to commit runs inside `folding`; `still` waits until no step is open, and
    holds new ones, and others who want to be still, back meanwhile.
    """

    def __init__(self) -> None:
        self.away: set[int] = set()  # partitions whose commit waits for a store that is away
        self._open = 0
        self._held = False
        self._none_open = asyncio.Event()
        self._let_go = asyncio.Event()
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def folding(self) -> AsyncIterator[None]:
        """One step from fold to commit."""
        while self._held:
            await self._let_go.wait()
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            if not self._open:
                self._none_open.set()

    def note_away(self, partition: int) -> None:
        """A commit that is under way waits for its store."""
        self.away.add(partition)
        self._none_open.set()

    @asynccontextmanager
    async def still(self, within_s: float) -> AsyncIterator[bool]:
        """Whether nothing is between fold and commit while this is held.

        within_s: how long to wait for that. A commit may wait for its store for hours, and must
        not stop the partitions whose store answers: this gives False at once when one is known
        to wait (`note_away`), and then holds nobody back.
        """
        async with self._alone:
            self._held = True
            self._let_go.clear()
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within_s):
                        while self._open and not self.away:
                            self._none_open.clear()
                            await self._none_open.wait()
                if self._open:
                    self._held = False
                    self._let_go.set()
                yield self._held
            finally:
                self._held = False
                self._let_go.set()


class Exchange(Protocol):
    """What the table needs of `agents.exchange.deltas`."""

    async def pause(self) -> None:
        """Add nothing more until `replay`; nothing is being added when this returns."""

    async def replay(self, lineage: Lineage | None) -> None:
        """Add to the table of a snapshot what was sent since."""

    async def drained(self) -> None:
        """Return once everything of ours is sent. Raises BrokerAway."""


class Model(Service):
    """The item table, the thread that alone writes to it, and the view that others read.

    tainted: the table holds learning of a batch that was not committed. From then until
    `take_back` no reader sees it and no snapshot is made of it. unsettled: others' learning is
    still to be added to another snapshot, with the same consequences; folding goes on. base:
    version of the snapshot that the table and everyone's deltas go back to. exchange: None: nobody
    tells us anything.
    """

    exchange: Exchange | None = None

    def __init__(
        self, config: FoldConfig, store: ProfileStore, metrics: Metrics, *, folds: bool = True
    ) -> None:
        """folds: False: this process only reads; what it has came from others."""
        super().__init__()
        self.config = config
        self.items = ItemTable(config.shape, config)
        self.view = ItemView(config.shape, config)
        self.stillness = Stillness()
        self.learned_to: dict[int, int] = {}  # by partition: next_offset whose learning we hold
        self.own: dict[int, int] = {}  # those of them that are folded here
        self.covers = Covers({})  # how far others know what we learned
        self.base = ""
        self.tainted = False
        self.unsettled = False
        # Held from taking a snapshot to its last byte, and by `take_back`: else the table goes back
        # to a snapshot that is just being replaced, and the next one mixes chunks of both.
        self.saving = asyncio.Lock()
        self.viewing = asyncio.Lock()  # held from taking what changed until readers see it
        self._snapshot_version: str | None = None  # of the snapshot that the table came from
        self._committed = asyncio.Event()
        self._folds = folds
        self._store = store
        self._metrics = metrics
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._jobs: set[Future[Any]] = set()  # handed to the thread and not ended

    async def on_start(self) -> None:
        """Take the last snapshot; compile the kernel before the first event needs it."""
        self._warming = asyncio.ensure_future(self.run(_warm_up))
        await self.restore()

    async def on_stop(self) -> None:
        self._thread.shutdown(wait=True)

    async def run(self, job: Callable[[], Result], *, small: bool = False) -> Result:
        """Run a job in the model thread; jobs run one after the other, in the order given.

        small: done within a millisecond. It then runs here, unless the thread is busy: handing it
        over costs more than the job, and under load its thread waits up to 5 ms for the GIL.
        A job that has begun ends: cancelling the caller doesn't stop it half way.
        """
        if small and not self._jobs:
            return job()
        future = self._thread.submit(job)
        self._jobs.add(future)
        future.add_done_callback(self._jobs.discard)
        return await asyncio.wrap_future(future)

    def note_commit(self, partition: int, next_offset: int) -> None:
        """A fold was committed: readers may see what it learned, soon."""
        self.own[partition] = next_offset
        if not self.unsettled:  # else learned on top of what is still being added
            self.learned_to[partition] = next_offset
        self._committed.set()

    def note_covers(self, positions: Mapping[int, int]) -> None:
        """We hold what somebody else learned up to these positions."""
        for partition, next_offset in positions.items():
            self.learned_to[partition] = max(next_offset, self.learned_to.get(partition, 0))

    def note_news(self) -> None:
        """Others' learning was added: readers may see it, soon."""
        self._committed.set()

    def note_handed_back(self, partition: int) -> None:
        """A partition is not folded here any more."""
        self.own.pop(partition, None)
        if self.items.sharing is not None and partition in self.covers.sent:
            # What could not be told before (the broker was away) is known here alone.
            self.learned_to[partition] = self.covers.sent[partition]
        self.covers.forget(partition)

    def known_to_all(self) -> dict[int, int]:
        """By partition, up to where everyone has what was learned."""
        return self.learned_to | self.covers.sent

    def share(self) -> None:
        """From here on tell others; what the table holds counts as known. In the model thread."""
        self.items.share()
        self.covers = Covers(self.own)

    @Service.task
    async def _publish_regularly(self) -> None:
        """Let readers see what commits have changed, at once when little happens.

        Under load the pause grows: each look needs a moment in which nothing is folded but not
        committed, and those moments may cost at most a twentieth of the time.
        """
        published = time.perf_counter()
        while not self.should_stop:
            await self.wait(self._committed)
            self._committed.clear()
            began = time.perf_counter()
            # Under full load no moment is quiet by itself: the older the view, the longer new
            # folds are held back for one.
            patience_s = min(MOST_PATIENCE_S, max(QUIET_S, began - published))
            async with self.stillness.still(patience_s) as quiet, self.viewing:
                if quiet and not self.tainted and not self.unsettled:
                    self.publish(await self.run(self.items.take_delta))
                    published = time.perf_counter()
                else:
                    self._committed.set()  # what was committed is still to be seen
            await self.sleep(pause_after(time.perf_counter() - began))

    def publish(self, delta: ItemDelta) -> None:
        """Let readers see a delta; hold `viewing` from taking it."""
        self.view.apply(delta)
        self._metrics.items.set(len(self.view))

    def reconcile(self, partition: int, next_offset: int) -> None:
        """Count what learning the table lacks, or will have twice, when folding goes on here."""
        learned_to = self.learned_to.get(partition, 0)
        self._metrics.model_lost.inc(max(0, next_offset - learned_to))
        self._metrics.model_relearned.inc(max(0, learned_to - next_offset))
        self.learned_to[partition] = self.own[partition] = next_offset
        self.covers.set(partition, next_offset)

    async def take_back(self, positions: Callable[[], Mapping[int, int]]) -> None:
        """After a refused batch: go back to the last snapshot, unless somebody did already.

        positions: by partition, the next_offset of those that go on from where they are; what
        they have learned since the snapshot is lost, and counted. Raises StoreAway, BrokerAway:
        still `tainted` or `unsettled`.
        """
        async with self.saving:
            if self.tainted or self.unsettled:
                await self.restore(positions)

    async def catch_up(self, positions: Callable[[], Mapping[int, int]]) -> None:
        """On becoming the writer of snapshots: go on from the newest.

        When it goes back to another base than our table, which then never saw what the writer
        before us learned last. Raises StoreAway, BrokerAway.
        """
        async with self.saving:
            found = await self._store.item_snapshot_base()
            version, base = found or (None, "")
            if version == self._snapshot_version:
                return
            if self.exchange is None:
                await self.restore(positions)
                return
            if base != self.base:
                await self._rebase()
            await self.run(self.items.mark_unsaved)  # its rows are in another order

    def note_snapshot(self, version: str, base: str) -> None:
        """The table was written as this snapshot."""
        self._snapshot_version, self.base = version, base

    async def rebase(self) -> None:
        """Go back to the newest snapshot and add what was sent since; what of ours is pending
        stays. Raises StoreAway, BrokerAway: ask again, until then nothing of ours is sent."""
        async with self.saving:
            if not self.tainted:
                await self._rebase()

    async def _rebase(self) -> None:
        assert self.exchange is not None
        if self.items.sharing is None:
            await self.restore(lambda: dict(self.own))
            return
        await self.exchange.drained()
        found = await self._stored()
        if found is None:
            return
        other = await asyncio.to_thread(self._table_of, found)
        self.unsettled = True
        await self.exchange.pause()  # what comes now would be added, and then be read again
        await self.run(lambda: self.items.rebase(other))
        self.note_covers(found.next_offsets)
        self.base = found.lineage.base or ""
        await self.exchange.replay(found.lineage)
        self._settle()
        self._snapshot_version = None  # its rows are in another order
        logger.info("item table moved to a new base", base=self.base)

    async def restore(self, positions: Callable[[], Mapping[int, int]] = dict) -> None:
        """Go back to the last snapshot and add what was sent since: at start; later by
        `take_back`. Raises StoreAway, BrokerAway: still `tainted` or `unsettled`.

        positions: as in `take_back`. Those partitions fold on meanwhile: what they learn from here
        on is in the new table, and what they had learned before is lost.
        """
        if self.exchange is not None and self.items.sharing is not None:
            await self.exchange.drained()
        found = await self._stored()
        table = await self.run(lambda: self._table_of(found))
        self.unsettled = True
        if self.exchange is not None:
            await self.exchange.pause()
        await self.run(lambda: self._replace(table))
        self.tainted = False  # a batch that is refused from here on taints the new table
        goes_on = dict(positions())
        self.own = {p: next_offset for p, next_offset in self.own.items() if p in goes_on}
        self.learned_to = dict(found.next_offsets) if found else {}
        self._snapshot_version = found.version if found else None
        self.base = (found.lineage.base or "") if found else ""
        if self.exchange is not None:
            await self.exchange.replay(found.lineage if found else None)
        still_ours = positions()
        for partition, next_offset in goes_on.items():
            if partition not in still_ours:
                continue
            learned_on_to = max(next_offset, self.own.get(partition, 0))
            self.reconcile(partition, next_offset)
            self.own[partition] = learned_on_to
        self._settle()
        async with self.stillness.still(QUIET_S) as quiet, self.viewing:
            if quiet and not self.tainted:
                self.publish(await self.run(self.items.take_delta))
        logger.info("item table restored", items=len(self.items), from_snapshot=found is not None)

    def _settle(self) -> None:
        """Everything that was sent is in the table, and what we learned meanwhile."""
        self.learned_to |= self.own
        self.unsettled = False
        self._committed.set()

    async def _stored(self) -> StoredSnapshot | None:
        """The newest whole snapshot. Raises SnapshotBroken, StoreAway."""
        found = await self._store.read_item_snapshot()
        if found is not None and found.older_because:
            logger.error("item snapshot broken", reason=found.older_because, instead=found.version)
        return found

    def _table_of(self, found: StoredSnapshot | None) -> ItemTable:
        if found is None:
            return ItemTable(self.config.shape, self.config)
        return ItemTable.restore(self.config.shape, self.config, found.header, found.chunks)

    def _replace(self, table: ItemTable) -> None:
        """In the model thread. All of a snapshot is known to all: what is folded or added from
        here on is kept apart from the first event on."""
        if len(self.items):  # at the start whoever knows the catalogue comes after us
            table.describe_as(self.items)
        self.items = table
        if self.exchange is not None and self._folds:
            table.share()
            self.covers = Covers({})
