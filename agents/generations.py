"""Generations of profiles: which settings are in force, and a worker's way into the live one.

The store says which generation is live and which settings shaped it (`profiles.store_generations`);
the settings of a process only say what a new generation is to be like. `GenerationWatch` shows that
a worker lives, and tells it when another generation was promoted or another record format is
written. What stays true: nobody folds into a generation by settings that are not its own.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
import structlog
from mode import Service

from agents.errors import SettingsError, UsageError
from agents.metrics import Metrics
from agents.settings import Settings
from agents.store_access import fingerprint_of, own_items_of
from profiles.errors import RecordTooNew, StoreAway, StoreMismatch
from profiles.shape import OWN_FORMAT, RECORD_FORMATS
from profiles.store import MetaInfo, ProfileStore
from profiles.store_generations import Generation, Standing, WorkerSign

SHAPING = ("n_factors", "history", "own_items", "seen_window", "profile_retention_s", "kinds")
"""Settings that can't change within a generation: they decide the bytes of its facts."""

UNSAID: dict[str, Any] = {"own_items": 0}
"""What a description means that does not name a setting: versions before did not have it. One that
has this value is not written either, so that they can read the description."""

WATCH_S = 2.0
"""How often a worker looks; a promotion is noticed in half of that, on average."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class RecordFormat:
    """The format in which records are written, and the newest that is read; one object for all
    partitions of a worker."""

    writes: int
    reads_to: int = RECORD_FORMATS[-1]

    def check(self, user_ids: Sequence[str], records: Sequence[bytes | None]) -> None:
        """Refuse what the setting `newest_record_format` keeps this worker from reading, as a
        version would that does not know it. Raises RecordTooNew."""
        if self.reads_to == RECORD_FORMATS[-1]:
            return  # the codec refuses what is newer
        for user_id, record in zip(user_ids, records, strict=True):
            if record and record[0] > self.reads_to:
                raise RecordTooNew(
                    f"profile {user_id!r}: format {record[0]} is newer than this worker (reads "
                    f"1-{self.reads_to}); upgrade the worker"
                )


def newest_format(settings: Settings) -> int:
    """The newest record format that this process reads and writes."""
    newest = RECORD_FORMATS[-1]
    return min(newest, settings.newest_record_format or newest)


def oldest_format(settings: Settings) -> int:
    """The oldest record format that has room for all facts of these settings (in force)."""
    return OWN_FORMAT if own_items_of(settings) else RECORD_FORMATS[0]


def shaping_of(settings: Settings) -> dict[str, Any]:
    """The settings that shape a generation, each of them."""
    shape = settings.model_dump(mode="json", include=set(SHAPING))
    return {**shape, "own_items": own_items_of(settings)}


def description_of(settings: Settings, fingerprint: str, record_format: int) -> Generation:
    """Describes the generation of these settings, as one that is complete."""
    return Generation(
        name=settings.generation,
        state="ready",
        record_format=record_format,
        fingerprint=fingerprint,
        settings={
            key: value
            for key, value in shaping_of(settings).items()
            if key not in UNSAID or value != UNSAID[key]
        },
        created_ms=time.time_ns() // 1_000_000,
    )


def shaped_like(settings: Settings, described: Mapping[str, Any], name: str) -> Settings:
    """The settings with a generation's name and shape in place of their own.

    Raises SettingsError where the description holds what this version does not know.
    """
    unknown = described.keys() - set(SHAPING)
    if unknown:
        raise SettingsError(
            f"generation {name!r} was shaped by {sorted(unknown)}, which this version does not "
            "know: upgrade it"
        )
    values = settings.model_dump(exclude_unset=True)
    return Settings.model_validate({**values, **UNSAID, **described, "generation": name})


def in_force(settings: Settings, standing: Standing, *, named: bool) -> Settings:
    """The settings to read a generation with.

    named: take the generation that was given, if one was; else, and always for a worker, the live
    one. An undescribed one is taken by the settings as they are. Raises UsageError for a name that
    isn't there.
    """
    if standing.meta is None:
        return settings
    name = standing.meta.generation
    if named and "generation" in settings.model_fields_set:
        name = settings.generation
    chosen = standing.generations.get(name)
    if chosen is not None:
        return shaped_like(settings, chosen.settings, name)
    if name != standing.meta.generation:
        there = ", ".join(sorted(standing.generations)) or standing.meta.generation
        raise UsageError(f"no generation {name!r} in the store; there is {there}")
    return settings.model_copy(update={**UNSAID, "generation": name})


async def read_settings(settings: Settings, store: ProfileStore) -> Settings:
    """`in_force` for a command that reads: the generation given, else the live one."""
    return in_force(settings, await store.registry.read(), named=True)


def differing(settings: Settings, described: Mapping[str, Any]) -> dict[str, Any]:
    """Shaping settings that were given (not left at their default) and differ from these."""
    own, theirs = shaping_of(settings), {**UNSAID, **described}
    return {
        key: own[key]
        for key in SHAPING
        if key in settings.model_fields_set and key in theirs and own[key] != theirs[key]
    }


def check_wishes(settings: Settings, standing: Standing) -> None:
    """Refuse a worker whose settings ask for what no generation is; warn of an old generation's.

    After a promotion the configuration may still name what shaped the generation before: no reason
    to stand still. Raises SettingsError with both ways out.
    """
    live = standing.live
    if live is None:
        return
    given = differing(settings, live.settings)
    if not given:
        return
    theirs = {key: {**UNSAID, **live.settings}[key] for key in given}
    if any(
        not differing(settings, other.settings)
        for other in standing.generations.values()
        if other.name != live.name
    ):
        logger.warning(
            "settings of another generation are not in force: change them, or leave them out",
            given=given,
            in_force=theirs,
            generation=live.name,
        )
        return
    told = ", ".join(f"{key} = {value!r}" for key, value in given.items())
    there = ", ".join(f"{key} = {value!r}" for key, value in theirs.items())
    raise SettingsError(
        f"settings say {told}; the live generation {live.name!r} was made with {there}, and that "
        "can't change within a generation. Set them back or leave them out; or make a new "
        "generation: foldstream rebuild --into NAME, then foldstream promote NAME"
    )


async def join(settings: Settings, store: ProfileStore) -> Settings:
    """Before a worker starts: begin an empty store, or take the live generation's settings.

    store: of any generation. Raises StoreMismatch (another prefix or partition count; records newer
    than this worker; shaped otherwise), SettingsError, StoreAway.
    """
    newest = newest_format(settings)
    meta = MetaInfo(settings.generation, settings.store_prefix, settings.partitions, newest)
    standing = await store.registry.read()
    if standing.live is None:  # nothing there, or made by a version before descriptions
        record_format = newest
        name, first = settings.generation, settings
        if standing.meta is not None:
            record_format, name = standing.meta.record_format, standing.meta.generation
            if name != store.config.generation:
                raise SettingsError(
                    f"the live generation is {name!r}, made by a version that did not describe it: "
                    f"set generation = {name!r} for one start"
                )
            first = settings.model_copy(update={**UNSAID, "generation": name})
            await _check_shape(first, store)
        described = description_of(first, fingerprint_of(first), record_format)
        standing = await store.registry.begin(meta, described)
    else:
        standing = await store.registry.begin(meta, standing.live)  # checks
    assert standing.meta is not None
    if standing.meta.record_format > newest:
        raise StoreMismatch(
            f"{store.keys.meta.decode()}: record_format is {standing.meta.record_format}, newer "
            f"than this worker (reads 1-{newest}); upgrade the worker"
        )
    check_wishes(settings, standing)
    name = standing.meta.generation
    if "generation" in settings.model_fields_set and settings.generation != name:
        logger.warning(
            "the live generation is another than the setting's, which only names the first one",
            live=name,
            setting=settings.generation,
        )
    return in_force(settings, standing, named=False)


async def _check_shape(settings: Settings, store: ProfileStore) -> None:
    """May these settings describe a generation that nobody has described?"""
    fingerprint = fingerprint_of(settings)
    for partition in range(settings.partitions):
        checkpoint = await store.read_checkpoint(partition)
        if checkpoint is not None and checkpoint.fingerprint not in ("", fingerprint):
            raise StoreMismatch(
                f"generation {store.config.generation!r}: fingerprint {checkpoint.fingerprint!r} "
                f"in its checkpoints, {fingerprint!r} by this worker's settings: one of "
                f"{', '.join(SHAPING)} differs; set it back"
            )


class GenerationWatch(Service):
    """A worker's sign of life, and its eye on what is live."""

    def __init__(
        self,
        settings: Settings,
        store: ProfileStore,
        name: str,
        record_format: RecordFormat,
        metrics: Metrics,
    ) -> None:
        """settings: in force. name: of this worker in its group."""
        super().__init__()
        self.promoted: str | None = None
        self.on_promoted: Callable[[], None] | None = None
        self._settings = settings
        self._store = store
        self._format = record_format
        self._metrics = metrics
        self._sign = WorkerSign(
            name=name,
            version=version("foldstream"),
            reads_to=newest_format(settings),
            writes=record_format.writes,
            generation=settings.generation,
            agents=list(settings.agents),
            pid=os.getpid(),
            host=socket.gethostname(),
            started_ms=time.time_ns() // 1_000_000,
        )

    async def on_start(self) -> None:
        """Before the first event is folded, know the format to write it in."""
        try:
            meta = (await self._store.registry.read()).meta
            self._take_format(meta)
        except StoreAway as away:
            logger.warning("record format not read yet", reason=str(away))

    async def on_stop(self) -> None:
        try:
            await self._store.registry.sign_off(self._sign.name)
        except StoreAway as away:  # then it is forgotten by itself
            logger.info("not signed off", reason=str(away))

    @Service.task
    async def _look_regularly(self) -> None:
        while not self.should_stop:
            try:
                await self.look()
            except (StoreAway, StoreMismatch) as error:
                logger.warning("cannot see which generation is live", reason=str(error))
            await self.sleep(WATCH_S)

    async def look(self) -> None:
        """Look once. Raises StoreAway, StoreMismatch."""
        await self._store.registry.sign(self._signed())
        meta = (await self._store.registry.read()).meta
        if meta is None or self.promoted is not None:  # an emptied store: the updater notices
            return
        if meta.generation != self._settings.generation:
            self.promoted = meta.generation
            logger.info("another generation was promoted", live=meta.generation)
            if self.on_promoted is not None:
                self.on_promoted()
            return
        self._take_format(meta)

    def _take_format(self, meta: MetaInfo | None) -> None:
        if meta is None or meta.generation != self._settings.generation:
            return
        writes = min(meta.record_format, self._format.reads_to)
        if writes != self._format.writes:
            logger.info("record format", before=self._format.writes, now=writes)
            self._format.writes = writes
        self._metrics.record_format.set(writes)

    def _signed(self) -> WorkerSign:
        return msgspec.structs.replace(self._sign, writes=self._format.writes)
