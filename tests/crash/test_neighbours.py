"""Store and broker away or set back under load; a partition taken mid-batch."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agents.http.health import Neighbours, readiness
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store import ProfileStore
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.embedded.kafka import KafkaServer
from streams.embedded.store import StoreServer
from streams.events import Event
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    announced,
    positions_of,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
)

N_EVENTS = 12_000
N_UNDER_LOAD = 30_000
"""Where workers join and leave meanwhile: they have to last through it."""


@pytest.fixture
def store_server(tmp_path: Path) -> Iterator[StoreServer]:
    """A store of this test's own, which keeps its data over a restart."""
    server = StoreServer(tmp_path / "store", ephemeral=False)
    server.start()
    yield server
    server.stop()


def causes(running: InProcess) -> list[str]:
    """Why the worker is not ready."""
    return [str(cause) for cause in readiness(running.worker, Neighbours())]


async def reached(
    settings: Settings, store: ProfileStore, share: float, of: int = N_EVENTS
) -> None:
    """Wait until a share of the events was folded."""

    async def there() -> bool:
        return sum(await positions_of(store, settings.partitions)) >= share * of

    await until(there, f"{share:.0%} of the events are folded")


@asynccontextmanager
async def load(settings: Settings, events: list[Event]) -> AsyncIterator[None]:
    """Events that keep coming while something else happens; all are sent at the end."""

    # One producer for all: it waits for a broker that is away, but would not start without one.
    producer = BulkProducer(settings.kafka, "load")
    await producer.start()
    topic = settings.topics().events.name

    async def send() -> None:
        for number, event in enumerate(events):
            await producer.put(topic, event.user_id.encode(), encode(event))
            if number % 500 == 0:
                await producer.flush()
        await producer.flush()

    task = asyncio.create_task(send())
    try:
        yield
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await producer.stop()


async def agrees(settings: Settings, n_events: int) -> None:
    """The facts are those of an undisturbed fold, and nobody was left unannounced."""
    state = await state_of(settings)
    assert state.n_events == n_events
    check = await rebuilt(settings)
    assert check.agrees
    assert check.digest_rebuilt == state.digest
    told = await announced(settings)
    assert {user: max(offsets) for user, offsets in told.items()} == state.last_offset


async def all_folded_by_a_successor(settings: Settings) -> None:
    """What was sent after the first worker had gone."""
    async with InProcess(settings) as running:
        await all_folded(settings)
        assert not running.crashed


async def test_a_store_that_went_back_is_folded_forward_again(
    kafka: str, topics: TopicSet, generation: str, tmp_path: Path, store_server: StoreServer
) -> None:
    settings = settings_of(
        kafka,
        store_server.url,
        topics,
        generation,
        tmp_path,
        max_batch_events=100,
        item_snapshot_interval_s=0.5,
    )
    events = stream_of(3 * 4_000, seed=2)
    aof, kept = store_server.folder / "appendonlydir", tmp_path / "kept"
    async with InProcess(settings) as running:
        await put_events(settings, events[:4_000])
        await all_folded(settings)
        async with store_of(settings) as store:
            before = await positions_of(store, settings.partitions)
            shutil.copytree(aof, kept)
            await put_events(settings, events[4_000:8_000])
            await all_folded(settings)
            await asyncio.to_thread(store_server.process.kill)
            shutil.rmtree(aof)
            kept.rename(aof)
            await asyncio.to_thread(store_server.start)
            assert await positions_of(store, settings.partitions) == before
        await put_events(settings, events[8_000:])
        await all_folded(settings)
        assert not running.crashed
        assert running.metric("foldstream_store_rewinds_total") > 0
    await agrees(settings, len(events))


