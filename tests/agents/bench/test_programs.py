"""Measured programs are watched, told on, and never left behind."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
import redis

from agents.bench.figures import BenchFailed
from agents.bench.programs import (
    checkpoint_count,
    drop_keys,
    file_count,
    finished,
    reference,
    running,
    watch,
    worker,
)
from agents.errors import UsageError
from profiles.store_keys import Keys
from streams.embedded.guard import process_runs, wait_gone

COUNTER = """
import os, struct, sys, time
while not os.path.exists(sys.argv[2]):  # until the first look
    time.sleep(0.01)
for n in range(1, 6):
    open(sys.argv[1], "r+b").write(struct.pack("<q", n * 100))
    time.sleep(0.05)
time.sleep(600)
"""


def test_progress_is_followed_to_the_end_and_the_program_ended(tmp_path: Path):
    progress, seen = tmp_path / "progress", []
    count, looked_at = file_count(progress), tmp_path / "looked-at"
    command = [sys.executable, "-c", COUNTER, str(progress), str(looked_at)]

    def on_progress(n: int) -> None:
        seen.append(n)
        looked_at.touch()

    with running("counter", command, tmp_path) as program:
        samples = watch(program, count, 500, on_progress, {"system": program.pid})
        assert process_runs(program.pid)
    assert samples[-1].count == 500
    assert seen[0] == 0
    assert seen == sorted(seen)
    assert "system" in samples[-1].cpu_s
    assert wait_gone(program.pid, 5.0)


def test_a_program_that_ends_too_early_is_told_with_the_end_of_its_log(tmp_path: Path):
    command = [sys.executable, "-c", "raise SystemExit('no such topic')"]
    with (
        running("early", command, tmp_path) as program,
        pytest.raises(BenchFailed, match="no such topic"),
    ):
        watch(program, lambda: 0, 10, lambda n: None)


def test_a_limit_that_fails_is_told(tmp_path: Path):
    with (
        running("limit", [sys.executable, "-c", "raise SystemExit('broken')"], tmp_path) as program,
        pytest.raises(BenchFailed, match="broken"),
    ):
        finished(program)


def test_a_file_not_yet_written_counts_as_nothing(tmp_path: Path):
    path = tmp_path / "progress"
    count = file_count(path)
    assert count() == 0
    path.write_bytes(struct.pack("<q", 7))
    assert count() == 7


def test_checkpoints_are_summed_over_the_partitions(redis_url: str, generation: str):
    keys = Keys("fs", generation, 4)
    with redis.Redis.from_url(redis_url) as store:
        count = checkpoint_count(store, "fs", generation, 4)
        assert count() == 0
        store.hset(keys.checkpoint[0], mapping={"next_offset": 5})
        store.hset(keys.checkpoint[3], mapping={"next_offset": 7})
        assert count() == 12


def test_only_keys_of_the_run_are_removed(redis_url: str, generation: str):
    with redis.Redis.from_url(redis_url) as store:
        store.mset({f"{generation}-1:u{user}": b"x" for user in range(6_000)})
        store.set(f"other-{generation}", b"x")
        drop_keys(store, f"{generation}-1")
        assert list(store.scan_iter(match=f"{generation}-1*", count=5_000)) == []
        assert store.get(f"other-{generation}") == b"x"


def test_settings_reach_a_worker_as_its_environment():
    command = worker({"n_recent_negatives": 0})
    assert command[:2] == ["env", "FOLDSTREAM_N_RECENT_NEGATIVES=0"]


def test_without_a_checkout_the_references_are_asked_for():
    with pytest.raises(UsageError, match="checkout"):
        reference("no_such_reference", {})
