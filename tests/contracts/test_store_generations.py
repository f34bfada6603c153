"""The registry of generations and workers: who is live changes in one step, or not at all."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from profiles.errors import StoreMismatch
from profiles.store import MetaInfo, ProfileStore, StoreConfig
from profiles.store_generations import Generation, WorkerSign


def described(name: str, **changes: object) -> Generation:
    """A generation's description."""
    values: dict[str, object] = {
        "name": name,
        "state": "ready",
        "record_format": 1,
        "fingerprint": "f",
        "settings": {"history": 10},
        "created_ms": 1,
    }
    return Generation(**(values | changes))  # type: ignore[arg-type]


@pytest.fixture
def meta(generation: str) -> MetaInfo:
    return MetaInfo("g1", generation, 6, 1)


@pytest.fixture
def config(url: str, generation: str) -> StoreConfig:
    return StoreConfig(url, "g1", 6, prefix=generation)


async def test_meta_is_made_once_and_then_checked(config, generation, meta):
    async with ProfileStore(config) as store:
        assert await store.read_meta() is None
        await store.registry.begin(meta, described("g1"))
        again = await store.registry.begin(replace(meta, record_format=2), described("g1"))
        assert again.meta == meta == await store.read_meta()
        assert again.live == described("g1")
        with pytest.raises(
            StoreMismatch, match=rf"{generation}:meta: n_partitions is 6 in the store, 8 in this"
        ):
            await store.registry.begin(replace(meta, n_partitions=8), described("g1"))
        with pytest.raises(StoreMismatch, match="promote another first"):
            await store.drop_generation("g1")


async def test_one_promotion_changes_generation_and_format_together(config, meta):
    async with ProfileStore(config) as store:
        await store.registry.begin(meta, described("g1"))
        with pytest.raises(StoreMismatch, match="no generation 'g2'"):
            await store.registry.promote("g2")
        await store.registry.describe(described("g2", state="building", record_format=2))
        with pytest.raises(StoreMismatch, match="'g2' is building"):
            await store.registry.promote("g2")
        await store.registry.describe(described("g2", record_format=2))
        standing = await store.registry.promote("g2")
        assert standing.meta == replace(meta, generation="g2", record_format=2)
        assert (await store.registry.promote("g1")).meta == meta  # the way back
        raised = await store.registry.set_format(2)
        assert raised.meta == replace(meta, record_format=2)
        assert raised.live == described("g1", record_format=2)


async def test_what_is_being_dropped_can_neither_be_promoted_nor_built_on(config, meta):
    async with ProfileStore(config) as store:
        await store.registry.begin(meta, described("g1"))
        await store.registry.describe(described("g2"))
        await store.registry.start_drop("g2")
        with pytest.raises(StoreMismatch, match="dropping"):
            await store.registry.promote("g2")
        with pytest.raises(StoreMismatch, match="being dropped"):
            await store.registry.describe(described("g2"))
        await store.drop_generation("g2")
        assert (await store.registry.read()).generations.keys() == {"g1"}


async def test_promotions_at_once_leave_one_live(config, meta):
    async with ProfileStore(config) as store, ProfileStore(config) as other:
        await store.registry.begin(meta, described("g1"))
        for name in ("g2", "g3"):
            await store.registry.describe(described(name))
        await asyncio.gather(store.registry.promote("g2"), other.registry.promote("g3"))
        standing = await store.registry.read()
        assert standing.meta is not None
        assert standing.meta.generation in ("g2", "g3")
        assert standing.generations.keys() == {"g1", "g2", "g3"}


async def test_workers_are_known_by_their_signs_of_life(config):
    def sign(name: str) -> WorkerSign:
        return WorkerSign(
            name=name,
            version="1",
            reads_to=1,
            writes=1,
            generation="g1",
            agents=["updater"],
            pid=1,
            host="h",
            started_ms=0,
        )

    async with ProfileStore(config) as store:
        assert await store.registry.workers() == []
        await store.registry.sign(sign("w1"))
        await store.registry.sign(sign("w0"))
        found = await store.registry.workers()
        assert [worker.name for worker in found] == ["w0", "w1"]
        assert all(worker.beat_ms > 1_700_000_000_000 for worker in found)
        await store.registry.sign_off("w1")
        assert [worker.name for worker in await store.registry.workers()] == ["w0"]


async def test_an_accepted_gap_is_in_the_checkpoint(url, connect, owner, batch):
    store = await connect(url)
    claim = (await store.acquire(2, owner())).claim
    await store.commit(claim, replace(batch(0, 10), gaps=[(0, 10)]))
    await store.commit(claim, batch(10, 15))  # later commits leave it
    checkpoint = await store.read_checkpoint(2)
    assert checkpoint is not None
    assert (checkpoint.next_offset, checkpoint.gaps) == (15, ((0, 10),))
    await store.step_back(claim, 12, [(0, 10), (12, 15)])
    checkpoint = await store.read_checkpoint(2)
    assert checkpoint is not None
    assert (checkpoint.next_offset, checkpoint.gaps) == (12, ((0, 10), (12, 15)))
    assert checkpoint.log is not None
    assert checkpoint.log.last_offset is None
    await store.commit(claim, batch(12, 20))  # the same claim goes on


async def test_a_drop_keeps_to_its_pace(config, owner, batch):
    async with ProfileStore(config) as store:
        claim = (await store.acquire(0, owner())).claim
        await store.commit(
            claim, replace(batch(0, 5), records=[(f"u{n}", b"r") for n in range(400)])
        )
        told: list[int] = []
        began = asyncio.get_running_loop().time()
        assert await store.drop_generation("g1", 1_000, told.append) == 403
        assert asyncio.get_running_loop().time() - began > 0.35
        assert told[-1] == 403
