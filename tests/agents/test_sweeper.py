"""The sweeper beside a worker: the store grows smaller, and what the log says stays true."""

from __future__ import annotations

import time
from pathlib import Path

from agents.app import build_app
from agents.settings import Settings
from agents.sweeper import Sweeper
from profiles.store import ProfileStore
from profiles.store_link import pack
from streams.partitioner import partition_of
from streams.topics import TopicSet
from tests.builders import (
    BASE_MS,
    InProcess,
    all_folded,
    click,
    profile_of,
    put_events,
    rebuilt,
    settings_of,
    stream_of,
    until,
)

DAY_MS = 86_400_000


def sweeper_of(running: InProcess, store: ProfileStore, ttl_ms: int, keys_per_s: int) -> Sweeper:
    updater = running.worker.updater
    assert updater is not None
    return Sweeper(
        store, updater.folds.keys, running.worker.metrics, DAY_MS, keys_per_s, ttl_ms=ttl_ms
    )


def retaining(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, folder: Path
) -> Settings:
    return settings_of(
        kafka, redis_url, topics, generation, folder, profile_retention_s=DAY_MS / 1_000
    )


async def test_a_swept_user_is_gone_comes_back_fresh_and_the_log_agrees_at_each_step(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = retaining(kafka, redis_url, topics, generation, tmp_path)
    await put_events(settings, stream_of(500, seed=1))
    later_ms = BASE_MS + 3 * DAY_MS
    # One user on each partition moves its watermark; u0 and the others are over then.
    movers = [f"m{n}" for n in range(40)]
    assert {partition_of(user, topics.partitions) for user in movers} == set(range(4))
    await put_events(settings, [click(user, "i1", later_ms) for user in movers])
    async with InProcess(settings) as running:
        await all_folded(settings)
        sweeper = sweeper_of(running, running.worker.store, ttl_ms=1, keys_per_s=1_000_000)
        n_expired = await sweeper.sweep()
        assert 150 < n_expired <= 200
        assert running.metric("foldstream_profiles_swept_total") == n_expired
        assert running.metric("foldstream_sweep_timestamp_seconds") > 0

        async def gone() -> bool:
            return await profile_of(settings, "u0") is None

        await until(gone, "the store has removed it")
        report = await rebuilt(settings)  # whose own generation still has all of them
        assert report.agrees
        assert report.n_profiles == len(movers)
        # The worker's cache still knows u0; the store doesn't know u1 either.
        back = [click("u0", "i7", later_ms + 5), click("u1", "i7", later_ms + 6)]
        await put_events(settings, back)
        await all_folded(settings)
    for user in ("u0", "u1"):
        profile = await profile_of(settings, user)
        assert profile is not None
        assert profile.n_events == 1
    assert (await rebuilt(settings)).agrees


async def test_a_worker_with_an_empty_cache_finds_a_swept_user_as_one_with_a_full_one_does(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = retaining(kafka, redis_url, topics, generation, tmp_path)
    await put_events(settings, stream_of(200, seed=2, n_users=20))
    movers = [f"m{n}" for n in range(40)]
    await put_events(settings, [click(user, "i1", BASE_MS + 3 * DAY_MS) for user in movers])
    async with InProcess(settings) as running:
        await all_folded(settings)
        await sweeper_of(running, running.worker.store, 1, 1_000_000).sweep()
    returning = [click(f"u{n}", "i3", BASE_MS + 3 * DAY_MS + n) for n in range(20)]
    await put_events(settings, returning)
    async with InProcess(settings):
        await all_folded(settings)
    assert (await rebuilt(settings)).agrees


async def test_the_pace_is_kept(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = retaining(kafka, redis_url, topics, generation, tmp_path)
    async with InProcess(settings) as running:
        store = running.worker.store
        key = f"{generation}:filler:".encode()
        command = pack("MSET", *(part for n in range(3_000) for part in (key + b"%d" % n, b"x")))
        await store._pool.ask_slot(0, [command], 1, "fill")
        began = time.monotonic()
        await sweeper_of(running, store, 1, keys_per_s=2_000).sweep()
        assert time.monotonic() - began > 1.2  # at least 3,000 keys, foreign ones too
        await store._pool.ask_slot(
            0, [pack("UNLINK", *(key + b"%d" % n for n in range(3_000)))], 1, "clean"
        )


def test_a_worker_sweeps_only_where_something_can_be_over(tmp_path: Path) -> None:
    def sweeps(**changes: float) -> bool:
        values = {"data_dir": tmp_path, "agents": ("updater",), **changes}
        return build_app(Settings(**values)).sweeper is not None  # type: ignore[arg-type]

    assert sweeps(profile_retention_s=60.0)
    assert not sweeps()
    assert not sweeps(profile_retention_s=60.0, sweep_keys_per_s=0)
