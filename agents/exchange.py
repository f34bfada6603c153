"""Item vectors between processes: the writer of snapshots, and the reader that follows them.

The owner of partition 0 writes a snapshot of the item table every `interval_s`: only chunks that
changed, the manifest last, fenced like a commit. A process without the updater reads them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from mode import Service

from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import PartitionFold
from profiles.errors import Fenced, StoreAway, StoreWentBack
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.store import ProfileStore
from profiles.view import ItemView
from profiles.warmup import warmup

STILL_S = 2.0
"""How long a snapshot waits for commits under way; the next one holds the same and more."""

logger = structlog.get_logger(__name__)


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
        self._model = model
        self._store = store
        self._folds = folds
        self._metrics = metrics
        self._interval_s = interval_s
        self._now_ms = now_ms
        self._written_to: dict[int, int] = {}

    @Service.task
    async def _write_regularly(self) -> None:
        while not self.should_stop:
            await self.sleep(self._interval_s)
            if not self.should_stop:
                await self.write()

    async def write(self) -> bool:
        """Write one snapshot. False when partition 0 isn't ours, when nothing changed, and when it
        could not be written: the next one is whole."""
        model = self._model
        async with model.saving:
            async with model.stillness.still(STILL_S) as quiet:
                fold = self._folds.get(0)
                if fold is None or model.tainted or model.learned_to == self._written_to:
                    return False
                if not quiet:
                    logger.warning("item snapshot put off", reason="a commit waits for its store")
                    return False
                items, learned_to = model.items, dict(model.learned_to)
                snapshot = await model.run(items.snapshot)
            try:
                version = await self._store.write_item_snapshot(
                    fold.claim, snapshot.header, snapshot.chunks, learned_to, snapshot.n_chunks
                )
            except (StoreAway, StoreWentBack, Fenced) as error:
                await model.run(items.mark_unsaved)
                logger.warning("item snapshot not written", reason=str(error))
                return False
            except asyncio.CancelledError:
                # It may have been written; a stop makes one more, which must not rely on it.
                await model.run(items.mark_unsaved)
                raise
            model.note_snapshot(version)
            self._written_to = learned_to
        self._metrics.snapshots.inc()
        self._metrics.snapshot_time.set(self._now_ms() / 1_000)
        return True


class SnapshotReader(Service):
    """Keeps a read-only view at the newest snapshot, for a process that folds nothing."""

    def __init__(
        self,
        config: FoldConfig,
        store: ProfileStore,
        view: ItemView,
        interval_s: float,
    ) -> None:
        super().__init__()
        self._config = config
        self._store = store
        self._view = view
        self._interval_s = interval_s
        self._version: str | None = None

    async def on_start(self) -> None:
        await asyncio.to_thread(warmup, self._config)
        await self.read()

    @Service.task
    async def _read_regularly(self) -> None:
        while not self.should_stop:
            await self.sleep(self._interval_s)
            try:
                await self.read()
            except StoreAway as away:
                logger.warning("item snapshot not read", reason=str(away))

    async def read(self) -> None:
        """Take the newest snapshot, if it isn't the one we have."""
        version = await self._store.item_snapshot_version()
        if version is None or version == self._version:
            return
        found = await self._store.read_item_snapshot()
        if found is None:
            return
        delta = await asyncio.to_thread(
            lambda: ItemTable.restore(
                self._config.shape, self._config, found.header, found.chunks
            ).take_delta()
        )
        self._view.reset()
        self._view.apply(delta)
        self._version = found.version
