"""Every checkpoint that was ever written is found in the store's own file, and so is a refusal of
the store in its own count."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_asyncio
import redis.asyncio as redis

from agents.chaos.append_log import written_in
from agents.chaos.bed import Bed, ServerHandle
from agents.chaos.scenario import Report
from agents.chaos.scenarios.store import check_named, n_refusals
from agents.chaos.verifier import verify
from agents.chaos.watcher import Fall, Watcher
from agents.chaos.worker_process import WorkerProcess
from agents.store_access import store_of
from profiles.store import CommitBatch, LogPosition, ProfileStore, StoreConfig
from streams.embedded.store import StoreServer
from streams.topics import TopicSet

HERE = LogPosition("c", "t", 2)


@dataclass
class Kept:
    """A store that keeps its data, and a hand in it."""

    server: StoreServer
    store: ProfileStore
    hand: Any

    @property
    def handle(self) -> ServerHandle[StoreServer]:
        """As faults have it."""
        return ServerHandle("store", self.server)


@pytest_asyncio.fixture
async def kept(tmp_path: Path) -> AsyncIterator[Kept]:
    server = StoreServer(tmp_path / "store", ephemeral=False)
    server.start()
    hand = redis.Redis.from_url(server.url)
    try:
        async with ProfileStore(StoreConfig(server.url, "g", 2)) as store:
            yield Kept(server, store, hand)
    finally:
        await hand.aclose()
        server.stop()


async def test_a_fall_that_is_made_good_at_once_is_still_found(kept: Kept) -> None:
    keys = kept.store.keys
    for partition in (0, 1):
        acquired = await kept.store.acquire(partition, b"o" * 16, HERE)
        for start in range(3):
            batch = CommitBatch(start, start + 1, [("u", b"r")], [], [], 5, HERE)
            await kept.store.commit(acquired.claim, batch)
    found = written_in([kept.server.folder], keys)
    assert (found.n, found.last, found.falls) == (6, {0: 3, 1: 3}, [])
    await kept.hand.hset(keys.checkpoint[1], "next_offset", 1)
    await kept.hand.hset(keys.checkpoint[1], "next_offset", 3)
    found = written_in([kept.server.folder], keys)
    assert found.falls == [Fall(1, 0.0, 3, 1)]
    assert found.last == {0: 3, 1: 3}


async def test_the_verifier_tells_a_fall_that_no_look_at_the_store_saw(
    kept: Kept, kafka: str, topics: TopicSet, tmp_path: Path
) -> None:
    report = Report()
    bed = Bed(
        folder=tmp_path,
        kafka=kafka,
        redis=kept.server.url,
        partitions=topics.partitions,
        broker=cast("Any", None),  # everybody's, and no fault strikes it
        store=kept.handle,
        nodes=[kept.handle],
        overrides={"topic_prefix": topics.prefix},
        versions={},
    )
    async with Watcher(bed, interval_s=3_600.0, keeps_log=True) as watcher:
        async with store_of(bed.settings()) as store:
            acquired = await store.acquire(0, b"o" * 16, HERE)
            for start in range(3):
                batch = CommitBatch(start, start + 1, [], [], [], 5, HERE)
                await store.commit(acquired.claim, batch)
            key = store.keys.checkpoint[0]
        assert (await kept.hand.config_get("auto-aof-rewrite-percentage")).popitem()[1] == "0"
        await kept.hand.hset(key, "next_offset", 1)
        await kept.hand.hset(key, "next_offset", 3)
        await verify(bed, report, watcher, wait=False)
    assert not watcher.falls
    assert report.figures["checkpoints in the append-only file"].value == 5
    assert any("partition 0 from 3 to 1" in failure for failure in report.failures)


@dataclass
class Silent:
    """A worker that answers as told, whatever its store says."""

    answers: tuple[int, dict[str, Any]] = (200, {"causes": []})
    n_asked: int = field(default=0)

    async def readyz(self) -> tuple[int, dict[str, Any]]:
        self.n_asked += 1
        return self.answers


@pytest.mark.parametrize(
    ("answers", "good"),
    [
        ((200, {"causes": []}), False),
        ((0, {}), False),
        ((503, {"causes": [{"part": "broker", "cause": "away"}]}), False),
        ((503, {"causes": [{"part": "store", "cause": "used memory > 'maxmemory'"}]}), True),
    ],
)
async def test_a_worker_that_does_not_name_a_full_store_fails(
    kept: Kept, answers: tuple[int, dict[str, Any]], good: bool
) -> None:
    """The clock starts by the store's own count, which a silent worker can't hold up."""
    before = await n_refusals(kept.handle)
    await kept.hand.config_set("maxmemory", 1)
    with pytest.raises(redis.ResponseError, match="maxmemory"):
        await kept.hand.set("x", "y")
    assert await n_refusals(kept.handle) == before + 1
    report = Report()
    worker = cast("WorkerProcess", Silent(answers))
    await check_named(kept.handle, report, worker, before, ["maxmemory"], within_s=0.3)
    assert bool(report.failures) is not good


@pytest.mark.parametrize(
    ("answers", "named"),
    [
        ((0, {}), False),
        ((503, {}), False),
        ((200, {"causes": [{"part": "broker", "cause": "slow"}]}), False),
        ((503, {"causes": [{"part": "store", "cause": "away"}]}), False),
        ((503, {"causes": [{"part": "broker", "cause": "away"}]}), True),
    ],
)
async def test_only_an_answer_that_names_it_is_a_sign_that_the_broker_is_missed(
    answers: tuple[int, dict[str, Any]], named: bool
) -> None:
    """A worker that hangs answers nothing, and has noticed nothing."""
    worker = cast("WorkerProcess", Silent(answers))
    assert (await WorkerProcess.names(worker, "broker", 0.3) is not None) is named
