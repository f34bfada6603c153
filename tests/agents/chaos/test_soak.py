"""A soak finds what grows, however slowly, and holds nothing against what only flickers."""

from __future__ import annotations

import random
from typing import Any

from agents.chaos.scenario import Report
from agents.chaos.scenarios.soak import SAMPLE_S, Samples, _judge
from agents.scorer import PENDING_USERS


def samples(minutes: float, seed: int = 1, **grow_per_h: float) -> Samples:
    """A worker's, whose counts flicker as batches come and go. grow_per_h: what else they do."""
    draw = random.Random(seed)
    found = Samples()
    for number in range(int(minutes * 60 / SAMPLE_S)):
        at_s = number * SAMPLE_S
        found.at_s.append(at_s)
        levels: dict[str, Any] = {
            "rss": 300e6 + draw.choice((0, 0, 4e6, 30e6)),
            "fds": 60 + draw.choice((0, 0, 1, 3)),
            "tasks": 70 + draw.choice((0, 1, 5, 12)),
            "connections": 12 + draw.choice((0, 0, 1)),
            "lag": draw.randrange(500),
            "waiting": draw.randrange(300),
            "cached": 20_000,
        }
        for name, level in levels.items():
            more = grow_per_h.get(name, 0.0) * at_s / 3_600
            whole = more if name == "rss" else int(more)
            getattr(found, name).append(float(level + whole))
    return found


def failures(found: Samples) -> list[str]:
    """What the judge says, each in short."""
    report = Report()
    _judge(found, report)
    return [failure.partition(" (")[0].partition(": grown")[0] for failure in report.failures]


def test_a_worker_that_only_flickers_is_flat_whatever_the_seed() -> None:
    for seed in range(20):
        assert failures(samples(45, seed)) == []


def test_a_count_that_grows_by_three_in_the_run_is_found() -> None:
    assert failures(samples(45, fds=5)) == ["fds: flat"]
    assert failures(samples(45, connections=5)) == ["connections: flat"]
    assert failures(samples(45, tasks=5)) == ["tasks: flat"]


def test_memory_that_grows_is_found_and_its_last_half_is_shown() -> None:
    assert failures(samples(45, rss=2e6)) == ["memory grows by less than 1 MB an hour"]
    report = Report()
    _judge(samples(45, rss=2e6), report)
    assert 1.5 < float(report.figures["memory slope of the last half"].value) < 2.5


def test_a_run_that_was_no_half_load_fails() -> None:
    over = samples(45)
    over.waiting = [PENDING_USERS * 0.6] * len(over.at_s)
    (failure,) = failures(over)
    assert failure.startswith("it is a half load")


def test_a_short_run_is_asked_for_less() -> None:
    short = samples(2, fds=60)  # two in its time
    short.waiting = [PENDING_USERS * 0.6] * len(short.at_s)
    assert failures(short) == []
    assert failures(samples(2, fds=900)) == ["fds: flat"]
