"""A new generation is folded beside the live one, promoted under running workers, and dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.app import store_of
from agents.errors import UsageError
from agents.promotion import drop, list_generations, promote
from agents.rebuild_into import IntoReport, RebuildInto
from agents.settings import Settings
from streams.topics import TopicSet
from tests.builders import (
    WorkerProcess,
    all_folded,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
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
        await all_folded(second)
        assert worker.process.alive()
        assert worker.process.pid == pid
        assert (await state_of(second)).n_events == 5_000
        assert (await rebuilt(second)).agrees

        states = {state.name: state for state in await list_generations(settings)}
        assert states["second"].live
        assert states["second"].workers == ["w0"]
        assert 0 < states[settings.generation].behind <= 2_000
        with pytest.raises(UsageError, match="is live"):
            await drop(settings, "second", 100_000, lambda n: None)

        back = await promote(settings, settings.generation)  # the way back
        assert back.waiting == []
        await all_folded(settings)
        assert (await state_of(settings)).n_events == 5_000
        assert (await rebuilt(settings)).agrees
        n_removed = await drop(settings, "second", 100_000, lambda n: None)
        assert n_removed > 200
        async with store_of(second) as store:
            assert [entry async for entry in store.iter_records()] == []
    assert [state.name for state in await list_generations(settings)] == [settings.generation]
