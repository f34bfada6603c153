"""Item snapshots: written by the owner of partition 0, committed learning only."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from agents.exchange.snapshots import SnapshotWriter
from agents.metrics import Metrics
from agents.model import Model
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.store import ProfileStore, StoreConfig

SHAPE = ModelShape(n_factors=4)
CONFIG = FoldConfig(shape=SHAPE)


@dataclass
class Shop:
    """A model, its store, and a writer that owns partition 0."""

    model: Model
    store: ProfileStore
    writer: SnapshotWriter
    folds: dict[int, Any] = field(default_factory=dict)

    async def learn(self, item_id: str, next_offset: int) -> None:
        await self.model.run(lambda: self.model.items.intern([item_id]))
        self.model.note_commit(0, next_offset)

    async def stored(self) -> tuple[dict[int, int], int]:
        """Positions and number of items of the stored snapshot; nothing: ({}, 0)."""
        found = await self.store.read_item_snapshot()
        if found is None:
            return {}, 0
        table = ItemTable.restore(SHAPE, CONFIG, found.header, found.chunks)
        return dict(found.next_offsets), len(table)


@pytest_asyncio.fixture
async def shop(redis_url: str, generation: str) -> AsyncIterator[Shop]:
    async with ProfileStore(StoreConfig(redis_url, generation, 2)) as store:
        metrics = Metrics()
        model = Model(CONFIG, store, metrics)
        await model.start()
        claim = (await store.acquire(0, b"o" * 16)).claim
        folds: dict[int, Any] = {0: SimpleNamespace(claim=claim)}
        yield Shop(
            model, store, SnapshotWriter(model, store, folds, metrics, 9.0, lambda: 1), folds
        )
        await model.stop()


async def test_what_was_committed_is_stored_with_its_positions(shop: Shop) -> None:
    await shop.learn("a", 3)
    assert await shop.writer.write()
    assert await shop.stored() == ({0: 3}, 1)
    await shop.learn("b", 8)
    assert await shop.writer.write()
    assert await shop.stored() == ({0: 8}, 2)


async def test_nothing_new_is_not_written_again(shop: Shop) -> None:
    await shop.learn("a", 3)
    assert await shop.writer.write()
    assert not await shop.writer.write()


async def test_only_the_owner_of_partition_0_writes(shop: Shop) -> None:
    await shop.learn("a", 3)
    shop.folds.clear()
    assert not await shop.writer.write()
    assert await shop.stored() == ({}, 0)


async def test_uncommitted_learning_is_not_written(shop: Shop) -> None:
    await shop.learn("a", 3)
    shop.model.tainted = True
    assert not await shop.writer.write()
    assert await shop.stored() == ({}, 0)


async def test_a_snapshot_waits_for_the_commit_in_flight(shop: Shop) -> None:
    await shop.learn("a", 3)
    async with shop.model.stillness.folding():
        writing = asyncio.create_task(shop.writer.write())
        await asyncio.sleep(0.05)
        assert not writing.done()
        assert await shop.stored() == ({}, 0)
    assert await writing


async def test_after_a_lost_ownership_the_next_snapshot_is_whole(shop: Shop) -> None:
    await shop.learn("a", 3)
    claim = (await shop.store.acquire(0, b"p" * 16)).claim  # another worker
    assert not await shop.writer.write()
    shop.folds[0].claim = claim
    assert await shop.writer.write()
    assert await shop.stored() == ({0: 3}, 1)


async def test_a_snapshot_cut_off_by_a_stop_is_made_whole_by_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    await shop.learn("a", 3)
    began, real = asyncio.Event(), shop.store.write_item_snapshot

    async def never(*arguments: object) -> str:
        began.set()
        await asyncio.Event().wait()
        return ""

    monkeypatch.setattr(shop.store, "write_item_snapshot", never)
    writing = asyncio.create_task(shop.writer.write())
    await began.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    monkeypatch.setattr(shop.store, "write_item_snapshot", real)
    await shop.learn("b", 4)
    assert await shop.writer.write()
    assert await shop.stored() == ({0: 4}, 2)


@pytest.mark.parametrize("n_stops", [1, 2])
async def test_a_stop_while_rows_are_taken_leaves_none_out_of_the_next(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, n_stops: int
) -> None:
    await shop.learn("a", 3)
    assert await shop.writer.write()
    await shop.learn("b", 8)
    take, taken, go_on = shop.writer._take, threading.Event(), threading.Event()

    def slowly(*arguments: bool) -> Any:
        found = take(*arguments)
        taken.set()
        go_on.wait()
        return found

    monkeypatch.setattr(shop.writer, "_take", slowly)
    writing = asyncio.create_task(shop.writer.write())
    await asyncio.to_thread(taken.wait)
    for _ in range(n_stops):
        writing.cancel()
        for _ in range(5):  # what undoes it stands in line behind `slowly`
            await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await shop.writer.write()
    assert await shop.stored() == ({0: 8}, 2)
