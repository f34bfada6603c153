"""Which generations there are, which one is live, and which workers serve.

Owns `<prefix>:meta` (the live generation's facts, and a description of every generation) and
`<prefix>:workers` (each worker's last sign of life, by the store's clock). Leaves the keys of a
generation to the others. What stays true: which generation is live changes in one step, and only
from what was read to what was decided by it; readers in any language need only the plain fields.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from redis.exceptions import ResponseError

from profiles.errors import StoreAway, StoreMismatch
from profiles.store_keys import Keys, key_slot, partition_tags
from profiles.store_link import is_elsewhere, pack, store_error
from profiles.store_scan import MetaInfo
from profiles.store_topology import Pool, Topology

SILENT_S = 20.0
"""A worker that gave no sign of life for so long counts as gone; it gives one every two seconds."""

FORGET_S = 24 * 3600
"""After so long its entry is removed."""

TRIES = 5
"""Somebody else changed the meta meanwhile: once or twice in the life of an installation."""

_FIELD = "generation:"


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of profiles.

    state: ``building`` until a rebuild has come up to the log, then ``ready``; ``dropping`` while
    its keys are removed. settings: those that shape its records, by name, for
    whoever folds or reads it. created_ms: since 1970, by the clock of who made it.
    """

    name: str
    state: Literal["building", "ready", "dropping"]
    record_format: int
    fingerprint: str
    settings: dict[str, Any]
    created_ms: int


