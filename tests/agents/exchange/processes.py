"""Processes in small: a table, its deltas and its snapshots, on the real broker and store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from agents.exchange.deltas import DeltaExchange, ExchangeConfig
from agents.exchange.snapshots import SnapshotWriter
from agents.metrics import Metrics
from agents.model import Model
from agents.updater import wall_clock_ms
from profiles.shape import FoldConfig, ModelShape
from profiles.store import ProfileStore
from streams.item_deltas import ItemDeltas, decode_deltas
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.topics import TopicSet
from tests.builders import until
from tests.profiles.shared_tables import learn

CONFIG = FoldConfig(shape=ModelShape(n_factors=4))


class Process:
    """One process's table, its deltas, and its snapshots while it owns partition 0."""

    def __init__(
        self, name: str, store: ProfileStore, producer: Producer, topics: TopicSet, **changes: Any
    ) -> None:
        values: dict[str, Any] = {"sends": True, "bytes_per_s": 1_000_000} | changes
        self.metrics = Metrics()
        self.model = Model(CONFIG, store, self.metrics, folds=values["sends"])
        self.folds: dict[int, Any] = {}
        self.exchange = DeltaExchange(
            ExchangeConfig(
                bootstrap=producer.bootstrap,
                topic=topics.item_deltas.name,
                generation="g",
                sender=f"{name}-0",
                snapshot_interval_s=60.0,
                **values,
            ),
            self.model,
            store,
            producer,
            self.metrics,
            wall_clock_ms,
            owns_snapshots=lambda: 0 in self.folds,
        )
        self.writer = SnapshotWriter(
            self.model, store, self.folds, self.metrics, 60.0, wall_clock_ms
        )
        self.writer.exchange = self.exchange
        self.exchange.begin_sharing = self.writer.write

    async def own(self, store: ProfileStore) -> None:
        """Become the writer of snapshots."""
        claim = (await store.acquire(0, self.exchange._config.sender.encode().ljust(16))).claim
        self.folds[0] = SimpleNamespace(claim=claim)

    async def learn(self, item_id: str, by: float, partition: int, next_offset: int) -> None:
        """Move an item's vector, and commit."""
        await self.move(item_id, by)
        self.model.note_commit(partition, next_offset)

    async def move(self, item_id: str, by: float) -> None:
        """Move an item's vector; nothing is committed."""
        await self.model.run(lambda: self._move(item_id, by))

    def _move(self, item_id: str, by: float) -> None:
        items = self.model.items
        (row,) = items.intern([item_id])
        items.columns.vectors[row] += np.float32(by)
        items.columns.n_positive[row] += 1
        items.columns.changed[row] = 3

    async def have(self, *item_ids: str, partition: int, next_offset: int) -> None:
        """Positives of one user, an item after the other, as the kernel counts them; committed."""
        await self.model.run(lambda: self._have(item_ids))
        self.model.note_commit(partition, next_offset)

    def _have(self, item_ids: Sequence[str]) -> None:
        for n, item_id in enumerate(item_ids):
            learn(self.model.items, item_id, after=item_ids[:n][::-1])

    def neighbours(self, item_id: str) -> dict[str, float]:
        """How often others came after an item, as readers see it."""
        view = self.model.view
        row, lists = view.row(item_id), view.model.lists
        if row is None:
            return {}
        places = range(lists.n[row])
        found = {view.ids[lists.rows[row, p]]: float(lists.forward[row, p]) for p in places}
        return {neighbour: count for neighbour, count in found.items() if count}

    async def sees(self, item_id: str, neighbours: dict[str, float]) -> None:
        """Wait until readers here see that those came after an item."""
        await until(lambda: self.neighbours(item_id) == neighbours, f"{item_id}: {neighbours}", 20)

    def n_positive(self, item_id: str) -> int:
        """Positives of an item here; -1: not known."""
        row = self.model.items.row(item_id)
        return -1 if row is None else int(self.model.items.columns.n_positive[row])

    def vector(self, item_id: str) -> list[float]:
        """An item's vector here."""
        row = self.model.items.row(item_id)
        assert row is not None
        return self.model.items.columns.vectors[row].tolist()

    async def knows(self, item_id: str, n: int) -> None:
        """Wait until so many positives of an item are here."""
        await until(lambda: self.n_positive(item_id) == n, f"{n} of {item_id}", 20)

    async def start(self) -> None:
        """As a worker does."""
        await self.model.start()
        await self.exchange.start()

    async def stop(self) -> None:
        """As a worker does, but for the hand-over."""
        await self.exchange.stop()
        await self.model.stop()


class Shop:
    """Broker and store of one test."""

    def __init__(self, store: ProfileStore, producer: Producer, topics: TopicSet) -> None:
        self.store, self.producer, self.topics = store, producer, topics

    @asynccontextmanager
    async def process(self, name: str, **changes: Any) -> AsyncIterator[Process]:
        """A process that is started."""
        process = Process(name, self.store, self.producer, self.topics, **changes)
        await process.start()
        try:
            yield process
        finally:
            await process.stop()

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[tuple[Process, Process]]:
        """Two fold processes that hear each other; the first writes snapshots."""
        async with self.process("one") as one, self.process("two") as two:
            await one.own(self.store)
            await until(
                lambda: one.exchange.n_listeners == two.exchange.n_listeners == 1, "both hear"
            )
            yield one, two

    async def sent(self) -> list[ItemDeltas]:
        """Every message with content."""
        topic = self.topics.item_deltas.name
        async with TopicTail(
            self.producer.bootstrap, topic, from_beginning=True, follow=False
        ) as tail:
            found = [record async for records in tail.records() for record in records]
        return [m for m in (decode_deltas(record.value) for record in found) if m.seq]
