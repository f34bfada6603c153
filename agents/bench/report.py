"""What a measurement hands back: figures in tables, and how they compare with an earlier run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from agents.bench.figures import Figure
from agents.bench.machine import Machine
from agents.errors import UsageError


class Table(msgspec.Struct, frozen=True):
    """rows: by name, then by column. unit: of every number in it."""

    title: str
    unit: str
    rows: dict[str, dict[str, Figure]]


class Report(msgspec.Struct, frozen=True):
    """One run. notes: what a reader of the tables must know."""

    bench: str
    machine: Machine
    settings: dict[str, Any]
    tables: dict[str, Table]
    notes: list[str] = []


class Change(msgspec.Struct, frozen=True):
    """One figure of two runs. apart: no repeat of one lies within the range of the other."""

    name: str
    before: float
    now: float
    ratio: float | None
    apart: bool


def changes(before: Path, report: msgspec.Struct) -> list[Change]:
    """Every figure that both runs have, in the order of `report`.

    before: what ``--json`` printed. Raises UsageError for a file that is no report of this bench.
    """
    try:
        document = msgspec.json.decode(before.read_bytes())
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"--compare {before}: {error}") from error
    now = msgspec.to_builtins(report)
    told = document.get("bench") if isinstance(document, dict) else None
    if told != now["bench"]:
        raise UsageError(
            f"--compare {before}: a report of {told!r}, not of {now['bench']!r}; write one with "
            f"`foldstream bench {now['bench']} --json`"
        )
    earlier = dict(figures_in(document))
    return [
        _change(name, earlier[name], figure) for name, figure in figures_in(now) if name in earlier
    ]


def figures_in(document: Any, path: str = "") -> Iterator[tuple[str, Figure]]:
    """Every figure of a report's document under its place.

    >>> one = {"median": 2.0, "min": 1.0, "max": 3.0, "values": [2.0, 1.0, 3.0]}
    >>> [name for name, _ in figures_in({"rates": {"ours": one}, "bench": "x"})]
    ['rates / ours']
    """
    if not isinstance(document, Mapping):
        return
    if {"median", "min", "max", "values"} <= document.keys():
        yield path, msgspec.convert(document, Figure)
        return
    for key, value in document.items():
        yield from figures_in(value, f"{path} / {key}" if path else str(key))


def _change(name: str, before: Figure, now: Figure) -> Change:
    return Change(
        name=name.replace("tables / ", "").replace(" / rows", ""),
        before=before.median,
        now=now.median,
        ratio=now.median / before.median if before.median else None,
        apart=now.min > before.max or now.max < before.min,
    )
