"""Runs scenarios: a bed each, a report each, an outcome each."""

from __future__ import annotations

import asyncio
import random
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agents.bench.machine import this_machine
from agents.chaos.bed import made_bed, remove
from agents.chaos.scenario import Outcome, Plan, Report, Scenario

OVERTIME = 4.0
"""A run may take so many times its minutes (and `LEAST_S`) before it counts as hanging."""

LEAST_S = 600.0

CHECKOUT = Path(__file__).parents[2]
HOME = Path.home()


async def run_scenario(
    scenario: Scenario,
    plan: Plan,
    folder: Path,
    commit: str,
    on_line: Callable[[str], None] = lambda line: None,
    *,
    keep: bool = False,
) -> Outcome:
    """One run on a bed of its own in `folder`, which is removed unless `keep`.

    What goes wrong in the run itself is a failure of the outcome; only cancellation passes.
    """
    report = Report(on_line)
    started, began = datetime.now(UTC), time.monotonic()
    versions: dict[str, str] = {}
    try:
        async with (
            asyncio.timeout(LEAST_S + OVERTIME * 60 * plan.minutes),
            made_bed(
                folder,
                partitions=scenario.partitions,
                store=scenario.store,
                overrides=scenario.settings,
                on_step=report.step,
            ) as bed,
        ):
            versions = bed.versions
            await scenario.run(bed, random.Random(plan.seed), report, plan)
    except Exception as error:  # noqa: BLE001 - the outcome says it
        where = traceback.extract_tb(error.__traceback__)[-1]
        report.check(
            False, "the run comes to its end", f"{error!r} in {where.name}, line {where.lineno}"
        )
    finally:
        if not keep:
            await asyncio.to_thread(remove, folder)
    machine = this_machine(versions)
    return Outcome(
        scenario=scenario.name,
        seed=plan.seed,
        share=plan.share,
        minutes=plan.minutes,
        passed=not report.failures,
        n_checks=report.n_checks,
        figures=report.figures,
        failures=[without_places(text, folder) for text in report.failures],
        notes=[without_places(text, folder) for text in report.notes],
        took_s=round(time.monotonic() - began, 1),
        commit=commit,
        versions=machine.versions,
        machine=f"{machine.processor}, {machine.cores} cores, {machine.memory_gib:.0f} GiB, "
        f"{machine.system}, load before {machine.load_1m:.1f}",
        started=started.isoformat(timespec="seconds"),
    )


def without_places(text: str, folder: Path) -> str:
    """A text without paths of this machine: outcomes are kept in the repository.

    folder: the run's own.

    >>> without_places(f"no space left in /tmp/x/store; {CHECKOUT}/agents/app.py", Path("/tmp/x"))
    'no space left in RUN/store; ./agents/app.py'
    """
    for place, name in ((folder, "RUN"), (CHECKOUT, "."), (sys.prefix, "PYTHON"), (HOME, "~")):
        text = text.replace(str(place), name)
    return text
