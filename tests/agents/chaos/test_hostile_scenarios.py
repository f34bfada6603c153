"""What the scenarios of hostile input check; shares of them: tests/crash/test_chaos.py."""

from __future__ import annotations

import random
from typing import Any, cast

import pytest

from agents.chaos.hostile import HUGE, LISTED
from agents.chaos.scenario import Plan, Report
from agents.chaos.scenarios import fuzz
from agents.chaos.scenarios.hostile import _check_kinds


def test_a_kind_that_never_came_or_was_not_refused_is_named() -> None:
    def failures(**changes: int) -> list[str]:
        report = Report()
        named = {name.replace("_", " "): n for name, n in changes.items()}
        _check_kinds(dict.fromkeys((*LISTED, HUGE), 3) | named, report)
        return report.failures

    assert failures() == []
    assert failures(cut_JSON=1, other_kinds=7) == []
    (failure,) = failures(no_key=0)
    assert failure == "of each kind of malformed message some are refused: no key"
    (failure,) = failures(that_nobody_made=1)
    assert failure.startswith("no message is refused that was not made to be")


async def test_a_scenario_of_fuzzing_finds_nothing_in_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fuzz, "EXAMPLES", 30)  # a round of each part, however slow the machine
    report = Report()
    nobody = cast("Any", None)  # it needs no server
    await fuzz._fuzz(nobody, random.Random(7), report, Plan(7, 0.05))
    assert report.failures == []
    assert report.figures["messages"].value
