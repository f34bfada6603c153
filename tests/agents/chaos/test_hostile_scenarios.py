"""The scenarios of hostile input at a size that fits the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.chaos.catalogue import chosen
from agents.chaos.runner import run_scenario
from agents.chaos.scenario import Plan


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "share"), [("hostile", 0.005), ("flood", 0.1)])
async def test_hostile_input_is_set_aside_and_the_rest_is_folded(
    name: str, share: float, tmp_path: Path
) -> None:
    (scenario,) = chosen([name])
    outcome = await run_scenario(scenario, Plan(7, 1.0, share), tmp_path / "bed", "-")
    assert outcome.failures == []


async def test_a_scenario_of_fuzzing_finds_nothing_in_seconds(tmp_path: Path) -> None:
    (scenario,) = chosen(["fuzz"])
    outcome = await run_scenario(scenario, Plan(7, 0.05), tmp_path / "bed", "-")
    assert outcome.failures == []
    assert outcome.figures["messages"].value
