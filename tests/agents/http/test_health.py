"""Alive is progress, ready is everything at work: judged on a worker made by hand."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from agents.http.health import Neighbours, liveness, readiness
from profiles.errors import StoreAway


@dataclass
class Consumer:
    """What health asks of a consumer."""

    progress_s: float = 0.1
    fetch_s: float = 0.1
    n_rebalances: int = 1
    partitions: set[int] = field(default_factory=lambda: {0, 1})

    def progress_age_s(self) -> float:
        return self.progress_s

    def fetch_age_s(self) -> float:
        return self.fetch_s

    def assigned(self) -> set[int]:
        return self.partitions


def worker_with(
    consumer: Consumer | None = None,
    *,
    started: bool = True,
    scorer_age_ms: int = 100,
    faults: dict[int, str] | None = None,
    states: dict[int, str] | None = None,
) -> Any:
    reached = asyncio.Event()
    if started:
        reached.set()
    folds = {
        p: SimpleNamespace(state=state, away_because="no memory left")
        for p, state in (states or {0: "running", 1: "running"}).items()
    }
    return SimpleNamespace(
        readiness=SimpleNamespace(reached=reached),
        updater=SimpleNamespace(
            consumer=(consumer := consumer or Consumer()),
            progress_age_s=consumer.progress_age_s,
            folds=folds,
            faults=faults or {},
        ),
        scorer=SimpleNamespace(progress_age_s=lambda: scorer_age_ms / 1_000),
    )


def causes(worker: Any, neighbours: Neighbours | None = None) -> list[str]:
    found = readiness(worker, neighbours or Neighbours())
    return [f"{cause.part}: {cause.cause}" for cause in found]


def test_a_worker_whose_loops_turn_is_alive_and_ready() -> None:
    worker = worker_with()
    assert liveness(worker, Neighbours()) == []
    assert causes(worker) == []


def test_a_fetch_loop_that_stands_still_is_not_alive() -> None:
    (cause,) = liveness(worker_with(Consumer(progress_s=31.0)), Neighbours())
    assert cause.part == "updater"
    assert "31 s" in cause.cause


def test_a_scorer_that_stands_still_is_not_alive() -> None:
    (cause,) = liveness(worker_with(scorer_age_ms=45_000), Neighbours())
    assert cause.part == "scorer"


def test_a_worker_that_is_starting_is_alive_and_not_ready() -> None:
    worker = worker_with(Consumer(progress_s=99.0), started=False)
    assert liveness(worker, Neighbours()) == []
    assert causes(worker) == ["worker: starting"]


def test_neighbours_that_are_away_make_a_worker_not_ready_and_leave_it_alive() -> None:
    worker = worker_with(Consumer(fetch_s=9.0), states={0: "waiting for store", 1: "running"})
    assert liveness(worker, Neighbours()) == []
    assert causes(worker) == [
        "store: partitions 0 wait for it: no memory left",
        "broker: no answer to a fetch for 9 s",
    ]


def test_a_stopped_partition_is_named_with_its_fault() -> None:
    assert causes(worker_with(faults={1: "too many bad messages"})) == [
        "partition 1: stopped: too many bad messages"
    ]


@pytest.mark.parametrize(
    ("consumer", "states", "cause"),
    [
        (
            Consumer(n_rebalances=0, partitions=set()),
            {},
            "updater: not yet assigned: waiting for the group",
        ),
        (Consumer(), {0: "running"}, "updater: taking over partitions 1"),
    ],
)
def test_a_worker_that_has_not_got_its_partitions_is_not_ready(
    consumer: Consumer, states: dict[int, str], cause: str
) -> None:
    worker = worker_with(consumer)
    worker.updater.folds = {p: SimpleNamespace(state=state) for p, state in states.items()}
    assert causes(worker) == [cause]


def test_a_worker_that_the_group_gave_nothing_is_ready_to_step_in() -> None:
    worker = worker_with(Consumer(partitions=set()))
    worker.updater.folds = {}
    assert causes(worker) == []


async def test_a_neighbour_that_answers_again_is_forgotten() -> None:
    neighbours = Neighbours()

    async def away() -> None:
        raise StoreAway("no answer from the store")

    async def back() -> None:
        return None

    await neighbours.look("store", away)
    assert causes(worker_with(), neighbours) == ["store: away: no answer from the store"]
    await neighbours.look("store", back)
    assert causes(worker_with(), neighbours) == []


def test_a_fetcher_that_is_stuck_while_the_broker_answers_is_not_alive() -> None:
    """aiokafka #1154: after the broker came back, nothing is fetched and nobody is told."""
    worker = worker_with(Consumer(fetch_s=100.0))
    neighbours = Neighbours(answering_since={"broker": time.monotonic() - 31})
    (cause,) = liveness(worker, neighbours)
    assert "the broker answers" in cause.cause


def test_a_fetch_that_the_broker_has_not_answered_yet_is_no_reason_to_restart() -> None:
    """It came back a moment ago; while it is away nothing is answered at all."""
    worker = worker_with(Consumer(fetch_s=100.0))
    just_back = Neighbours(answering_since={"broker": time.monotonic() - 2})
    assert liveness(worker, just_back) == []
    assert liveness(worker, Neighbours(causes={"broker": "no answer"})) == []


async def test_a_neighbour_that_answers_late_is_slow_and_not_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agents.http.health.SLOW_S", 0.01)
    neighbours = Neighbours()

    async def late() -> None:
        await asyncio.sleep(0.05)

    await neighbours.look("store", late)
    (cause,) = causes(worker_with(), neighbours)
    assert cause.startswith("store: slow: its last answer took 0.")
    assert neighbours.answering_s("store") > 0
