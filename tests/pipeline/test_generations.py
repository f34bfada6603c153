"""A new generation is folded beside the live one, promoted under running workers, and dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.errors import UsageError
from agents.promotion import drop, list_generations, promote
from agents.rebuild_into import IntoReport, RebuildInto
from agents.settings import Settings
from agents.store_access import store_of
from streams.topics import TopicSet
from tests.builders import (
    WorkerProcess,
    all_folded,
    positions_of,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
    until,
)


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(kafka, redis_url, topics, generation, tmp_path)


async def fold_into(settings: Settings, name: str, **changes: object) -> IntoReport:
    """`rebuild --into`, with settings that differ."""
    wishes = Settings.model_validate({**settings.model_dump(exclude_unset=True), **changes})
    return await RebuildInto(wishes, name, lambda done, total, rate: None).run()


def within(settings: Settings, name: str, **shape: object) -> Settings:
    """Settings to read a generation with."""
    return Settings.model_validate(
        {**settings.model_dump(exclude_unset=True), **shape, "generation": name}
    )


@pytest.mark.timeout(400)  # a worker starts three times, some 10 s each on a busy machine
async def test_a_promotion_takes_running_workers_along_and_back(settings: Settings) -> None:
    second = within(settings, "second", history=5, n_factors=16)
    await put_events(settings, stream_of(3_000, seed=1))
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await all_folded(settings)
        pid = worker.process.pid
        report = await fold_into(settings, "second", history=5, n_factors=16)
        assert report.settings["history"] == 5
        assert report.settings["seen_window"] == settings.seen_window
        assert not report.promoted
        more = asyncio.create_task(put_events(settings, stream_of(2_000, seed=2)))
        followed = await promote(settings, "second")
        assert (followed.workers, followed.waiting) == (["w0"], [])
        await more
        await put_events(settings, stream_of(1_000, seed=3))  # the old one never sees them
        await all_folded(second)
        assert worker.process.alive()
        assert worker.process.pid == pid
        assert (await state_of(second)).n_events == 6_000
        assert (await rebuilt(second)).agrees

        states = {state.name: state for state in await list_generations(settings)}
        assert states["second"].live
        assert states["second"].workers == ["w0"]
        assert 1_000 <= states[settings.generation].behind <= 3_000
        with pytest.raises(UsageError, match="is live"):
            await drop(settings, "second", 100_000, lambda n: None)

        back = await promote(settings, settings.generation)  # the way back
        assert back.waiting == []
        await all_folded(settings)
        assert (await state_of(settings)).n_events == 6_000
        assert (await rebuilt(settings)).agrees
        n_removed = await drop(settings, "second", 100_000, lambda n: None)
        assert n_removed > 200
        async with store_of(second) as store:
            assert [entry async for entry in store.iter_records()] == []
    assert [state.name for state in await list_generations(settings)] == [settings.generation]


async def test_a_rebuild_that_was_killed_goes_on_where_it_was(settings: Settings) -> None:
    await put_events(settings, stream_of(2_000, seed=1))
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        await all_folded(settings)
    running = asyncio.create_task(fold_into(settings, "second", max_batch_events=50))
    second = within(settings, "second")
    async with store_of(second) as store:

        async def begun() -> bool:
            return 0 < sum(await positions_of(store, settings.partitions)) < 1_500

        await until(begun, "a part is folded")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await store.read_item_snapshot()) is not None
    states = {state.name: state for state in await list_generations(settings)}
    assert states["second"].state == "building"
    with pytest.raises(UsageError, match="rebuild --into second"):
        await promote(settings, "second")
    with pytest.raises(UsageError, match="begun with history = 10"):
        await fold_into(settings, "second", history=3)
    report = await fold_into(settings, "second")
    assert report.resumed
    assert report.n_folded < 2_000
    assert (await state_of(second)) == (await state_of(settings))
    await put_events(settings, stream_of(300, seed=2))
    await fold_into(settings, "second")
    with pytest.raises(UsageError, match="has folded 300 events that the live one"):
        await promote(settings, "second", pass_s=0.1)  # no worker has announced them
    followed = await promote(settings, "second", unannounced=True)
    assert followed.workers == []
    with pytest.raises(UsageError, match="is live already"):
        await promote(settings, "second")
