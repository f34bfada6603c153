"""What is told of memory: bytes a user in the store, and whether a worker stops growing."""

from __future__ import annotations

import os

import pytest

from agents.bench.figures import BenchFailed
from agents.bench.memory import Growth, MemoryPlan, after_warm_up, slope, worker_settings
from agents.bench.programs import worker
from agents.bench.record_sizes import MEAN_EVENTS, user_bytes
from agents.bench.worker_runs import resident_bytes
from agents.generations import newest_format
from agents.settings import load_settings
from agents.store_access import own_items_of
from profiles.shape import OWN_FORMAT, RECORD_VERSION, ModelShape


def test_the_store_holds_more_than_the_records_and_about_what_the_formula_says(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("agents.bench.record_sizes.N_KINDS_OF_RECORDS", 3_000)  # each user its own
    shape = ModelShape()
    found = user_bytes(3_000, RECORD_VERSION, shape, lambda step: None)
    assert f"geometric, mean {MEAN_EVENTS} events" in found
    assert found["online-retail's customers"].n_users == 4_363
    for told in found.values():
        assert told.store > told.record > 50
        # A server of so few users is a tenth off: its hash table grows in steps.
        assert told.store == pytest.approx(told.formula, rel=0.3)
    few, many = found["n or more events: 1 of n users"], found["everyone 30 events"]
    assert many.record > few.record


@pytest.mark.parametrize(
    ("record_format", "own_items", "in_force"),
    [(OWN_FORMAT - 1, 32, 0), (OWN_FORMAT, 7, 7), (RECORD_VERSION, 0, 0)],
)
def test_the_workers_write_the_records_that_were_asked_for(
    record_format: int, own_items: int, in_force: int
):
    plan = MemoryPlan(4_000, 1_000, 1_000, 1_000, 1, record_format, own_items)
    command = worker(worker_settings(plan))
    given = dict(one.split("=", 1) for one in command if one.startswith("FOLDSTREAM_"))
    settings = load_settings(environment=given).settings
    assert newest_format(settings) == record_format
    assert own_items_of(settings) == in_force


def test_the_slope_is_that_of_the_readings_after_the_warm_up():
    growth = Growth([10, 20, 30, 40], [5_000, 7_000, 7_010, 7_020], 100)
    counts, sizes = after_warm_up(growth, 20)
    assert counts == [20, 30, 40]
    assert slope(counts, sizes) == pytest.approx(1.0)


def test_too_few_readings_after_the_warm_up_are_no_slope():
    with pytest.raises(BenchFailed, match="warm-up"):
        after_warm_up(Growth([10, 20], [1, 2], 0), 20)


def test_a_process_that_runs_has_memory_and_one_that_is_gone_is_told():
    assert resident_bytes(os.getpid()) > 1_000_000
    with pytest.raises(BenchFailed, match="gone"):
        resident_bytes(2**22 + 1)
