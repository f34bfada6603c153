"""Ten minutes of inputs that nobody thought of, for decoder and record codec."""

from __future__ import annotations

import asyncio
import importlib
import random
import time
from typing import Any

from agents.chaos.bed import Bed
from agents.chaos.judge import Judge
from agents.chaos.scenario import Plan, Report, Scenario
from agents.errors import UsageError
from streams.codec import EventCodec

EXAMPLES = 200
"""Of one round: a second or two, so that the time is kept and every round is another seed."""


async def _fuzz(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    del bed  # nothing here needs a server
    fuzzing = _fuzzing()
    codec, judge = EventCodec(["favourite"]), Judge(["favourite"])

    def message(one: Any) -> None:
        fuzzing.check_message(codec, judge, one)

    parts = {
        "messages": (message, fuzzing.MESSAGES),
        "hostile messages": (message, fuzzing.HOSTILE),
        "profiles": (fuzzing.check_profile, fuzzing.PROFILES),
        "extreme profiles": (fuzzing.check_extreme, fuzzing.EXTREME_PROFILES),
        "records": (fuzzing.check_record, fuzzing.RECORDS),
        "damaged records": (fuzzing.check_record, fuzzing.DAMAGED),
    }
    counts = dict.fromkeys(parts, 0)
    failed: set[str] = set()
    deadline = time.monotonic() + 60 * plan.minutes * min(1.0, plan.share)
    while time.monotonic() < deadline and len(failed) < len(parts):
        for name, (check, inputs) in parts.items():
            if name in failed:
                continue
            number = draw.randrange(1 << 48)
            try:
                await asyncio.to_thread(fuzzing.run_examples, check, inputs, number, EXAMPLES)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                failed.add(name)
                report.check(
                    False,
                    f"{name}: refused by name or read right",
                    f"seed {number}: {error!r} {' '.join(getattr(error, '__notes__', []))}"[:2_000],
                )
            counts[name] += EXAMPLES
    for name, count in counts.items():
        report.figure(name, count, "examples")
    report.check(not failed, "decoder and judge agree, and no bytes crash the record codec")


def _fuzzing() -> Any:
    """Hypothesis' part. Raises UsageError where hypothesis is not installed."""
    try:
        return importlib.import_module("agents.chaos.fuzzing")
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        raise UsageError(
            "the scenario fuzz needs hypothesis: pip install 'foldstream[dev]'"
        ) from error


SCENARIOS = (
    Scenario(
        name="fuzz",
        title="hypothesis on decoder and record codec",
        promise=(
            "the decoder and an independent judge give one verdict; bytes that are no record are "
            "refused by name; no crash"
        ),
        default_minutes=10.0,
        run=_fuzz,
        timed=False,
    ),
)
