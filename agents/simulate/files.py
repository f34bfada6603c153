"""A shop's stream as files that `ingest` and `evaluate` read."""

from __future__ import annotations

import time
from pathlib import Path

from agents.simulate.run import SimulationReport, Source
from streams.codec import encode


def write_stream(
    shop: Source,
    n_events: int,
    folder: Path,
    report: SimulationReport,
    *,
    with_catalogue: bool = True,
) -> None:
    """Write ``events.jsonl`` and, with a catalogue, ``items.jsonl``; `report` is kept up to date.

    The folder is made where there is none; files of an earlier run are replaced. Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    report.seen = shop.totals
    (folder / "items.jsonl").unlink(missing_ok=True)
    began = time.monotonic()
    if with_catalogue:
        with (folder / "items.jsonl").open("wb") as out:
            for item in shop.items():
                out.write(encode(item) + b"\n")
                report.items += 1
    with (folder / "events.jsonl").open("wb") as out:
        for chunk in shop.stream(n_events):
            out.writelines(value + b"\n" for value in chunk.values)
            report.messages += len(chunk)
            report.events += chunk.n_events
    report.seconds = time.monotonic() - began
