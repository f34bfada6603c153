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
    """One figure of two runs. apart: no repeat of one lies within the range of the other; None
    where either has one value only, which is no range."""

    name: str
    before: float
    now: float
    ratio: float | None
    apart: bool | None


class Difference(msgspec.Struct, frozen=True):
    """A setting, or a fact of the machine, that two runs don't share. None: that run has none."""

    name: str
    before: Any
    now: Any


class Comparison(msgspec.Struct, frozen=True):
    """Two runs. n_only_before, n_only_now: figures that the other run does not have."""

    changes: list[Change]
    differences: list[Difference]
    n_only_before: int
    n_only_now: int


class Earlier(msgspec.Struct, frozen=True):
    """What is needed of an earlier run. figures: by place in its document."""

    settings: dict[str, Any]
    machine: dict[str, Any]
    figures: dict[str, Figure]


def read_earlier(file: Path, bench: str) -> Earlier:
    """What ``--json`` printed. Raises UsageError for a file that is no report of this bench."""
    remedy = f"write one with `foldstream bench {bench} --json`, to a file of another name"
    try:
        document = msgspec.json.decode(file.read_bytes())
        told = document.get("bench") if isinstance(document, dict) else None
        if told != bench:
            raise UsageError(f"--compare {file}: a report of {told!r}, not of {bench!r}; {remedy}")
        parts = {name: document.get(name, {}) for name in ("settings", "machine")}
        return msgspec.convert(parts | {"figures": dict(figures_in(document))}, Earlier)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"--compare {file}: {error}; {remedy}") from error


def compare(earlier: Earlier, report: msgspec.Struct) -> Comparison:
    """Every figure that both runs have, in the order of `report`, and what else differs."""
    told = msgspec.to_builtins(report, enc_hook=str, str_keys=True)
    figures = dict(figures_in(told))
    now = msgspec.json.decode(msgspec.json.encode(told))  # as the earlier run's were read
    both = [name for name in figures if name in earlier.figures]
    return Comparison(
        changes=[_change(name, earlier.figures[name], figures[name]) for name in both],
        differences=[
            *_differences("settings", earlier.settings, now["settings"]),
            *_differences("machine", earlier.machine, now["machine"]),
        ],
        n_only_before=len(earlier.figures) - len(both),
        n_only_now=len(figures) - len(both),
    )


def _differences(name: str, before: Any, now: Any) -> Iterator[Difference]:
    """Down to the innermost names: of the versions those that changed."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            yield from _differences(f"{name} / {key}", before.get(key), now.get(key))
    elif before != now:
        yield Difference(name, before, now)


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
    ranges = min(len(before.values), len(now.values)) > 1
    return Change(
        name=name.replace("tables / ", "").replace(" / rows", ""),
        before=before.median,
        now=now.median,
        ratio=now.median / before.median if before.median else None,
        apart=now.min > before.max or now.max < before.min if ranges else None,
    )
