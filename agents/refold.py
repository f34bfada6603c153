"""Folds the log into a generation beside the live one, without the group.

`Refold` owns a reader, an item table and one `PartitionFold` for each partition, all of one target
generation; the same code as in the worker, only nobody is told, and dead letters stay where they
are: the live fold has announced and set aside. A check leaves vectors alone (facts don't depend on
them). What stays true: the target's checkpoints make a run that was killed go on where it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mode import Service

from agents.catalogue import Catalogue
from agents.describer import Describer
from agents.errors import UsageError
from agents.generations import RecordFormat, newest_format
from agents.log_check import LogCheck, all_of
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import Limits, PartitionFold
from agents.settings import Settings
from agents.store_access import fold_config_of
from agents.translate import Translator
from agents.updater import Parts, wall_clock_ms
from profiles.store import LogPosition, ProfileStore
from streams.batch import Reject
from streams.codec import EventCodec
from streams.errors import OffsetGap
from streams.log_identity import LogIdentity, log_identity
from streams.manual_reader import ManualReader


class Silent:
    """Tells nobody: the live fold has announced these events, and set these messages aside."""

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        """Nothing to do."""

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        """Nothing to do."""


class Refold:
    """One generation's fold of the whole log; a context manager once its store is open."""

    def __init__(
        self, settings: Settings, store: ProfileStore, *, learn: bool, record_format: int = 0
    ) -> None:
        """settings: in force for the target. store: of the target. record_format: 0: the newest."""
        self.settings = settings
        self.partitions = range(settings.partitions)
        self.folds: dict[int, PartitionFold] = {}
        self.metrics = Metrics()
        self.reader = ManualReader(settings.kafka, settings.topics().events.name)
        config = replace(fold_config_of(settings), learn=learn)
        self.model = Model(config, store, self.metrics)
        # Facts don't depend on what the catalogue says: a check does without it.
        self._told: list[Service] = [self.model]
        if learn:
            catalogue = Catalogue(settings.kafka, settings.topics().items.name, self.metrics)
            self._told = [catalogue, self.model, Describer(catalogue, self.model)]
        self.log: LogIdentity
        self._store = store
        kinds = settings.kinds_table()
        self._parts = Parts(
            model=self.model,
            store=store,
            codec=EventCodec([kind.name for kind in settings.kinds]),
            translator=Translator(kinds, config.shape.n_tokens),
            kinds=kinds,
            announcer=Silent(),
            metrics=self.metrics,
            limits=Limits(
                batch_events=settings.max_batch_events,
                cache_profiles=max(1_000, settings.cache_users // settings.partitions),
                flood=None,
            ),
            now_ms=wall_clock_ms,
            record_format=RecordFormat(record_format or newest_format(settings)),
        )
        self._check = LogCheck(self.reader, self._parts.codec, config.n_seen_slots)

    async def __aenter__(self) -> Refold:
        self.log = await log_identity(self.settings.kafka, self.settings.topics().events.name)
        if self.log.n_partitions != self.settings.partitions:
            raise UsageError(
                f"{self.log.topic} has {self.log.n_partitions} partitions, settings say "
                f"{self.settings.partitions}"
            )
        try:
            await self.reader.start()
            for service in self._told:
                await service.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.reader.stop()
        for service in reversed(self._told):
            await service.stop()

    async def acquire(
        self, accepted: dict[int, tuple[int, int]] | None = None, *, accept_gap: bool = False
    ) -> None:
        """Take every partition of the target, at its checkpoint; then read on from there.

        accepted: by partition, a gap that is known to be accepted. accept_gap: accept any. Raises
        OffsetGap (names every partition's), LogMismatch, StoreMismatch, StoreAway, BrokerAway.
        """
        here = LogPosition(self.log.cluster_id, self.log.topic, self.log.n_partitions)
        gaps: list[OffsetGap] = []
        for partition in self.partitions:
            acquired = await self._store.acquire(partition, os.urandom(16), here)
            found = await self._check.check(partition, acquired, self.log)
            fold = self._parts.fold_of(acquired, found.position)
            known = (accepted or {}).get(partition)
            if known is not None and fold.next_offset == known[0]:
                await fold.skip(known[1])
            elif found.gap is not None:
                if not accept_gap or found.gap.gap is None or found.gap.gap[0] < fold.next_offset:
                    gaps.append(found.gap)
                    continue
                await fold.skip(found.gap.gap[1])
            self.folds[partition] = fold
            self.model.reconcile(partition, fold.next_offset)
        if gaps:
            raise all_of(gaps)
        self.reader.assign({p: fold.next_offset for p, fold in self.folds.items()})

    def positions(self) -> dict[int, int]:
        """How far each partition is committed."""
        return {partition: fold.next_offset for partition, fold in self.folds.items()}

    async def finish(self, partitions: Iterable[int]) -> None:
        """Let go of what was announced to nobody."""
        for partition in partitions:
            await self.folds[partition].finish()
