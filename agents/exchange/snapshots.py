"""Writes item snapshots: what a process that starts, or was refused a batch, goes on from.

The owner of partition 0 begins one every `interval_s`: only chunks that changed, the manifest
last, fenced like a commit. While others listen it holds what everyone knows: the base and the
deltas named in its lineage, nothing else; so whoever has it knows which deltas to add. While nobody
listens it holds the table as it is, and is a new base.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog
from mode import Service

from agents.exchange.deltas import DeltaExchange
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import PartitionFold
from profiles.errors import Fenced, StoreAway, StoreWentBack
from profiles.items import ItemSnapshot
from profiles.store import ProfileStore
from profiles.store_items import Lineage

STILL_S = 2.0
"""How long a snapshot waits for commits under way; the next one holds the same and more."""

logger = structlog.get_logger(__name__)


def pause_after(took_s: float, interval_s: float) -> float:
    """Seconds until the next snapshot begins: the interval runs from begin to begin, so a crash
    loses the interval and the time that a snapshot takes. A slow one leaves as much to the rest.

    >>> pause_after(0.5, 2.0), pause_after(3.0, 2.0)
    (1.5, 3.0)
    """
    return max(interval_s - took_s, took_s)


class SnapshotWriter(Service):
    """Writes item snapshots while partition 0 is ours; once more at a graceful stop."""

    def __init__(
        self,
        model: Model,
        store: ProfileStore,
        folds: Mapping[int, PartitionFold],
        metrics: Metrics,
        interval_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        """folds: the updater's partitions, a live view."""
        super().__init__()
        self.exchange: DeltaExchange | None = None  # None: deltas are switched off
        self._model = model
        self._store = store
        self._folds = folds
        self._metrics = metrics
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._written_to: dict[int, int] = {}
        self._left_out = False  # the stored snapshot lacks what was pending then

    @Service.task
    async def _write_regularly(self) -> None:
        pause_s = self._interval_s
        while not self.should_stop:
            await self.sleep(pause_s)
            if not self.should_stop:
                began = time.monotonic()
                await self.write()
                pause_s = pause_after(time.monotonic() - began, self._interval_s)

    async def write(self, *, share: bool = False) -> bool:
        """Write one snapshot. False when partition 0 isn't ours, when nothing changed, and when it
        could not be written: the next one is whole.

        share: begin to share the table, whether or not somebody listens.
        """
        model, began = self._model, time.monotonic()
        async with model.saving:
            async with model.stillness.still(STILL_S) as quiet:
                fold = self._folds.get(0)
                if fold is None or model.tainted or model.unsettled:
                    return False
                shared = model.items.sharing is not None
                listened = share or (self.exchange is not None and self.exchange.n_listeners > 0)
                as_all_know = shared and listened
                if self._positions(as_all_know) == self._written_to and shared == listened:
                    return False
                if not quiet:
                    logger.warning("item snapshot put off", reason="a commit waits for its store")
                    return False
                if as_all_know and self.exchange is not None:
                    await self.exchange.make()  # lists hold no positive that was not told
                try:
                    snapshot, lineage = await model.run(lambda: self._take(as_all_know, listened))
                except asyncio.CancelledError:
                    # The job goes on without us, and counts as saved what nobody writes: a stop's
                    # snapshot would lack those chunks.
                    await self._undone(shared)
                    raise
                # Only now: a message that was added right before is in the snapshot.
                positions = self._positions(as_all_know)
            try:
                version = await self._store.write_item_snapshot(
                    fold.claim,
                    snapshot.header,
                    snapshot.chunks,
                    positions,
                    snapshot.n_chunks,
                    lineage,
                )
            except (StoreAway, StoreWentBack, Fenced) as error:
                await self._undone(shared)
                logger.warning("item snapshot not written", reason=str(error))
                return False
            except asyncio.CancelledError:
                # It may have been written; a stop makes one more, which must not rely on it.
                await self._undone(shared)
                raise
            model.note_snapshot(version, version if lineage.base is None else lineage.base)
            self._left_out = as_all_know
            if shared and not listened:
                await model.run(model.items.stop_sharing)
            self._written_to = positions
        self._metrics.snapshots.inc()
        self._metrics.snapshot_time.set(self._now_ms() / 1_000)
        self._metrics.snapshot_took_s.set(time.monotonic() - began)
        return True

    def _positions(self, as_all_know: bool) -> dict[int, int]:
        """By partition, how far the learning goes that a snapshot holds."""
        return self._model.known_to_all() if as_all_know else dict(self._model.learned_to)

    def _take(self, as_all_know: bool, listened: bool) -> tuple[ItemSnapshot, Lineage]:
        """In the model thread, while nothing is between fold and commit."""
        model, items = self._model, self._model.items
        if self._left_out and not as_all_know:
            items.mark_unsaved()  # the kernel may not have touched since what was pending then
        snapshot = items.snapshot(public=as_all_know)
        if listened and not as_all_know:
            model.share()
        base = model.base if as_all_know else None
        if self.exchange is None:
            return snapshot, Lineage(base)
        return snapshot, self.exchange.lineage(base)

    async def _undone(self, was_shared: bool) -> None:
        """Have `_undo` done; a cancel ends the wait for it, and no more."""
        await asyncio.shield(self._model.run(lambda: self._undo(was_shared)))

    def _undo(self, was_shared: bool) -> None:
        """In the model thread: what was taken is not in the store, or not surely."""
        if not was_shared and self._model.items.sharing is not None:
            self._model.items.stop_sharing()
        self._model.items.mark_unsaved()
