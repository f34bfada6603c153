"""Waiting for several workers ends with an error that the command line names, never for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.bench.figures import BenchFailed
from agents.chaos.worker_process import WorkerProcess
from agents.evaluate.several import watched
from agents.evaluate.through_kafka import setting_of
from agents.settings import Settings, load_settings
from profiles.interactions import FIRST_OWN_CODE, Kind, Kinds


def settings_in(folder: Path) -> Settings:
    return load_settings({"data_dir": folder, "worker_id": "w0"}, environment={}).settings


async def test_a_worker_that_ends_is_named(tmp_path: Path) -> None:
    command = ("-c", "raise SystemExit('no memory')")
    async with WorkerProcess(settings_in(tmp_path), command=command) as worker:
        await worker.ended(30.0)
        with pytest.raises(BenchFailed, match=r"(?s)worker w0 ended after 3 events.*no memory"):
            await watched([worker], lambda: 3, 5, lambda done: None)


async def test_workers_that_stand_still_are_given_up(tmp_path: Path) -> None:
    command = ("-c", "import time; time.sleep(600)")
    async with WorkerProcess(settings_in(tmp_path), command=command) as worker:
        with pytest.raises(BenchFailed, match="stand at 3 of 5 events"):
            await watched([worker], lambda: 3, 5, lambda done: None, stall_s=0.0)


async def test_progress_is_told_and_ends_the_wait(tmp_path: Path) -> None:
    counts, told = iter([0, 2, 2, 6]), list[int]()
    command = ("-c", "import time; time.sleep(600)")
    async with WorkerProcess(settings_in(tmp_path), command=command) as worker:
        await watched([worker], lambda: next(counts), 5, told.append)
    assert told == [0, 2, 5]


def test_own_kinds_become_the_setting_that_makes_them(tmp_path: Path) -> None:
    own = [
        Kind("share", FIRST_OWN_CODE + 1, weight=0.25),
        Kind("favourite", FIRST_OWN_CODE, weight=0.5, positive=False),
    ]
    values = {"kinds": setting_of(Kinds(own))}
    made = load_settings(values, environment={}).settings.kinds_table()
    assert made.by_name == Kinds(own).by_name
