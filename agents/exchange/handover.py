"""When partitions change hands: what was learned is told first, and read before anybody goes on."""

from __future__ import annotations

from collections.abc import Callable

from agents.exchange.deltas import DeltaExchange
from agents.exchange.snapshots import SnapshotWriter
from agents.model import Model


class HandOver:
    """What the updater does before it hands partitions back, and before it takes some over."""

    def __init__(
        self,
        model: Model,
        snapshots: SnapshotWriter,
        exchange: DeltaExchange | None,
        stopping: Callable[[], bool],
    ) -> None:
        """exchange: None: deltas are switched off, and only the owner of partition 0 can save
        what it learned. stopping: whether this process ends."""
        self._model = model
        self._snapshots = snapshots
        self._exchange = exchange
        self._stopping = stopping

    async def give(self) -> None:
        """Everything committed here reaches whoever goes on: as deltas, in a snapshot, or both."""
        stopping, exchange = self._stopping(), self._exchange
        if exchange is None:
            await self._snapshots.write()
            return
        if self._is_shared() and (exchange.n_listeners or not stopping):
            await exchange.send(everything=True)
        if stopping:
            await self._snapshots.write()
        # Asked anew: a snapshot that was under way when we began may have ended the sharing.
        elif not self._is_shared():  # nobody was told anything: the next base is this table
            await self._snapshots.write(share=True)

    async def take(self) -> None:
        """Everything that was told before is in the table: what lacks then is lost."""
        if self._exchange is not None:
            await self._exchange.catch_up()
            await self._exchange.go_to_newest_base()

    def _is_shared(self) -> bool:
        return self._model.items.sharing is not None
