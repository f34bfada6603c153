"""Figures over several repeats, and the rate of one run from what was seen of its progress."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import msgspec

from agents.errors import AgentsError

SKIP = 0.1
"""The first part of a run that is not measured: connections, caches, the first fetches."""


class BenchFailed(AgentsError):
    """A measured program ended or made no progress; the message has the end of its log."""


class Figure(msgspec.Struct, frozen=True):
    """One quantity over the repeats of a run."""

    median: float
    min: float
    max: float
    values: list[float]


def figure(values: Sequence[float]) -> Figure:
    """The figure of at least one value.

    >>> figure([3.0, 1.0, 2.0]).median
    2.0
    """
    return Figure(median(values), min(values), max(values), list(values))


@dataclass(frozen=True, slots=True)
class Sample:
    """How many events were visible at a time (seconds); cpu_s: by process, used so far."""

    at_s: float
    count: int
    cpu_s: dict[str, float] = field(default_factory=dict)


class Rate(msgspec.Struct, frozen=True):
    """Of the steady part of one run. cpu_us: microseconds of processor per event, by process."""

    events_per_s: float
    n_events: int
    seconds: float
    cpu_us: dict[str, float]


def steady_rate(samples: Sequence[Sample], n: int) -> Rate:
    """The rate between the first sample behind `SKIP` * n events and the first with all n.

    Raises BenchFailed when there are no two such samples: the run was too short to be measured.

    >>> steady_rate([Sample(0, 0), Sample(1, 50), Sample(2, 250), Sample(3, 450)], 400).events_per_s
    200.0
    """
    begin = next((s for s in samples if s.count >= SKIP * n), None)
    end = next((s for s in samples if s.count >= n), None)
    if begin is None or end is None or end.count <= begin.count or end.at_s <= begin.at_s:
        raise BenchFailed(f"{n} events are too few to be measured: use more --events")
    done, seconds = end.count - begin.count, end.at_s - begin.at_s
    return Rate(
        events_per_s=done / seconds,
        n_events=done,
        seconds=seconds,
        cpu_us={
            name: (end.cpu_s[name] - begin.cpu_s[name]) / done * 1e6
            for name in end.cpu_s
            if name in begin.cpu_s
        },
    )


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Figure:
    """Repeat by repeat: what is slower in a busy minute is so for both.

    >>> ratio([6.0, 8.0], [2.0, 2.0]).median
    3.5
    """
    return figure([a / b for a, b in zip(ours, theirs, strict=True)])


def percentile(values: Sequence[float], q: float) -> float | None:
    """The smallest value that a share q of all is not above; None for "never" or no value.

    >>> percentile([4.0, 1.0, 2.0, math.inf], 0.5), percentile([1.0, math.inf], 0.99)
    (2.0, None)
    """
    if not values:
        return None
    found = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    return found if math.isfinite(found) else None
