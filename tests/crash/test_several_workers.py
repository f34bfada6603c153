"""Several fold workers on one shop: what one learns all know; none of it is lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from agents.settings import Settings
from agents.store_access import store_of
from profiles.items import ItemTable, ItemView
from streams.events import Event
from streams.item_deltas import ItemDeltas, decode_deltas
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    WorkerProcess,
    all_folded,
    click,
    messages_of,
    positions_of,
    put_events,
    settings_of,
    stream_of,
    until,
    user_on,
)

LOST, RELEARNED = "foldstream_model_events_lost_total", "foldstream_model_events_relearned_total"


def second(settings: Settings, **changes: object) -> Settings:
    """Settings of another worker beside the first."""
    return settings.model_copy(update={"worker_id": "w1"} | changes)


def table_of(running: InProcess) -> ItemTable:
    """The worker's item table."""
    assert running.worker.model is not None
    return running.worker.model.items


def positives(running: InProcess) -> dict[str, int]:
    """Item -> positives learned, as this worker's table has it."""
    table = table_of(running)
    counts = table.columns.n_positive[: len(table)].tolist()
    return dict(zip(table.ids, counts, strict=True))


def vectors(running: InProcess) -> np.ndarray:
    """float32 (I, K), items in the order of their ids."""
    table = table_of(running)
    order = np.argsort(np.array(table.ids))
    return table.columns.vectors[: len(table)][order]


async def share(*workers: InProcess) -> None:
    """Wait until each has partitions and all know of each other."""

    def both() -> bool:
        return all(
            w.worker.updater is not None
            and w.worker.updater.folds
            and w.worker.exchange is not None
            and w.worker.exchange.n_listeners >= len(workers) - 1
            for w in workers
        )

    await until(both, "each worker has partitions and hears the others")


async def settled(*workers: InProcess) -> None:
    """Wait until nothing is pending anywhere and all tables hold the same positives."""

    def same() -> bool:
        sharing = [table_of(w).sharing for w in workers]
        if any(s is None or s.n_pending for s in sharing):
            return False
        first = positives(workers[0])
        return all(positives(w) == first for w in workers)

    await until(same, "all that was learned is everywhere", within_s=30)


def n_learned(*workers: InProcess) -> float:
    """Events that moved vectors, of all."""
    return sum(w.metric("foldstream_model_events_learned_total") for w in workers)