async def test_a_worker_without_its_store_stops_in_order_and_loses_nothing(
    kafka: str, topics: TopicSet, generation: str, tmp_path: Path, store_server: StoreServer
) -> None:
    settings = settings_of(
        kafka,
        store_server.url,
        topics,
        generation,
        tmp_path,
        max_batch_events=100,
        store_timeout_s=0.5,
    )
    events = stream_of(N_EVENTS, seed=3)
    await put_events(settings, events[:8_000])
    async with store_of(settings) as store:
        async with InProcess(settings) as running:
            await reached(settings, store, 0.1)
            store_server.process.pause()
            await put_events(settings, events[8_000:])
            await until(lambda: any("store" in cause for cause in causes(running)), "not ready")
            await asyncio.wait_for(running.stop(), 30)
        store_server.process.resume()
    await all_folded_by_a_successor(settings)
    await agrees(settings, N_EVENTS)


async def test_partitions_revoked_while_the_store_is_away_are_not_folded_twice(
    kafka: str, topics: TopicSet, generation: str, tmp_path: Path, store_server: StoreServer
) -> None:
    """A batch given up in a rebalance was folded in memory: that memory may not be used again."""
    settings = settings_of(
        kafka,
        store_server.url,
        topics,
        generation,
        tmp_path,
        max_batch_events=100,
        store_timeout_s=0.5,
    )
    events = stream_of(N_EVENTS, seed=4)
    async with InProcess(settings) as running:
        updater = running.worker.updater
        assert updater is not None
        await until(lambda: not causes(running), "ready")
        await put_events(settings, events[:4_000])
        await all_folded(settings)  # from here on every user is in memory
        for turn in (1, 2):
            if turn == 1:  # surely not applied
                await asyncio.to_thread(store_server.process.kill)
            else:  # applied, for all we know, once it goes on
                store_server.process.pause()
            await put_events(settings, events[turn * 4_000 : (turn + 1) * 4_000])
            await until(
                lambda: any(fold.state == "waiting for store" for fold in updater.folds.values()),
                "a batch waits for the store",
            )
            n_rebalances = updater.consumer.n_rebalances
            updater.consumer._consumer._coordinator.request_rejoin()
            await until(
                lambda n=n_rebalances: updater.consumer.n_rebalances > n,  # type: ignore[misc]
                "revoked and given back",
            )
            if turn == 1:
                await asyncio.to_thread(store_server.start)
            else:
                store_server.process.resume()
            await until(lambda: not causes(running), "ready again")
        await all_folded(settings)
        assert not running.crashed
    await agrees(settings, N_EVENTS)


async def test_a_second_worker_takes_half_mid_batch_and_gives_it_back(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=50)
    other = settings.model_copy(update={"worker_id": "w1"})

    def shares(*workers: InProcess) -> list[int]:
        return [len(worker.worker.updater.folds) for worker in workers if worker.worker.updater]

    async with (
        store_of(settings) as store,
        InProcess(settings) as first,
        load(settings, stream_of(N_UNDER_LOAD, seed=5)),
    ):
        await reached(settings, store, 0.1, of=N_UNDER_LOAD)
        for share in (0.3, 0.6):
            async with InProcess(other) as second:
                await until(lambda: shares(first, second) == [2, 2], "each has two")
                await reached(settings, store, share, of=N_UNDER_LOAD)
                assert not second.crashed
            await until(lambda: shares(first) == [4], "all are back")
        await all_folded(settings)
        assert not first.crashed
    await all_folded_by_a_successor(settings)
    await agrees(settings, N_UNDER_LOAD)


async def test_a_worker_without_its_broker_stops_in_order(
    redis_url: str,
    generation: str,
    tmp_path: Path,
    broker: KafkaServer,
    broker_topics: TopicSet,
) -> None:
    settings = settings_of(
        broker.bootstrap, redis_url, broker_topics, generation, tmp_path, max_batch_events=100
    )
    await put_events(settings, stream_of(N_EVENTS, seed=7))
    async with InProcess(settings) as running, store_of(settings) as store:
        await reached(settings, store, 0.1)
        await asyncio.to_thread(broker.process.kill)
        await asyncio.wait_for(running.stop(), 60)
    await asyncio.to_thread(broker.start)
    await all_folded_by_a_successor(settings)
    await agrees(settings, N_EVENTS)
