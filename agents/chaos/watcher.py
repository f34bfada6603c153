"""Looks at every checkpoint through a run: where each partition stood when, and whether one fell.

Reads the store and nothing else. What stays true: a sample is what the store said at its time; a
store that is away leaves a gap, not a zero.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import redis

from agents.chaos.background import ended
from agents.chaos.bed import Bed
from agents.store_access import store_of
from profiles.errors import StoreAway

SAMPLE_S = 0.05


@dataclass(frozen=True, slots=True)
class Step:
    """A partition was first seen at next_offset (and epoch) at a time, monotonic seconds."""

    at_s: float
    next_offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Fall:
    """A checkpoint that was lower than the one seen before."""

    partition: int
    at_s: float
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A partition did not move from one moment to the other, monotonic seconds."""

    partition: int
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end_s - self.begin_s


class Watcher:
    """Samples from `async with` to its end. steps: by partition, each change. falls: all.

    keeps_log: the store does not rewrite its append-only file, so that in the end every
    checkpoint can be read there, also one that stood between two looks.
    """

    def __init__(self, bed: Bed, interval_s: float = SAMPLE_S, *, keeps_log: bool = False) -> None:
        settings = bed.settings(store_timeout_s=1.0)
        self.partitions = settings.partitions
        self.steps: dict[int, list[Step]] = {p: [] for p in range(settings.partitions)}
        self.falls: list[Fall] = []
        self.away_s = 0.0
        self.keeps_log = keeps_log
        self._bed = bed
        self._store = store_of(settings)
        self._interval_s = interval_s
        self._looking = asyncio.Lock()  # of two looks at once the older might be noted last
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        if self.keeps_log:
            await asyncio.to_thread(self._keep_log)
        await self._store.start()
        await self.sample()
        self._task = asyncio.create_task(self._sample_regularly(), name="watcher")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await ended(self._task)
        finally:
            await self._store.close()

    def _keep_log(self) -> None:
        for node in self._bed.nodes:
            with redis.Redis.from_url(node.server.url) as plain:
                plain.config_set("auto-aof-rewrite-percentage", 0)

    @property
    def total(self) -> int:
        """The sum of all positions as last seen."""
        return sum(steps[-1].next_offset for steps in self.steps.values() if steps)

    def position(self, partition: int) -> int:
        """Next_offset as last seen; 0 before the first."""
        steps = self.steps[partition]
        return steps[-1].next_offset if steps else 0

    async def reached(self, total: int, within_s: float = 120.0) -> bool:
        """Wait until the sum of all positions is at least so much; False if it is not in time."""
        deadline = time.monotonic() + within_s
        while self.total < total:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(self._interval_s / 2)
        return True

    async def moved(self, since: int, within_s: float) -> float | None:
        """Seconds until the sum of all positions is above `since`; None if it is not in time."""
        began = time.monotonic()
        if not await self.reached(since + 1, within_s):
            return None
        return time.monotonic() - began

    async def all_moved(self, within_s: float) -> float | None:
        """Seconds until every partition is above where it was last seen; None if not in time.

        What makes sense only where events keep coming for every partition.
        """
        began = time.monotonic()
        stood = {partition: self.position(partition) for partition in self.steps}
        while any(self.position(partition) <= at for partition, at in stood.items()):
            if time.monotonic() - began > within_s:
                return None
            await asyncio.sleep(self._interval_s / 2)
        return time.monotonic() - began

    def moves(self, partition: int) -> list[float]:
        """When a partition was seen further on than before, monotonic seconds."""
        found, before = [], 0
        for step in self.steps[partition]:
            if step.next_offset > before:
                found.append(step.at_s)
            before = step.next_offset
        return found

    def gaps(self, begin_s: float, end_s: float) -> dict[int, list[Gap]]:
        """By partition, what lies between two moves, whole, between the first and the last moment.

        One that is under way at an end counts as far as it lies inside. What makes sense only
        where events keep coming for every partition.
        """
        found = {}
        for partition in self.steps:
            moments = [at_s for at_s in self.moves(partition) if begin_s < at_s < end_s]
            edges = [begin_s, *moments, end_s]
            found[partition] = [Gap(partition, a, b) for a, b in itertools.pairwise(edges)]
        return found

    def standstills(self, begin_s: float, end_s: float) -> dict[int, float]:
        """By partition, the longest of its gaps between two moments, seconds."""
        found = self.gaps(begin_s, end_s)
        return {partition: max(gap.seconds for gap in gaps) for partition, gaps in found.items()}

    async def sample(self) -> None:
        """Look once. Raises StoreAway."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        for partition in range(self.partitions):
            checkpoint = await self._store.read_checkpoint(partition)
            steps = self.steps[partition]
            before = steps[-1] if steps else Step(0.0, 0, 0)
            found = Step(
                time.monotonic(),
                checkpoint.next_offset if checkpoint else 0,
                checkpoint.epoch if checkpoint else 0,
            )
            if found.next_offset < before.next_offset:
                self.falls.append(
                    Fall(partition, found.at_s, before.next_offset, found.next_offset)
                )
            if (found.next_offset, found.epoch) != (before.next_offset, before.epoch):
                steps.append(found)

    async def _sample_regularly(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.sample()
            except StoreAway:
                self.away_s += time.monotonic() - began + self._interval_s
            await asyncio.sleep(self._interval_s)
