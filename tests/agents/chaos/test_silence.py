"""A standstill that nobody tells of is found; one that is told is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from agents.chaos.scenario import Report
from agents.chaos.scenarios.odd import SILENT_S, _check_silence
from agents.chaos.silence import Look, longest_silence
from agents.chaos.watcher import Step

BEGAN = 100.0


def looks(upto_s: int, told: range = range(0)) -> list[Look]:
    """One a second from the beginning; not ready at the seconds of `told`."""
    return [Look(BEGAN + second, second not in told) for second in range(upto_s)]


def failures(moves_s: list[float], said: list[Look]) -> list[str]:
    """What the check says of one partition that moved so, beside one that always moves."""
    always = [Step(BEGAN + second, second, 1) for second in range(len(said))]
    steps = [Step(BEGAN - 50, 1, 1), *(Step(BEGAN + at, 2, 1) for at in moves_s)]
    report = Report()
    watcher = cast("Any", SimpleNamespace(steps={0: always, 1: steps}))
    _check_silence(watcher, said, BEGAN, report)
    return [failure.partition(":")[0] for failure in report.failures]


STANDS = f"no partition stands still for {SILENT_S:g} s while every worker says that it is ready"


def test_a_partition_that_stands_still_beside_ready_workers_is_found() -> None:
    assert failures([1.0, 2.0, 3.0], looks(30)) == [STANDS]
    assert failures([], looks(30)) == [STANDS]
    assert failures([15.0], looks(30)) == [STANDS]


def test_a_standstill_that_readyz_tells_of_is_no_silent_one() -> None:
    assert failures([1.0, 2.0], looks(30, told=range(3, 25))) == []
    assert failures([1.0, 2.0], looks(30, told=range(20, 30))) == [STANDS]  # told too late


def test_a_partition_that_moves_is_not_silent() -> None:
    assert failures([float(second) for second in range(0, 30, 5)], looks(30)) == []


def test_workers_that_are_never_ready_prove_nothing() -> None:
    (failure,) = failures([], looks(30, told=range(30)))
    assert failure.startswith("every worker is ready at some time")


def test_two_silences_are_not_added_up() -> None:
    said = looks(30, told=range(9, 11))
    assert longest_silence([], said[:20]) == 8.0
