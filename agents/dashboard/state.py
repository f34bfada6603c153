"""What the pages show, as plain values taken from a `Worker`; knows no browser.

A `StateTaker` looks at the worker twice a second and keeps two minutes of history; every browser
reads the same finished `DashboardState`, so a hundred of them cost the worker no more than one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import Counter

from agents.windows import Window

if TYPE_CHECKING:
    from agents.app import Worker
    from agents.http.health import Cause

SAMPLE_S = 0.5
"""Between two looks at the worker."""

HISTORY = 240
"""Samples kept for the charts: two minutes."""

RATE_SAMPLES = 6
"""A rate is taken over the last three seconds: calm to read, and quick to show a change."""


@dataclass(frozen=True, slots=True)
class AgentState:
    """One agent of the worker; None where a figure means nothing for it.

    state: "running", "starting", "waiting for store", "stopped". lag: events or changes not yet
    dealt with. p50_ms, p99_ms: of `measures`.
    """

    name: str
    state: str
    detail: str = ""
    rate_per_s: float | None = None
    lag: int | None = None
    measures: str = ""
    p50_ms: float | None = None
    p99_ms: float | None = None
    commits: int | None = None
    errors: int = 0
    fenced: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition held by this worker."""

    partition: int
    state: str
    next_offset: int
    lag: int | None
    n_cached: int
    n_events: int
    n_dead_letters: int
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since the worker started, and what it holds."""

    n_events: int = 0
    n_lists: int = 0
    n_dead_letters: int = 0
    n_repeats: int = 0
    n_items: int = 0
    n_catalogue: int = 0
    n_profiles: int = 0
    lag: int | None = None
    rate_per_s: float = 0.0
    lists_per_s: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclass(frozen=True, slots=True)
class DashboardState:
    """Everything the overview shows. rates, freshness: oldest first, a value each `SAMPLE_S`.

    freshness holds the median of the lists of the last seconds, None where there were none.
    quality: of the newest trials. causes: why the worker is not ready; empty when it is.
    """

    instance: str
    generation: str
    uptime_s: float = 0.0
    causes: tuple[Cause, ...] = ()
    totals: Totals = Totals()
    agents: tuple[AgentState, ...] = ()
    partitions: tuple[PartitionState, ...] = ()
    rates: tuple[float, ...] = ()
    freshness: tuple[float | None, ...] = ()
    quality: Window | None = None


@dataclass(slots=True)
class _Sample:
    at_s: float
    events: float
    lists: float


@dataclass(slots=True)
class StateTaker:
    """Makes a `DashboardState` from a worker.

    Times are arguments: seconds of a clock that never goes back.
    """

    worker: Worker
    instance: str
    started_s: float
    _samples: deque[_Sample] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES + 1))
    _rates: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    _freshness: deque[float | None] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def take(self, now_s: float, causes: Sequence[Cause] = ()) -> DashboardState:
        """Look once, and remember the look for rates and charts."""
        worker, metrics = self.worker, self.worker.metrics
        now = _Sample(now_s, total(metrics.folded), total(metrics.recommendations))
        first = self._samples[0] if self._samples else now
        self._samples.append(now)
        since_s = max(now_s - first.at_s, 1e-9)
        rate = (now.events - first.events) / since_s
        lists_per_s = (now.lists - first.lists) / since_s
        p50_ms = metrics.recent_freshness_ms.quantile(0.5)
        self._rates.append(rate)
        self._freshness.append(p50_ms if now.lists > first.lists else None)
        partitions = partitions_of(worker)
        lags = [partition.lag for partition in partitions if partition.lag is not None]
        totals = Totals(
            n_events=int(now.events),
            n_lists=int(now.lists),
            n_dead_letters=int(total(metrics.dead_letters)),
            n_repeats=int(total(metrics.repeats)),
            n_items=len(worker.view) if worker.view is not None else 0,
            n_catalogue=len(worker.catalogue) if worker.catalogue is not None else 0,
            n_profiles=sum(partition.n_cached for partition in partitions),
            lag=sum(lags) if lags else None,
            rate_per_s=rate,
            lists_per_s=lists_per_s,
            p50_ms=p50_ms,
            p99_ms=metrics.recent_freshness_ms.quantile(0.99),
        )
        return DashboardState(
            instance=self.instance,
            generation=worker.settings.generation,
            uptime_s=now_s - self.started_s,
            causes=tuple(causes),
            totals=totals,
            agents=tuple(agents_of(worker, totals, partitions)),
            partitions=tuple(partitions),
            rates=tuple(self._rates),
            freshness=tuple(self._freshness),
            quality=worker.evaluator.latest if worker.evaluator is not None else None,
        )


def total(counter: Counter) -> float:
    """The sum of a counter over all its labels.

    >>> from prometheus_client import CollectorRegistry
    >>> counter = Counter("n", "A count.", ["kind"], registry=CollectorRegistry())
    >>> counter.labels("a").inc(2); counter.labels("b").inc(); total(counter)
    3.0
    """
    return sum(
        sample.value
        for family in counter.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def partitions_of(worker: Worker) -> list[PartitionState]:
    """The partitions this worker holds, by number."""
    updater = worker.updater
    if updater is None:
        return []
    states = []
    for partition in sorted(updater.consumer.assigned() | updater.folds.keys()):
        fold = updater.folds.get(partition)
        if fold is None:
            states.append(PartitionState(partition, "taking over", 0, None, 0, 0, 0))
            continue
        states.append(
            PartitionState(
                partition,
                fold.state,
                fold.next_offset,
                updater.lag(partition),
                fold.n_cached,
                fold.n_events,
                fold.n_dead_letters,
                updater.faults.get(partition) or fold.fault,
            )
        )
    return states


def agents_of(
    worker: Worker, totals: Totals, partitions: Sequence[PartitionState]
) -> list[AgentState]:
    """The agents that run in this worker, in the order of an event's way."""
    metrics = worker.metrics
    ready = worker.readiness.reached.is_set()
    agents = []
    if worker.updater is not None:
        n_stopped = sum(partition.state == "stopped" for partition in partitions)
        n_waiting = sum(partition.state == "waiting for store" for partition in partitions)
        state = _state(ready)
        if n_waiting:
            state = "waiting for store"
        if n_stopped:
            state = "stopped" if n_stopped == len(partitions) else f"{n_stopped} stopped"
        agents.append(
            AgentState(
                "updater",
                state,
                f"{len(partitions)} partitions, {totals.n_profiles:,} profiles in memory, "
                f"{totals.n_repeats:,} repeats dropped",
                rate_per_s=totals.rate_per_s,
                lag=totals.lag,
                measures="commit",
                p50_ms=metrics.recent_commit_ms.quantile(0.5),
                p99_ms=metrics.recent_commit_ms.quantile(0.99),
                commits=int(total(metrics.commits)),
                errors=totals.n_dead_letters + n_stopped + int(total(metrics.store_away)),
                fenced=int(total(metrics.fenced)),
            )
        )
    if worker.scorer is not None:
        agents.append(
            AgentState(
                "scorer",
                _state(ready),
                f"{totals.n_lists:,} lists emitted, {int(total(metrics.overtaken)):,} overtaken by "
                "a newer profile",
                rate_per_s=totals.lists_per_s,
                lag=worker.scorer.n_waiting,
                measures="event to list",
                p50_ms=totals.p50_ms,
                p99_ms=totals.p99_ms,
                errors=int(total(metrics.requests_failed)),
            )
        )
    if worker.catalogue is not None:
        agents.append(
            AgentState(
                "catalogue",
                _state(ready),
                f"{totals.n_catalogue:,} items, "
                f"{len(worker.catalogue.out_of_stock):,} of them out of stock",
            )
        )
    if worker.snapshots is not None:
        agents.append(
            AgentState(
                "snapshots",
                _state(ready),
                f"{totals.n_items:,} item vectors, snapshots written: "
                f"{int(total(metrics.snapshots)):,}",
            )
        )
    return agents


def _state(ready: bool) -> str:
    return "running" if ready else "starting"
