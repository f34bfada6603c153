"""One writer of item vectors; readers and snapshots see committed learning only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from agents.metrics import Metrics
from agents.model import Model, Stillness
from profiles.shape import FoldConfig, ModelShape
from profiles.store import ProfileStore, StoreConfig
from tests.builders import until

CONFIG = FoldConfig(shape=ModelShape(n_factors=4))


@pytest_asyncio.fixture
async def store(redis_url: str, generation: str) -> AsyncIterator[ProfileStore]:
    async with ProfileStore(StoreConfig(redis_url, generation, 2)) as store:
        yield store


@pytest_asyncio.fixture
async def model(store: ProfileStore) -> AsyncIterator[Model]:
    model = Model(CONFIG, store, Metrics())
    await model.start()
    yield model
    await model.stop()


async def settle() -> None:
    """Let every task come to its next wait."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_stillness_waits_for_open_steps_and_holds_new_ones_back() -> None:
    stillness, told = Stillness(), []
    leave = asyncio.Event()

    async def fold(name: str) -> None:
        async with stillness.folding():
            told.append(f"{name} in")
            await leave.wait()
        told.append(f"{name} out")

    async def look() -> None:
        async with stillness.still(60) as quiet:
            assert quiet
            told.append("still")
            await settle()
            told.append("over")

    async with asyncio.TaskGroup() as group:
        group.create_task(fold("a"))
        group.create_task(fold("b"))
        await settle()
        group.create_task(look())
        await settle()
        group.create_task(fold("c"))
        await settle()
        assert told == ["a in", "b in"]
        leave.set()
    assert sorted(told[2:4]) == ["a out", "b out"]
    assert told[4:] == ["still", "over", "c in", "c out"]


async def test_only_one_is_still_at_a_time() -> None:
    stillness, inside = Stillness(), 0

    async def look() -> None:
        nonlocal inside
        async with stillness.still(60):
            inside += 1
            assert inside == 1
            await settle()
            inside -= 1

    await asyncio.gather(*(look() for _ in range(5)))


async def test_a_cancelled_wait_for_stillness_lets_others_fold() -> None:
    stillness = Stillness()

    async def look() -> None:
        async with stillness.still(60):
            raise AssertionError("a step is open")

    async with stillness.folding():
        waiting = asyncio.create_task(look())
        await settle()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(1), stillness.folding():
            pass


async def test_a_commit_that_waits_for_its_store_holds_nobody_up() -> None:
    stillness = Stillness()
    async with stillness.folding():
        async with stillness.still(0.01) as quiet:
            assert not quiet
            async with asyncio.timeout(1), stillness.folding():
                pass
        async with asyncio.timeout(1), stillness.folding():
            pass
    async with stillness.still(0.01) as quiet:
        assert quiet


async def test_readers_see_what_was_committed(model: Model) -> None:
    await model.run(lambda: model.items.intern(["a", "b"]))
    assert len(model.view) == 0
    model.note_commit(0, 2)
    await until(lambda: len(model.view) == 2, "readers see both items")
    assert model.view.ids == ["a", "b"]


async def test_a_tainted_table_is_shown_to_nobody_and_goes_back_to_the_snapshot(
    model: Model, store: ProfileStore
) -> None:
    claim = (await store.acquire(0, b"o" * 16)).claim
    await model.run(lambda: model.items.intern(["kept"]))
    model.note_commit(0, 5)
    snapshot = await model.run(model.items.snapshot)
    await store.write_item_snapshot(claim, snapshot.header, snapshot.chunks, {0: 5})
    await model.run(lambda: model.items.intern(["refused"]))
    model.tainted = True
    model.note_commit(1, 9)
    async with model.stillness.still(60):  # the publisher has had its turn
        pass
    await asyncio.sleep(0.05)
    assert "refused" not in model.view.ids
    await model.take_back(lambda: {0: 7})
    assert not model.tainted
    assert model.items.ids == model.view.ids == ["kept"]
    lost = model._metrics.registry.get_sample_value("foldstream_model_events_lost_total")
    assert lost == 2  # partition 0 goes on at 7, the snapshot has learned up to 5
    assert model.learned_to == {0: 7}


async def test_a_table_that_is_not_tainted_is_not_taken_back(model: Model) -> None:
    await model.run(lambda: model.items.intern(["a"]))

    def nobody() -> dict[int, int]:
        raise AssertionError("not asked")

    await model.take_back(nobody)
    assert model.items.ids == ["a"]


async def test_lost_and_repeated_learning_is_counted(model: Model) -> None:
    model.learned_to = {0: 10, 1: 10}
    model.reconcile(0, 14)
    model.reconcile(1, 7)
    registry = model._metrics.registry
    assert registry.get_sample_value("foldstream_model_events_lost_total") == 4
    assert registry.get_sample_value("foldstream_model_events_relearned_total") == 3


async def test_a_jobs_error_reaches_its_caller_and_the_thread_goes_on(model: Model) -> None:
    with pytest.raises(ZeroDivisionError):
        await model.run(lambda: 1 // 0)
    assert await model.run(lambda: 1) == 1


async def test_a_commit_that_waits_for_its_store_makes_nobody_else_wait() -> None:
    stillness = Stillness()
    async with stillness.folding():
        looking = asyncio.create_task(look(stillness))
        await asyncio.sleep(0)
        stillness.note_away(3)
        assert await asyncio.wait_for(looking, 5) is False  # long before its own 60 seconds
        async with stillness.folding():  # and nobody is held back
            pass
        stillness.away.discard(3)
    assert await look(stillness)


async def look(stillness: Stillness) -> bool:
    async with stillness.still(60.0) as quiet:
        return quiet