class WorkerSign(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker says of itself. reads_to: newest record format it can read; beat_ms: when it
    said so, by the store's clock."""

    name: str
    version: str
    reads_to: int
    writes: int
    generation: str
    agents: list[str]
    pid: int
    host: str
    started_ms: int
    beat_ms: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """All that `<prefix>:meta` says; meta is None in a store that no worker has used."""

    meta: MetaInfo | None
    generations: Mapping[str, Generation]

    @property
    def live(self) -> Generation | None:
        """The live generation; None too where a version before descriptions made it."""
        return None if self.meta is None else self.generations.get(self.meta.generation)


class Registry:
    """Reads and changes `<prefix>:meta` and `<prefix>:workers`."""

    def __init__(self, keys: Keys, topology: Topology, pool: Pool) -> None:
        self._key = keys.meta
        self._slot = key_slot(keys.meta)
        self._workers = keys.workers
        self._topology = topology
        self._pool = pool

    async def read(self) -> Standing:
        """What stands there now. Raises StoreAway, StoreMismatch (something else wrote it)."""
        payload = [pack("HGETALL", self._key)]
        (flat,) = await self._pool.ask_slot(self._slot, payload, 1, self._key.decode())
        return self._parse(flat)

    async def begin(self, meta: MetaInfo, described: Generation) -> Standing:
        """Write both where nothing is; else check what is there, and describe an undescribed
        generation, if it is this one.

        Raises StoreMismatch (names key, value and remedy) for another prefix or partition count.
        """

        def decide(found: Standing) -> list[bytes]:
            if found.meta is None:
                values = (
                    *("generation", meta.generation, "prefix", meta.prefix),
                    *("n_partitions", meta.n_partitions, "record_format", meta.record_format),
                    *("tags", ",".join(partition_tags(meta.n_partitions))),
                )
                return [pack("HSET", self._key, *values, *_described(described))]
            for name in ("prefix", "n_partitions"):
                there, wanted = getattr(found.meta, name), getattr(meta, name)
                if there != wanted:
                    raise StoreMismatch(
                        f"{self._key.decode()}: {name} is {there!r} in the store, {wanted!r} in "
                        f"this worker's settings; set it to {there!r}, or use another prefix or an "
                        "empty store"
                    )
            if found.live is None and found.meta.generation == described.name:
                return [pack("HSET", self._key, *_described(described))]
            return []

        return await self.change(decide)

    async def change(self, decide: Callable[[Standing], list[bytes]]) -> Standing:
        """Apply what `decide` makes of what stands there, if nobody changes it meanwhile.

        decide: returns packed commands on the meta key, none to leave it; may be called again.
        Returns what stands there afterwards. Raises StoreAway and what `decide` raises.
        """
        watch = [pack("WATCH", self._key), pack("HGETALL", self._key)]
        for _ in range(TRIES):
            link = await self._topology.open(await self._topology.locate(self._slot))
            try:
                replies = await link.ask(watch, 2)
                refused = _first_error(replies)
                if refused is None:
                    body = decide(self._parse(replies[1]))
                    if not body:
                        return self._parse(replies[1])
                    payload = [pack("MULTI"), *body, pack("EXEC")]
                    replies = await link.ask(payload, len(payload))
                    refused = _first_error(replies)
            finally:
                await link.drop()
            if refused is not None:
                if not is_elsewhere(refused):
                    raise store_error(refused, self._key.decode())
                await self._topology.follow(refused)
            elif replies[-1] is not None:
                return await self.read()
        raise StoreAway(f"{self._key.decode()} keeps changing")

    async def describe(self, generation: Generation) -> Standing:
        """Write one generation's description, new or changed; never of one that is dropping."""

        def decide(found: Standing) -> list[bytes]:
            there = found.generations.get(generation.name)
            if there is not None and there.state == "dropping":
                raise StoreMismatch(
                    f"generation {generation.name!r} is being dropped: `foldstream drop "
                    f"{generation.name}` again ends that, then the name is free"
                )
            return [pack("HSET", self._key, *_described(generation))]

        return await self.change(decide)

    async def promote(self, name: str) -> Standing:
        """Make a generation that is described the live one, in one step.

        Raises StoreMismatch for one that isn't there or isn't ready.
        """

        def decide(found: Standing) -> list[bytes]:
            chosen = found.generations.get(name)
            if found.meta is None or chosen is None:
                raise StoreMismatch(f"no generation {name!r}: `foldstream generations` lists them")
            if chosen.state != "ready":
                raise StoreMismatch(f"generation {name!r} is {chosen.state}, not ready")
            values = ("generation", name, "record_format", chosen.record_format)
            return [pack("HSET", self._key, *values)]

        return await self.change(decide)

    async def set_format(self, record_format: int) -> Standing:
        """Let the live generation's records be written in another format from now on."""

        def decide(found: Standing) -> list[bytes]:
            if found.meta is None or found.live is None:
                raise StoreMismatch("no worker of this version has used the store yet")
            raised = msgspec.structs.replace(found.live, record_format=record_format)
            return [
                pack("HSET", self._key, "record_format", record_format, *_described(raised)),
            ]

        return await self.change(decide)

    async def start_drop(self, name: str) -> None:
        """From now on nobody can promote it. Raises StoreMismatch for the live one."""

        def decide(found: Standing) -> list[bytes]:
            if found.meta is not None and found.meta.generation == name:
                raise StoreMismatch(
                    f"generation {name!r} is live in {self._key.decode()}: promote another first"
                )
            there = found.generations.get(name)
            if there is None or there.state == "dropping":
                return []
            gone = msgspec.structs.replace(there, state="dropping")
            return [pack("HSET", self._key, *_described(gone))]

        await self.change(decide)

    async def forget(self, name: str) -> None:
        """Remove the description of a generation whose keys are gone."""
        await self._pool.ask_slot(
            self._slot, [pack("HDEL", self._key, _FIELD + name)], 1, self._key.decode()
        )

    async def sign(self, worker: WorkerSign) -> None:
        """A worker's sign of life. Raises StoreAway, StoreFull."""
        signed = msgspec.structs.replace(worker, beat_ms=await self._store_ms())
        await self._pool.ask_slot(
            key_slot(self._workers),
            [pack("HSET", self._workers, worker.name, msgspec.json.encode(signed))],
            1,
            self._workers.decode(),
        )

    async def sign_off(self, name: str) -> None:
        """A worker that stops in order."""
        command = pack("HDEL", self._workers, name)
        await self._pool.ask_slot(key_slot(self._workers), [command], 1, self._workers.decode())

    async def workers(self) -> list[WorkerSign]:
        """Who gave a sign of life lately, by name; entries a day old are removed."""
        slot, what = key_slot(self._workers), self._workers.decode()
        (flat,) = await self._pool.ask_slot(slot, [pack("HGETALL", self._workers)], 1, what)
        now_ms = await self._store_ms()
        alive, gone = [], []
        for field, value in zip(flat[::2], flat[1::2], strict=True):
            try:
                found = msgspec.json.decode(value, type=WorkerSign)
            except msgspec.MsgspecError as error:
                raise StoreMismatch(f"{what}: {field!r}: {error}; something else wrote it") from (
                    error
                )
            if found.beat_ms > now_ms - SILENT_S * 1_000:
                alive.append(found)
            elif found.beat_ms < now_ms - FORGET_S * 1_000:
                gone.append(field)
        if gone:
            await self._pool.ask_slot(slot, [pack("HDEL", self._workers, *gone)], 1, what)
        return sorted(alive, key=lambda worker: worker.name)

    async def _store_ms(self) -> int:
        """Milliseconds since 1970 by the clock of the node that has the workers' key."""
        ((seconds, micros),) = await self._pool.ask_slot(
            key_slot(self._workers), [pack("TIME")], 1, "TIME"
        )
        return int(seconds) * 1_000 + int(micros) // 1_000

    def _parse(self, flat: list[bytes]) -> Standing:
        fields = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}
        if not fields:
            return Standing(None, {})
        try:
            generations = {
                name.removeprefix(_FIELD): msgspec.json.decode(value, type=Generation)
                for name, value in fields.items()
                if name.startswith(_FIELD)
            }
            if "generation" not in fields:  # a rebuild came before the first worker
                return Standing(None, generations)
            return Standing(
                MetaInfo(
                    fields["generation"].decode(),
                    fields["prefix"].decode(),
                    int(fields["n_partitions"]),
                    int(fields["record_format"]),
                ),
                generations,
            )
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise StoreMismatch(
                f"{self._key.decode()}: {error!r}; something else wrote it"
            ) from error


def _described(generation: Generation) -> tuple[str, bytes]:
    return _FIELD + generation.name, msgspec.json.encode(generation)


def _first_error(replies: list[Any]) -> ResponseError | None:
    return next((reply for reply in replies if isinstance(reply, ResponseError)), None)
