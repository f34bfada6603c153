"""Folds the log into a new generation that is kept: beside the live one, until it can replace it.

Owns the description of the new generation while it is built, and when it is ready. Leaves the fold
to `refold` and the switch to `promotion`. What stays true: the live generation is never written to;
a run that was killed goes on at the new generation's checkpoints; once workers have taken a
partition over, this lets go of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from agents.errors import UsageError
from agents.exchange.snapshots import SnapshotWriter
from agents.generations import (
    description_of,
    differing,
    newest_format,
    oldest_format,
    shaped_like,
    shaping_of,
)
from agents.refold import Refold
from agents.settings import Settings
from agents.store_access import fingerprint_of, store_of
from agents.updater import wall_clock_ms
from profiles.errors import Fenced
from profiles.store import ProfileStore
from profiles.store_generations import Generation, Standing
from streams.errors import PartitionRevoked

logger = structlog.get_logger(__name__)

LOOK_S = 0.5
"""Between two looks at how far the log has grown."""

SMALL_LAG = 200
"""Events behind at which a generation counts as caught up, at least: workers fold them at once."""

Progress = Callable[[int, int, float], None]
"""Told (offsets folded, offsets to fold, events a second)."""


class IntoReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a rebuild has done. n_folded: events of this run. behind: offsets left to the workers.

    promoted: workers have taken over meanwhile. gaps: by partition, accepted ones.
    """

    generation: str
    settings: dict[str, Any]
    record_format: int
    resumed: bool
    n_folded: int
    took_s: float
    behind: int
    promoted: bool
    gaps: dict[int, list[tuple[int, int]]]


def plan(wishes: Settings, name: str, standing: Standing, formats: list[int]) -> Generation:
    """What the new generation is to be like: the wishes, and the live one's shape elsewhere.

    What the live one's description does not name, being older, is by the settings or the default.
    formats: newest record format that each reader can read. Raises UsageError.
    """
    if standing.meta is None:
        raise UsageError(
            "no worker has used this store yet: `foldstream worker` folds the log into it by itself"
        )
    if standing.meta.generation == name:
        raise UsageError(f"generation {name!r} is live: workers fold into it; choose another name")
    there = standing.generations.get(name)
    if there is not None:
        given = differing(wishes, there.settings)
        if given and there.state != "dropping":
            raise UsageError(
                f"generation {name!r} was begun with "
                f"{', '.join(f'{key} = {there.settings[key]!r}' for key in given)}: leave "
                f"{', '.join(given)} out to go on, or begin anew after foldstream drop {name}"
            )
        return there
    live = standing.live
    own = shaping_of(wishes)
    shape = own | (dict(live.settings) if live is not None else {})
    shape |= {key: value for key, value in own.items() if key in wishes.model_fields_set}
    shaped = shaped_like(wishes, shape, name)
    # Where an older worker still runs, it is promote that waits for its upgrade.
    record_format = max(min(formats), oldest_format(shaped))
    described = description_of(shaped, fingerprint_of(shaped), record_format)
    return msgspec.structs.replace(described, state="building")


