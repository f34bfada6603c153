"""A snapshot of the store, taken mid-stream, is a consistent start; another log is no log of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.backup import back_up, read_backup, restore
from agents.errors import UsageError
from agents.settings import Settings, load_settings
from streams.embedded.stack import Stack
from streams.errors import LogMismatch
from tests.builders import InProcess, all_folded, put_events, rebuilt, state_of, stream_of, until


def settings_for(stack: Stack, folder: Path) -> Settings:
    values = {
        "kafka": stack.kafka,
        "redis": stack.redis,
        "data_dir": folder,
        "partitions": 4,
        "session_timeout_ms": 6_000,
        "item_snapshot_interval_s": 1.0,
        "agents": ["updater"],
    }
    return load_settings(values, environment={}).settings


@pytest.mark.timeout(280)  # two brokers start, one of them twice
async def test_an_old_store_folds_what_followed_and_no_other_log(tmp_path: Path) -> None:
    folder, kept = tmp_path / "stack", tmp_path / "backup"
    with Stack(folder, ephemeral=False) as stack:
        settings = settings_for(stack, folder)
        async with InProcess(settings):
            await put_events(settings, stream_of(1_000, seed=1))
            await all_folded(settings)
            stream = asyncio.create_task(put_events(settings, stream_of(2_000, seed=2)))
            made = await back_up(settings, kept)  # mid-stream
            await stream
            await all_folded(settings)
        before = await state_of(settings)
        assert before.n_events == 3_000
        with pytest.raises(UsageError, match="foldstream down first"):
            restore(kept, folder)
    assert made.complete
    assert sum(made.positions.values()) >= 1_000
    with pytest.raises(UsageError, match="holds a back-up"):
        await back_up(settings, kept)

    restored, aside = restore(kept, folder)
    assert restored == made == read_backup(kept)
    assert aside is not None
    assert list(aside.iterdir())
    with Stack(folder, ephemeral=False) as stack:
        settings = settings_for(stack, folder)
        behind = await state_of(settings)
        assert 1_000 <= behind.n_events <= 3_000
        async with InProcess(settings):
            await all_folded(settings)
        assert await state_of(settings) == before
        assert (await rebuilt(settings)).agrees

    # The same store, and a broker that was made anew.
    with Stack(tmp_path / "other", ephemeral=True) as other, Stack(folder, ephemeral=False) as old:
        wiped = settings_for(old, folder).model_copy(update={"kafka": other.kafka})
        running = InProcess(wiped)
        await running.start()
        await until(lambda: running.crashed, "the worker refuses to go on")
        assert running.worker.updater is not None
        error = running.worker.updater.consumer.failed.exception()
        await running.stop()
    assert isinstance(error, LogMismatch)
    assert "were folded from cluster_id" in str(error)
    assert "rebuild --into" in str(error)


def test_a_damaged_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not a back-up"):
        restore(tmp_path, tmp_path)
