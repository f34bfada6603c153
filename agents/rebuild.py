"""Folds the log anew into a throw-away generation, and compares facts with the live one.

Reads up to the live checkpoints exactly, and follows them while a worker goes on folding. What the
log lost before it was folded, and a person accepted, the check leaves out in the same way.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from agents.log_check import all_of
from agents.refold import Refold
from agents.settings import Settings
from agents.store_access import fold_config_of, store_of
from profiles.digest import FactsDigest
from profiles.record import decode_profile, facts_of
from profiles.retention import Retention
from profiles.store import Checkpoint, ProfileStore
from streams.batch import RawBatch
from streams.errors import OffsetGap

ROUNDS = 5
"""How often a partition is followed to a live position that has moved on meanwhile."""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One user whose facts differ. what: missing, unknown or different."""

    user_id: str
    partition: int
    what: str


class RebuildReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found. digest: of the facts, 32 hex digits; equal when nothing differs.

    n_events: sum of all profiles' counts. moving: partitions that a worker kept folding through
    all rounds; they were not compared. gaps: by partition, what the log lost and a person accepted.
    """

    generation: str
    n_profiles: int
    n_events: int
    digest_live: str
    digest_rebuilt: str
    differences: list[Difference]
    n_differences: int
    moving: list[int]
    gaps: dict[int, list[tuple[int, int]]] = {}

    @property
    def agrees(self) -> bool:
        """Whether every partition was compared and nothing differs."""
        return not self.n_differences and not self.moving


@dataclass
class _Compared:
    """One partition's result."""

    live: FactsDigest
    rebuilt: FactsDigest
    n_events: int
    differences: list[Difference]


MOST_SHOWN = 20
"""Differences listed by name; all are counted."""


class Rebuild:
    """One check of the live generation, in a throw-away generation beside it."""

    def __init__(self, settings: Settings, on_progress: Callable[[int, int], None]) -> None:
        """settings: in force for the generation. on_progress: told (offsets folded, offsets to
        fold) of all partitions."""
        self._settings = settings
        self._on_progress = on_progress
        self._events = settings.topics().events.name
        self._live = store_of(settings)
        self._generation = f"check-{uuid.uuid4().hex[:8]}"
        self._store = store_of(settings, self._generation)
        self._folded: dict[int, int] = {}
        self._targets: dict[int, int] = {}

    async def check(self) -> RebuildReport:
        """Fold everything anew, compare, drop the throw-away generation (also on Ctrl-C).

        Raises OffsetGap (the log lacks its beginning), StoreAway, BrokerAway.
        """
        async with self._live, self._store:
            try:
                async with Refold(self._settings, self._store, learn=False) as refold:
                    return await self._check(refold)
            finally:
                await self._store.drop_generation(self._generation)

    async def _check(self, refold: Refold) -> RebuildReport:
        checkpoints = {p: await self._live.read_checkpoint(p) for p in refold.partitions}
        begins = await refold.reader.begin_offsets(refold.partitions)
        await refold.acquire(_starts(self._events, checkpoints, begins))
        self._targets = {p: _position(checkpoint) for p, checkpoint in checkpoints.items()}
        compared = await asyncio.gather(*(self._partition(refold, p) for p in refold.partitions))
        report = self._report(dict(zip(refold.partitions, compared, strict=True)))
        gaps = {p: list(found.gaps) for p, found in checkpoints.items() if found and found.gaps}
        return msgspec.structs.replace(report, gaps=gaps)

    async def _partition(self, refold: Refold, partition: int) -> _Compared | None:
        """Fold one partition up to the live position and compare; None if that keeps moving."""
        held: RawBatch | None = None
        for _ in range(ROUNDS):
            target = self._targets[partition]
            held = await self._fold_to(refold, partition, target, held)
            compared = await self._compare(partition)
            position = _position(await self._live.read_checkpoint(partition))
            if position == target:
                return compared
            self._targets[partition] = position
        return None

    async def _fold_to(
        self, refold: Refold, partition: int, target: int, held: RawBatch | None
    ) -> RawBatch | None:
        """Fold up to exactly `target`; returns what was read beyond it."""
        batch_events = self._settings.max_batch_events
        fold = refold.folds[partition]
        while fold.next_offset < target:
            raw = held or await refold.reader.next_batch(partition, batch_events)
            raw, held = cut(raw, target)
            await fold.step(raw)
            self._folded[partition] = fold.next_offset
            self._on_progress(sum(self._folded.values()), sum(self._targets.values()))
        return held

    async def _compare(self, partition: int) -> _Compared:
        config = fold_config_of(self._settings)
        folded = await self._store.read_checkpoint(partition)
        # What retention has ended may have been swept from the one and not yet from the other.
        retention = Retention(config.retention_ms, folded.watermark_ms if folded else 0)
        live, rebuilt = FactsDigest(), FactsDigest()
        expected: dict[str, bytes] = {}
        n_events = 0
        async for user_id, record in self._store.iter_records(partition):
            if retention.is_over(record):
                continue
            facts = facts_of(record)
            rebuilt.add(user_id, facts)
            expected[user_id] = facts
        differences = []
        async for user_id, record in self._live.iter_records(partition):
            if retention.is_over(record):
                continue
            facts = facts_of(record)
            live.add(user_id, facts)
            n_events += decode_profile(record, config.shape, user_id).n_events
            found = expected.pop(user_id, None)
            if found is None:
                differences.append(Difference(user_id=user_id, partition=partition, what="unknown"))
            elif found != facts:
                differences.append(
                    Difference(user_id=user_id, partition=partition, what="different")
                )
        differences += [
            Difference(user_id=user_id, partition=partition, what="missing") for user_id in expected
        ]
        return _Compared(live, rebuilt, n_events, differences)

    def _report(self, compared: dict[int, _Compared | None]) -> RebuildReport:
        live, rebuilt = FactsDigest(), FactsDigest()
        differences: list[Difference] = []
        n_events = 0
        for result in compared.values():
            if result is None:
                continue
            live.merge(result.live)
            rebuilt.merge(result.rebuilt)
            n_events += result.n_events
            differences += result.differences
        return RebuildReport(
            generation=self._settings.generation,
            n_profiles=live.n_profiles,
            n_events=n_events,
            digest_live=live.hex,
            digest_rebuilt=rebuilt.hex,
            differences=differences[:MOST_SHOWN],
            n_differences=len(differences),
            moving=[partition for partition, result in compared.items() if result is None],
        )


