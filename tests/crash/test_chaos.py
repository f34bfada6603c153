"""Small shares of the chaos scenarios of workers; `make chaos` runs them in full."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agents.chaos.catalogue import chosen
from agents.chaos.runner import run_scenario
from agents.chaos.scenario import Plan

TIMED = re.compile(r"^[^:]*\d s\b")
SHARES = {"kill": 0.02, "cancel-storm": 0.1, "nemesis": 0.2}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", SHARES)
async def test_a_small_share_of_a_scenario_passes(name: str, tmp_path: Path) -> None:
    (scenario,) = chosen([name])
    plan = Plan(seed=1, minutes=scenario.default_minutes, share=SHARES[name])
    outcome = await run_scenario(scenario, plan, tmp_path / "bed", "")
    # Times are the full runs' business: this machine may be busy with other tests.
    failures = [failure for failure in outcome.failures if not TIMED.search(failure)]
    assert not failures, outcome
