"""Folds the log anew into a generation of its own, and compares facts with the live one.

The same `PartitionFold` as in the worker; only nobody is told, dead letters stay where they are,
and vectors are left alone (facts don't depend on them). Reads up to the live checkpoints exactly,
and follows them while a worker goes on folding.
"""

from __future__ import annotations

import asyncio
import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from agents.app import fold_config_of, store_of
from agents.errors import UsageError
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import Limits, PartitionFold
from agents.settings import Settings
from agents.translate import Translator
from agents.updater import Parts, wall_clock_ms
from profiles.digest import FactsDigest
from profiles.record import decode_profile, facts_of
from profiles.retention import Retention
from profiles.store import LogPosition, ProfileStore
from streams.batch import RawBatch, Reject
from streams.codec import EventCodec
from streams.log_identity import log_identity
from streams.manual_reader import ManualReader

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
    all rounds; they were not compared.
    """

    generation: str
    n_profiles: int
    n_events: int
    digest_live: str
    digest_rebuilt: str
    differences: list[Difference]
    n_differences: int
    moving: list[int]

    @property
    def agrees(self) -> bool:
        """Whether every partition was compared and nothing differs."""
        return not self.n_differences and not self.moving


class Silent:
    """Tells nobody: the live fold has announced these events, and set these messages aside."""

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        """Nothing to do."""

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        """Nothing to do."""


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
        """on_progress: told (offsets folded, offsets to fold) of all partitions."""
        self._settings = settings
        self._on_progress = on_progress
        self._events = settings.topics().events.name
        self._live = store_of(settings)
        self._generation = f"check-{uuid.uuid4().hex[:8]}"
        self._store = store_of(settings, self._generation)
        self._folded: dict[int, int] = {}
        self._targets: dict[int, int] = {}

    async def check(self) -> RebuildReport:
        """Fold everything anew, compare, drop the throw-away generation (also on Ctrl-C)."""
        await self._live.start()
        await self._store.start()
        reader = ManualReader(self._settings.kafka, self._events)
        try:
            await reader.start()
            return await self._check(reader)
        finally:
            await reader.stop()
            await self._store.drop_generation(self._generation)
            await self._store.close()
            await self._live.close()

    async def _check(self, reader: ManualReader) -> RebuildReport:
        partitions = range(self._settings.partitions)
        begins = await reader.begin_offsets(partitions)
        late = {p: begin for p, begin in begins.items() if begin > 0}
        if late:
            first = min(late)
            raise UsageError(
                f"{self._events} partition {first} starts at offset {late[first]}, not at 0: "
                "retention took its beginning, and facts can't be made anew from what is left"
            )
        config = replace(fold_config_of(self._settings), learn=False)
        metrics = Metrics()
        model = Model(config, self._store, metrics)
        await model.start()
        kinds = self._settings.kinds_table()
        parts = Parts(
            model=model,
            store=self._store,
            codec=EventCodec([kind.name for kind in self._settings.kinds]),
            translator=Translator(kinds, config.shape.n_tokens),
            kinds=kinds,
            announcer=Silent(),
            metrics=metrics,
            limits=Limits(
                batch_events=self._settings.max_batch_events,
                cache_profiles=max(1_000, self._settings.cache_users // len(partitions)),
                flood=None,
            ),
            now_ms=wall_clock_ms,
        )
        try:
            identity = await log_identity(self._settings.kafka, self._events)
            log = LogPosition(identity.cluster_id, identity.topic, identity.n_partitions)
            self._targets = {p: await self._live_position(p) for p in partitions}
            reader.assign(dict.fromkeys(partitions, 0))
            compared = await asyncio.gather(
                *(self._partition(parts, log, reader, partition) for partition in partitions)
            )
        finally:
            await model.stop()
        return self._report(dict(zip(partitions, compared, strict=True)))

    async def _partition(
        self, parts: Parts, log: LogPosition, reader: ManualReader, partition: int
    ) -> _Compared | None:
        """Fold one partition up to the live position and compare; None if that keeps moving."""
        fold = parts.fold_of(await self._store.acquire(partition, os.urandom(16), log), log)
        held: RawBatch | None = None
        for _ in range(ROUNDS):
            target = self._targets[partition]
            held = await self._fold_to(fold, reader, target, held)
            compared = await self._compare(partition)
            position = await self._live_position(partition)
            if position == target:
                return compared
            self._targets[partition] = position
        return None

    async def _fold_to(
        self, fold: PartitionFold, reader: ManualReader, target: int, held: RawBatch | None
    ) -> RawBatch | None:
        """Fold up to exactly `target`; returns what was read beyond it."""
        batch_events = self._settings.max_batch_events
        while fold.next_offset < target:
            raw = held or await reader.next_batch(fold.partition, batch_events)
            raw, held = cut(raw, target)
            await fold.step(raw)
            self._folded[fold.partition] = fold.next_offset
            self._on_progress(sum(self._folded.values()), sum(self._targets.values()))
        return held

    async def _compare(self, partition: int) -> _Compared:
        live, rebuilt = FactsDigest(), FactsDigest()
        config = fold_config_of(self._settings)
        folded = await self._store.read_checkpoint(partition)
        # What retention has ended may have been swept from the one and not yet from the other.
        retention = Retention(config.retention_ms, folded.watermark_ms if folded else 0)
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

    async def _live_position(self, partition: int) -> int:
        checkpoint = await self._live.read_checkpoint(partition)
        return 0 if checkpoint is None else checkpoint.next_offset

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