def _position(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else checkpoint.next_offset


def _starts(
    topic: str, checkpoints: dict[int, Checkpoint | None], begins: dict[int, int]
) -> dict[int, tuple[int, int]]:
    """By partition, the gap that a fold from nothing begins with: as the live one began.

    Raises OffsetGap for a log that no longer holds what the live profiles were folded from.
    """
    gaps: dict[int, tuple[int, int]] = {}
    lost: list[OffsetGap] = []
    for partition, checkpoint in checkpoints.items():
        first = next((gap for gap in checkpoint.gaps if gap[0] == 0), None) if checkpoint else None
        if first is not None:
            gaps[partition] = first
        start = first[1] if first else 0
        if begins[partition] > start:
            lost.append(_no_beginning(topic, partition, start, begins[partition]))
    if lost:
        raise all_of(lost)
    return gaps


def _no_beginning(topic: str, partition: int, start: int, begin: int) -> OffsetGap:
    return OffsetGap(
        f"{topic} partition {partition} starts at offset {begin}, not at {start}: retention took "
        "its beginning, so what the live profiles were folded from can't be folded again, and "
        "nothing was compared. The live profiles are as good as before. Restore a copy of the "
        "topic and check them against that; or begin a generation with what is left, which a "
        "check can compare from then on: foldstream rebuild --into NAME --accept-gap, then "
        "foldstream promote NAME",
        (start, begin),
    )


def cut(raw: RawBatch, target: int) -> tuple[RawBatch, RawBatch | None]:
    """A batch up to `target`, and what lies beyond it, if anything does."""
    if raw.end <= target:
        return raw, None
    within = [record for record in raw.records if record.offset < target]
    beyond = raw.records[len(within) :]
    return (
        RawBatch(raw.partition, raw.start, target, within),
        RawBatch(raw.partition, target, raw.end, beyond),
    )


async def live_digest(store: ProfileStore) -> FactsDigest:
    """The facts of a whole generation as they are now."""
    digest = FactsDigest()
    async for user_id, record in store.iter_records():
        digest.add(user_id, facts_of(record))
    return digest