class RebuildInto:
    """One run of `foldstream rebuild --into NAME`."""

    def __init__(
        self,
        wishes: Settings,
        name: str,
        on_progress: Progress,
        *,
        accept_gap: bool = False,
        events_per_s: int | None = None,
    ) -> None:
        """wishes: settings as given; those that shape a generation count where they were given."""
        self._wishes = wishes
        self._name = name
        self._on_progress = on_progress
        self._accept_gap = accept_gap
        self._events_per_s = events_per_s
        self._taken_over: set[int] = set()
        self._began = 0.0
        self._n_folded = 0

    async def run(self) -> IntoReport:
        """Fold until the lag is small. Cancelled, it ends in order: what is folded is kept.

        Raises UsageError, OffsetGap (names the remedy), LogMismatch, StoreAway, BrokerAway.
        """
        async with store_of(self._wishes) as live:
            standing = await live.registry.read()
            formats = [newest_format(self._wishes)]
            formats += [worker.reads_to for worker in await live.registry.workers()]
            described = plan(self._wishes, self._name, standing, formats)
            await live.registry.describe(described)
            settings = shaped_like(self._wishes, described.settings, self._name)
            async with (
                store_of(settings, self._name) as store,
                Refold(
                    settings, store, learn=True, record_format=described.record_format
                ) as refold,
            ):
                return await self._run(live, store, refold, described)

    async def _run(
        self, live: ProfileStore, store: ProfileStore, refold: Refold, described: Generation
    ) -> IntoReport:
        self._began = time.monotonic()
        await refold.acquire(accept_gap=self._accept_gap)
        resumed = any(refold.positions().values())
        writer = SnapshotWriter(
            refold.model,
            store,
            refold.folds,
            refold.metrics,
            refold.settings.item_snapshot_interval_s,
            wall_clock_ms,
        )
        await writer.start()
        try:
            behind = await self._follow_all(refold)
        finally:
            await writer.stop()
            if 0 not in self._taken_over:
                await writer.write()
        standing = await live.registry.read()
        promoted = standing.meta is not None and standing.meta.generation == self._name
        if self._taken_over and not promoted:
            raise UsageError(
                f"another rebuild into {self._name!r} has taken partitions "
                f"{sorted(self._taken_over)} over; this one has ended"
            )
        if described.state == "building" and not promoted:
            await live.registry.describe(msgspec.structs.replace(described, state="ready"))
        gaps = {}
        for partition in refold.partitions:
            checkpoint = await store.read_checkpoint(partition)
            if checkpoint is not None and checkpoint.gaps:
                gaps[partition] = list(checkpoint.gaps)
        return IntoReport(
            generation=self._name,
            settings=described.settings,
            record_format=described.record_format,
            resumed=resumed,
            n_folded=self._n_folded,
            took_s=time.monotonic() - self._began,
            behind=behind,
            promoted=promoted,
            gaps=gaps,
        )

    async def _follow_all(self, refold: Refold) -> int:
        """Fold all partitions until little is left; returns how much."""
        begins = await refold.reader.begin_offsets(refold.partitions)
        tasks = [asyncio.create_task(self._follow(refold, p)) for p in refold.partitions]
        watching = asyncio.create_task(self._watch(refold, begins))
        try:
            following: set[asyncio.Task[Any]] = set(tasks)
            while not watching.done():
                done, following = await asyncio.wait(
                    {watching, *following}, return_when=asyncio.FIRST_COMPLETED
                )
                following.discard(watching)
                for task in done:
                    task.result()
            return watching.result()
        finally:
            watching.cancel()
            for partition, fold in refold.folds.items():
                refold.reader.release(partition)
                fold.give_up.set()
            await asyncio.gather(watching, *tasks, return_exceptions=True)

    async def _follow(self, refold: Refold, partition: int) -> None:
        fold = refold.folds[partition]
        try:
            while True:
                raw = await refold.reader.next_batch(partition, refold.settings.max_batch_events)
                await fold.step(raw)
                self._n_folded += len(raw)
                if self._events_per_s:
                    ahead_s = self._n_folded / self._events_per_s - (time.monotonic() - self._began)
                    if ahead_s > 0:
                        await asyncio.sleep(ahead_s)
        except PartitionRevoked:
            return
        except Fenced as fenced:
            logger.info("taken over", partition=partition, reason=str(fenced))
            self._taken_over.add(partition)

    async def _watch(self, refold: Refold, begins: dict[int, int]) -> int:
        """Tell how far it is, until the rest is small or workers have taken over."""
        while True:
            ends = await refold.reader.end_offsets(refold.partitions)
            positions = refold.positions()
            done = sum(max(0, positions[p] - begins[p]) for p in ends)
            total = sum(ends[p] - begins[p] for p in ends)
            rate = self._n_folded / max(1e-9, time.monotonic() - self._began)
            self._on_progress(done, total, rate)
            behind = sum(max(0, ends[p] - positions[p]) for p in ends)
            if behind <= max(SMALL_LAG, rate / 4) or len(self._taken_over) == len(ends):
                return behind
            await asyncio.sleep(LOOK_S)
