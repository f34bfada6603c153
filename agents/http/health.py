"""Is the worker alive, and is it ready? Lists of causes; an empty list is a yes.

Alive is judged by progress: how long ago the loops last turned, never by answering a ping, which
a worker with a stuck consumer does as well. A neighbour that is away makes a worker not ready,
never dead: a restart would not bring the broker back.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from profiles.errors import ProfilesError
from streams.errors import StreamsError

if TYPE_CHECKING:
    from agents.app import Worker

STALLED_S = 30.0
"""Loops turn several times a second; the longest honest pause seen, the first compilation of the
kernel on a busy machine, is about 13 s."""

FETCH_STALE_S = 3.0
"""The broker answers a fetch within 0.25 s even when there is nothing to read."""

SLOW_S = 1.0
"""A neighbour answers a cheap question within milliseconds; the rest of a second may be our own."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why not: which part, and what is the matter with it."""

    part: str
    cause: str


@dataclass(slots=True)
class Neighbours:
    """What the last look at store and broker said; no cause: it answered (or was not asked yet)."""

    causes: dict[str, str] = field(default_factory=dict)
    answering_since: dict[str, float] = field(default_factory=dict)  # monotonic seconds

    def answering_s(self, name: str) -> float:
        """For how long the neighbour has answered without a break."""
        since = self.answering_since.get(name)
        return 0.0 if since is None else time.monotonic() - since

    async def look(self, name: str, ask: Callable[[], Awaitable[object]]) -> None:
        """Ask one neighbour something cheap, and note whether it answered.

        ask: gives up by itself within seconds; it is not cancelled, because a store client that
        is cancelled in the middle of an answer has to throw its connection away.
        """
        began = time.monotonic()
        try:
            await ask()
        except (ProfilesError, StreamsError) as error:
            self.causes[name] = f"away: {error}"
            self.answering_since.pop(name, None)
            return
        self.answering_since.setdefault(name, time.monotonic())
        took_s = time.monotonic() - began
        if took_s > SLOW_S:
            self.causes[name] = f"slow: its last answer took {took_s:.1f} s"
        else:
            self.causes.pop(name, None)


def progress_ages(worker: Worker) -> dict[str, float]:
    """Seconds since each loop of this worker last turned, by part."""
    ages = {}
    if worker.updater is not None:
        ages["updater"] = worker.updater.progress_age_s()
    if worker.scorer is not None:
        ages["scorer"] = worker.scorer.progress_age_s()
    return ages


def liveness(worker: Worker, neighbours: Neighbours, stalled_s: float = STALLED_S) -> list[Cause]:
    """Why this process should be restarted; empty while every loop makes progress."""
    if not worker.readiness.reached.is_set():
        return []  # still starting: loops that have not begun can't have stopped
    causes = [
        Cause(part, f"no progress for {age_s:.0f} s (limit {stalled_s:g} s)")
        for part, age_s in progress_ages(worker).items()
        if age_s > stalled_s
    ]
    if worker.updater is not None:
        fetch_s = worker.updater.consumer.fetch_age_s()
        if min(fetch_s, neighbours.answering_s("broker")) > stalled_s:
            causes.append(
                Cause("updater", f"the broker answers, but no fetch has for {fetch_s:.0f} s")
            )
    return causes


def readiness(worker: Worker, neighbours: Neighbours) -> list[Cause]:
    """Why this worker doesn't do all of its work right now; empty when it does."""
    if not worker.readiness.reached.is_set():
        return [Cause("worker", "starting")]
    causes = [Cause(name, why) for name, why in sorted(neighbours.causes.items())]
    if worker.updater is not None:
        causes += _updater_causes(worker)
    return causes


def _updater_causes(worker: Worker) -> list[Cause]:
    updater = worker.updater
    assert updater is not None
    consumer = updater.consumer
    causes = [
        Cause(f"partition {partition}", f"stopped: {fault}")
        for partition, fault in sorted(updater.faults.items())
    ]
    assigned = consumer.assigned()
    if consumer.n_rebalances == 0:
        causes.append(Cause("updater", "not yet assigned: waiting for the group"))
    missing = sorted(assigned - updater.folds.keys())
    if missing:
        causes.append(Cause("updater", f"taking over partitions {_some(missing)}"))
    waiting = {p: fold for p, fold in updater.folds.items() if fold.state == "waiting for store"}
    if waiting:
        why = waiting[min(waiting)].away_because
        causes.append(Cause("store", f"partitions {_some(sorted(waiting))} wait for it: {why}"))
    age_s = consumer.fetch_age_s()
    if age_s > FETCH_STALE_S:
        causes.append(Cause("broker", f"no answer to a fetch for {age_s:.0f} s"))
    return causes


def _some(numbers: list[int]) -> str:
    """A few numbers in full, many in short.

    >>> _some([1, 2]), _some(list(range(20)))
    ('1, 2', '0, 1, 2, 3, 4, 5, 6, 7 and 12 more')
    """
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"
