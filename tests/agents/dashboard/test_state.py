"""The snapshot that the pages show, made from a worker by hand and real metrics."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from agents.dashboard.state import HISTORY, StateTaker
from agents.metrics import Metrics


def worker_with(*, with_updater: bool = True) -> Any:
    reached = asyncio.Event()
    reached.set()
    fold = SimpleNamespace(
        state="running", next_offset=120, n_cached=3, n_events=100, n_dead_letters=2, fault=None
    )
    updater = SimpleNamespace(
        folds={0: fold},
        faults={},
        consumer=SimpleNamespace(assigned=lambda: {0, 1}),
        lag=lambda partition: 7,
    )
    return SimpleNamespace(
        settings=SimpleNamespace(generation="g1"),
        metrics=Metrics(),
        readiness=SimpleNamespace(reached=reached),
        catalogue=None,
        evaluator=None,
        view=["item"] * 9,
        updater=updater if with_updater else None,
        scorer=SimpleNamespace(n_waiting=3),
        snapshots=None,
    )


def test_a_rate_is_what_was_counted_over_the_last_seconds() -> None:
    worker = worker_with()
    taker = StateTaker(worker, "shop-0", started_s=0.0)
    taker.take(10.0)
    worker.metrics.folded.labels("click").inc(30)
    worker.metrics.folded.labels("purchase").inc(20)
    state = taker.take(10.5)
    assert state.totals.rate_per_s == 100
    assert state.totals.n_events == 50
    assert state.rates == (0.0, 100.0)
    for step in range(20):
        state = taker.take(11.0 + step / 2)
    assert state.totals.rate_per_s == 0


def test_the_first_look_knows_no_rate_and_does_not_fail() -> None:
    state = StateTaker(worker_with(), "shop-0", started_s=0.0).take(3.0)
    assert state.totals.rate_per_s == 0
    assert state.uptime_s == 3.0


def test_history_is_bounded() -> None:
    taker = StateTaker(worker_with(), "shop-0", started_s=0.0)
    for step in range(HISTORY + 50):
        state = taker.take(step / 2)
    assert len(state.rates) == len(state.freshness) == HISTORY


def test_freshness_has_a_gap_where_no_list_was_emitted() -> None:
    worker = worker_with()
    taker = StateTaker(worker, "shop-0", started_s=0.0)
    taker.take(0.0)
    worker.metrics.observe_freshness(40.0)
    worker.metrics.recommendations.labels("push").inc()
    assert taker.take(0.5).freshness == (None, 40.0)
    for step in range(10):
        state = taker.take(1.0 + step / 2)
    assert state.freshness[-1] is None


def test_partitions_that_are_being_taken_over_are_shown_too() -> None:
    state = StateTaker(worker_with(), "shop-0", started_s=0.0).take(1.0)
    assert [(one.partition, one.state, one.lag) for one in state.partitions] == [
        (0, "running", 7),
        (1, "taking over", None),
    ]
    assert state.totals.lag == 7


def test_a_stopped_partition_shows_in_its_agents_state() -> None:
    worker = worker_with()
    worker.updater.folds[0].state = "stopped"
    worker.updater.faults[0] = "too many bad messages"
    state = StateTaker(worker, "shop-0", started_s=0.0).take(1.0)
    assert state.agents[0].state == "1 stopped"
    assert state.partitions[0].fault == "too many bad messages"


def test_agents_that_do_not_run_here_are_left_out() -> None:
    state = StateTaker(worker_with(with_updater=False), "shop-0", started_s=0.0).take(1.0)
    assert [agent.name for agent in state.agents] == ["scorer"]
    assert state.partitions == ()
    assert state.totals.lag is None
