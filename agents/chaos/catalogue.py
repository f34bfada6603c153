"""Every scenario, in the order of the table. A new one gets its import and its line here."""

from __future__ import annotations

from agents.chaos.scenario import Scenario
from agents.chaos.scenarios import (
    between_steps,
    broker,
    explode,
    fuzz,
    hostile,
    kill,
    lifecycle,
    links,
    nemesis,
    odd,
    pressure,
    rescale,
    ring,
    soak,
    store,
    zombie,
)
from agents.errors import UsageError

SCENARIOS: tuple[Scenario, ...] = (
    *kill.SCENARIOS,
    *between_steps.SCENARIOS,
    *zombie.SCENARIOS,
    *rescale.SCENARIOS,
    *odd.SCENARIOS,
    *broker.SCENARIOS,
    *store.SCENARIOS,
    *links.SCENARIOS,
    *pressure.SCENARIOS,
    *lifecycle.SCENARIOS,
    *hostile.SCENARIOS,
    *fuzz.SCENARIOS,
    *explode.SCENARIOS,
    *ring.SCENARIOS,
    *soak.SCENARIOS,
    *nemesis.SCENARIOS,
)


def chosen(names: list[str]) -> list[Scenario]:
    """The scenarios of these names, ``all`` for all of them. Raises UsageError."""
    known = {scenario.name: scenario for scenario in SCENARIOS}
    if "all" in names:
        return list(SCENARIOS)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"no scenario {', '.join(unknown)}: choose from {', '.join(known)}, all")
    return [known[name] for name in dict.fromkeys(names)]