@pytest.mark.timeout(180)
async def test_two_workers_learn_one_shop(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    async with InProcess(settings) as one, InProcess(second(settings)) as two:
        await share(one, two)
        await put_events(settings, stream_of(3_000, seed=1))
        await all_folded(settings)
        await settled(one, two)
        assert sum(positives(one).values()) == n_learned(one, two) > 1_000
        assert n_learned(one) > 100
        assert n_learned(two) > 100
        # float16 differences: each is off by at most 2^-11 of the last thing sent.
        np.testing.assert_allclose(vectors(one), vectors(two), atol=2e-3)
        sums = [
            {i: float(t.columns.sums[t.row(i)]) for i in t.ids}
            for t in (table_of(one), table_of(two))
        ]
        assert sums[0] == pytest.approx(sums[1], rel=1e-3)
        assert not one.crashed
        assert not two.crashed
        for worker in (one, two):
            assert worker.metric(LOST) == worker.metric(RELEARNED) == 0


@pytest.mark.timeout(180)
async def test_partition_0_changes_hands_and_no_learning_is_lost(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(
        kafka, redis_url, topics, generation, tmp_path, item_snapshot_interval_s=3_600
    )
    one = InProcess(settings)
    await one.start()
    await put_events(settings, stream_of(1_000, seed=1))
    await all_folded(settings)
    # The second one comes while the first has learned and saved nothing.
    async with InProcess(second(settings)) as two:
        await share(one, two)
        await put_events(settings, stream_of(1_000, seed=2))
        await all_folded(settings)
        await one.stop()
        await put_events(settings, stream_of(1_000, seed=3))
        await all_folded(settings)
        assert two.worker.updater is not None
        assert 0 in two.worker.updater.folds
        assert sum(positives(two).values()) == n_learned(one, two)
        for worker in (one, two):
            assert worker.metric(LOST) == worker.metric(RELEARNED) == 0
    async with InProcess(settings) as again:  # from the last snapshot
        await put_events(settings, stream_of(100, seed=4))
        await all_folded(settings)
        assert sum(positives(again).values()) == n_learned(one, two, again)
        assert again.metric(LOST) == again.metric(RELEARNED) == 0


@pytest.mark.timeout(180)
async def test_what_a_crash_takes_with_it_is_counted_and_little(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=20)
    async with InProcess(settings) as one:
        two = InProcess(second(settings))
        await two.start()
        await share(one, two)
        events = stream_of(12_000, seed=1)
        putting = asyncio.create_task(put_events(settings, events))
        await until(lambda: n_learned(two) > 500, "the second has learned")
        learned_before = n_learned(two)
        await two.abandon()
        await putting
        await all_folded(settings)
        lost = one.metric(LOST)
        missing = n_learned(one, two) - sum(positives(one).values())
        assert 0 <= missing <= lost
        assert n_learned(two) >= learned_before
        assert one.metric(RELEARNED) == 0


def n_to_learn(events: Iterable[Event]) -> int:
    """Events that move vectors: of an item that is not the one the user was at."""
    at: dict[str, str] = {}
    n = 0
    for event in events:
        item_id = getattr(event, "item_id", None)
        if item_id is not None:
            n += at.get(event.user_id) != item_id
            at[event.user_id] = item_id
    return n


@pytest.mark.timeout(300)
async def test_a_process_killed_at_any_moment_takes_little_with_it(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path, max_batch_events=20)
    interval_s = settings.item_snapshot_interval_s
    events = stream_of(20_000, seed=1)
    async with (
        InProcess(settings) as one,
        WorkerProcess(second(settings)) as two,
        store_of(settings) as store,
    ):
        await two.ready()
        await share(one)
        assert one.worker.exchange is not None
        await until(lambda: one.worker.exchange.n_listeners == 1, "they hear each other")
        assert one.worker.updater is not None
        theirs = set(range(settings.partitions)) - set(one.worker.updater.folds)
        assert theirs
        putting = asyncio.create_task(put_events(settings, events))
        seen: list[tuple[float, int]] = []  # when, and how far the other process was

        async def far() -> bool:
            positions = await positions_of(store, settings.partitions)
            seen.append((time.monotonic(), sum(positions[p] for p in theirs)))
            return seen[-1][1] > 3_000

        await until(far, "the other process has folded")
        await two.kill()
        await far()
        killed_at, folded = seen[-1]
        await putting
        await all_folded(settings)
        before = [n for at, n in seen if at < killed_at - interval_s]
        lost = one.metric(LOST)
        assert lost <= folded - (before[-1] if before else 0)
        assert 0 <= n_to_learn(events) - sum(positives(one).values()) <= lost
        assert one.metric(RELEARNED) == 0


@pytest.mark.timeout(180)
async def test_a_process_that_only_scores_sees_a_new_item_within_two_seconds(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(
        kafka, redis_url, topics, generation, tmp_path, item_snapshot_interval_s=3_600
    )
    async with InProcess(settings) as folds:
        await put_events(settings, stream_of(200, seed=1))
        await all_folded(settings)
        async with InProcess(second(settings, agents=("scorer",))) as scores:
            view = scores.worker.view
            assert view is not None
            # The writer heard of a listener, and gave it something to begin with.
            await until(lambda: len(view) == len(table_of(folds)), "the reader has the table")
            clicked = time.monotonic()
            await put_events(settings, [click("u1", "never seen before")])
            await until(lambda: view.row("never seen before") is not None, "it is there", 10)
            took_s = time.monotonic() - clicked
            await until(
                lambda: positives_in(view.n_positive, view.row("never seen before")) == 1, ""
            )
            assert took_s < 2.0, f"{took_s:.2f} s"
            for user in ("u2", "u3"):
                await put_events(settings, [click(user, "a"), click(user, "b")])
            await until(lambda: came_after(view, "a").get("b") == 2, "lists follow, too", 10)
            theirs = table_of(folds).blend.theta
            await until(lambda: np.array_equal(view.model.blend.theta, theirs), "and weights", 10)
            assert not scores.crashed
            assert scores.worker.model is None


def came_after(view: ItemView, item_id: str) -> dict[str, float]:
    """What users had after an item, and how often, as a reader has it."""
    row, lists = view.row(item_id), view.model.lists
    if row is None:
        return {}
    places = range(lists.n[row])
    return {view.ids[lists.rows[row, p]]: float(lists.forward[row, p]) for p in places}


def positives_in(counts: np.ndarray, row: int | None) -> int:
    """Positives of a row that may not be there."""
    return 0 if row is None else int(counts[row])


@pytest.mark.timeout(180)
async def test_one_worker_alone_sends_nothing(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    async with InProcess(settings) as alone:
        await put_events(settings, stream_of(2_000, seed=1))
        await all_folded(settings)
        await until(lambda: table_of(alone).sharing is None, "it keeps no account either")
    assert [m for m in await deltas_of(settings) if m.seq] == []


async def deltas_of(settings: Settings) -> list[ItemDeltas]:
    """Every message on `item-deltas`."""
    found = await messages_of(settings, settings.topics().item_deltas.name)
    return [decode_deltas(record.value) for record in found]


@pytest.mark.timeout(180)
async def test_a_refused_batch_never_leaves_the_worker(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    async with InProcess(settings) as one, InProcess(second(settings)) as two:
        await share(one, two)
        updater = one.worker.updater
        assert updater is not None
        partition = min(updater.folds)
        # Somebody else acquires the partition behind the worker's back: its commit is refused.
        async with store_of(settings) as store:
            await store.acquire(partition, b"somebody else's.")
        user = user_on(partition, settings.partitions)
        await put_events(settings, [click(user, "refused once"), click(user, "known to all")])
        await all_folded(settings)
        await settled(one, two)
        assert one.metric("foldstream_commits_fenced_total") == 1
        assert positives(two)["refused once"] == 1
        assert positives(two) == positives(one)
        np.testing.assert_allclose(vectors(one), vectors(two), atol=2e-3)
