"""A shop's stream as files that `ingest` and `evaluate` read."""

from __future__ import annotations

import time
from pathlib import Path

from agents.errors import UsageError
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

    The folder is made where there is none. Raises UsageError when it holds such files, or can't be
    written to.
    """
    items, events = folder / "items.jsonl", folder / "events.jsonl"
    there = [path.name for path in (events, items) if path.exists()]
    if there:
        raise UsageError(
            f"--to {folder}: it holds {' and '.join(there)}; name another folder, or delete them"
        )
    report.seen = shop.totals
    began = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if with_catalogue:
            with items.open("xb") as out:
                for item in shop.items():
                    out.write(encode(item) + b"\n")
                    report.items += 1
        with events.open("xb") as out:
            for chunk in shop.stream(n_events):
                out.writelines(value + b"\n" for value in chunk.values)
                report.messages += len(chunk)
                report.events += chunk.n_events
    except OSError as error:
        raise UsageError(f"--to {folder}: {error}") from error
    report.seconds = time.monotonic() - began
