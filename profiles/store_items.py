"""Snapshots of the item table in the store: chunks first, the manifest last.

Owns the versions of chunks and what the manifest says; header and chunks are bytes here. What
stays true: a manifest names only chunks that were written before it, with their checksums; it is
switched under the fence of partition 0; and a reader that meets a switch reads again. Chunks lie
on all nodes of a cluster, and a replica that takes over may lack what its master wrote last: so
the snapshots replaced within `KEEP_S` are kept, and a reader goes back to the newest one that is
whole.

The manifest is a hash in partition 0's slot: ``version``, ``header``, ``n_chunks``, ``chunks``
(JSON: a list of [version, xxh3_64 in hex], by chunk number), ``next_offsets`` (JSON: partition to
offset), ``lineage`` (JSON: what others' deltas it holds, see `Lineage`), ``pending`` (JSON:
keys just written or replaced; what the manifest does not name of them is removed with the next
snapshot at the latest), ``kept`` (JSON: replaced snapshots, newest first, each [version, ms when it
was replaced, chunks]), and for each of those ``kept:<version>`` (MessagePack: header, next_offsets,
lineage).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import xxhash

from profiles.errors import SnapshotBroken, StoreAway, StoreWentBack
from profiles.store_checkpoint import Claim
from profiles.store_commit import Fence
from profiles.store_keys import Keys, key_slot
from profiles.store_link import pack
from profiles.store_topology import Pool

N_TRIES = 5
"""Only a reader slower than the snapshots' interval meets a switch; never five in a row."""

KEEP_S = 60.0
"""How long a replaced snapshot is kept: more than a replica is behind when it takes over."""

MOST_KEPT = 8
"""Replaced snapshots at most, however short their interval."""

FIELDS = ("version", "header", "chunks", "next_offsets", "pending", "lineage", "kept")


class Lineage(msgspec.Struct, frozen=True):
    """Which deltas a snapshot holds, so that nothing is added twice.

    base: version of the last snapshot with learning that was in no delta; "": an empty table.
    None: of this one itself. This snapshot is that one and the deltas since. included: by sender,
    the number of its last delta inside. next_offset: where to read on in `item-deltas`; None: not
    known, from the beginning.
    """

    base: str | None = None
    included: dict[str, int] = {}
    next_offset: int | None = None


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """The item table as stored.

    header: bytes of `ItemSnapshot`. chunks: all of them, by number from 0. next_offsets: by
    partition, how far the learning inside has come. version: changes with every snapshot.
    lineage: its base is never None here. older_because: what is wrong with the newest one, when
    this is one before it.
    """

    header: bytes
    chunks: dict[int, bytes]
    next_offsets: dict[int, int]
    version: str
    lineage: Lineage = field(default_factory=Lineage)
    older_because: str = ""


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A replaced snapshot as the manifest names it."""

    version: str
    replaced_ms: int
    chunks: list[tuple[str, str]]


class _KeptRest(msgspec.Struct, frozen=True, array_like=True):
    """The rest of it, which only a reader needs who goes back to it."""

    header: bytes
    next_offsets: dict[int, int]
    lineage: Lineage


@dataclass(frozen=True, slots=True)
class _Manifest:
    version: str
    header: bytes
    chunks: list[tuple[str, str]]
    next_offsets: dict[int, int]
    pending: list[str]
    lineage: Lineage
    kept: list[_Kept]


class ItemSnapshots:
    """Reads and writes the snapshots of one generation."""

    def __init__(self, keys: Keys, pool: Pool) -> None:
        self._keys = keys
        self._pool = pool
        self._standing: str | None = None  # version this process read or wrote last
        self._attempted: str | None = None  # version whose manifest was sent, perhaps in vain
        self._n_written = 0

    async def read(self) -> StoredSnapshot | None:
        """The current snapshot, or the newest before it that is whole; None before the first one.

        Raises SnapshotBroken (none has all its chunks as they were written), StoreAway.
        """
        broken: SnapshotBroken | None = None
        tried: str | None = None
        for _ in range(N_TRIES):
            manifest = await self._manifest()
            if manifest is None:
                self._standing = None
                return None
            if broken is not None and manifest.version == tried:
                return await self._read_kept(manifest, broken)
            tried = manifest.version
            try:
                chunks = await self._chunks(manifest.chunks)
            except SnapshotBroken as error:
                broken = error  # or the manifest was switched meanwhile: read it again
                continue
            self._standing = tried
            return StoredSnapshot(
                manifest.header, chunks, manifest.next_offsets, tried, manifest.lineage
            )
        assert broken is not None
        raise StoreAway(f"items: every try met a newer snapshot ({broken})")

    async def _read_kept(self, manifest: _Manifest, broken: SnapshotBroken) -> StoredSnapshot:
        """The newest whole one of the replaced snapshots. Raises `broken` when none is."""
        for kept in manifest.kept:
            key = self._keys.manifest
            (rest,) = await self._pool.ask_slot(
                self._keys.slot[0], [pack("HGET", key, _field(kept))], 1, key.decode()
            )
            if rest is None:
                continue
            try:
                chunks = await self._chunks(kept.chunks)
                found = msgspec.msgpack.decode(rest, type=_KeptRest)
            except (SnapshotBroken, msgspec.MsgspecError):
                continue
            self._standing = kept.version  # not the current one: the next write must be whole
            return StoredSnapshot(
                found.header, chunks, found.next_offsets, kept.version, found.lineage, str(broken)
            )
        raise broken

    async def read_version(self) -> str | None:
        """The current snapshot's version, for readers that wait for a new one."""
        manifest = await self._manifest()
        return None if manifest is None else manifest.version

    async def read_base(self) -> tuple[str, str] | None:
        """(version, base of its lineage) of the current snapshot."""
        manifest = await self._manifest()
        return None if manifest is None else (manifest.version, manifest.lineage.base or "")

    async def write(
        self,
        fence: Fence,
        claim: Claim,
        header: bytes,
        chunks: Mapping[int, bytes],
        next_offsets: Mapping[int, int],
        n_chunks: int | None,
        lineage: Lineage,
    ) -> str:
        """Write changed chunks and switch the manifest; see `ProfileStore`."""
        old = await self._manifest()
        kept = [] if old is None else old.chunks
        if n_chunks is None:
            n_chunks = max([len(kept), *(number + 1 for number in chunks)])
        if old is not None and old.version == self._attempted:
            self._standing = self._attempted  # the answer was lost, the switch was not
        whole = all(number in chunks for number in range(n_chunks))
        if not whole and (old is None or old.version != self._standing):
            found = "none" if old is None else old.version
            raise StoreWentBack(
                f"items: {len(chunks)} of {n_chunks} chunks belong to snapshot {self._standing}, "
                f"the store has {found}: reload the item table, or write all chunks"
            )
        # Unique for ever: a fenced writer's chunks never overwrite those of its successor.
        self._n_written += 1
        version = f"{claim.epoch}-{claim.owner[:6].hex()}-{self._n_written}"
        entries: list[tuple[str, str]] = []
        for number in range(n_chunks):
            if number in chunks:
                entries.append((version, xxhash.xxh3_64_hexdigest(chunks[number])))
            elif number < len(kept):
                entries.append(kept[number])
            else:
                raise SnapshotBroken(f"items: chunk {number} of {n_chunks} was never written")
        written = {number: self._keys.chunk(number, version) for number in chunks}
        pending = [key.decode() for key in written.values()]
        if old is not None:
            pending = [*old.pending, *pending]
        await self._switch(fence, claim, "pending", _json(pending))
        for number, key in written.items():
            await self._pool.ask_slot(
                key_slot(key), [pack("SET", key, chunks[number])], 1, f"item chunk {number}"
            )
        keep, drop = _aged(old)
        named = self._named(entries, *(snapshot.chunks for snapshot in keep))
        gone = self._named(kept, *(snapshot.chunks for snapshot in drop))
        gone = (gone | {key.encode() for key in pending}) - named
        rest: list[bytes | str] = []
        if old is not None and keep and keep[0].version == old.version:
            content = _KeptRest(old.header, old.next_offsets, old.lineage)
            rest = [_field(keep[0]), msgspec.msgpack.encode(content)]
        self._attempted = version
        await self._switch(
            fence,
            claim,
            *("version", version, "header", header, "n_chunks", n_chunks),
            # Still pending: a crash right here leaves them to the next snapshot.
            *("chunks", _json(entries), "pending", _json(sorted(key.decode() for key in gone))),
            *("next_offsets", _json({str(p): n for p, n in next_offsets.items()})),
            *("lineage", _json(lineage), "kept", _json(keep), *rest),
            without=[_field(snapshot) for snapshot in drop],
        )
        self._standing = version
        for key in gone:
            await self._pool.ask_slot(key_slot(key), [pack("UNLINK", key)], 1, "old item chunk")
        return version

    async def _switch(
        self,
        fence: Fence,
        claim: Claim,
        *fields: bytes | str | int,
        without: Sequence[str] = (),
    ) -> None:
        commands = [pack("HSET", self._keys.manifest, *fields)]
        if without:
            commands.append(pack("HDEL", self._keys.manifest, *without))
        await fence.write_fenced(claim, commands, "items manifest")

    def _named(self, *lists: list[tuple[str, str]]) -> set[bytes]:
        """The keys of chunks."""
        return {
            self._keys.chunk(number, version)
            for entries in lists
            for number, (version, _) in enumerate(entries)
        }

    async def _chunks(self, entries: list[tuple[str, str]]) -> dict[int, bytes]:
        """Raises SnapshotBroken."""
        return {number: await self._chunk(number, *entry) for number, entry in enumerate(entries)}

    async def _chunk(self, number: int, version: str, checksum: str) -> bytes:
        key = self._keys.chunk(number, version)
        (data,) = await self._pool.ask_slot(
            key_slot(key), [pack("GET", key)], 1, f"item chunk {number}"
        )
        if data is None or xxhash.xxh3_64_hexdigest(data) != checksum:
            state = "missing" if data is None else "altered"
            raise SnapshotBroken(
                f"items: chunk {number} ({key.decode()}) is {state}; delete "
                f"{self._keys.manifest.decode()} to learn the items anew"
            )
        chunk: bytes = data
        return chunk

    async def _manifest(self) -> _Manifest | None:
        key = self._keys.manifest
        (values,) = await self._pool.ask_slot(
            self._keys.slot[0], [pack("HMGET", key, *FIELDS)], 1, key.decode()
        )
        fields = {name: v for name, v in zip(FIELDS, values, strict=True) if v is not None}
        if "version" not in fields:
            return None
        try:
            version = fields["version"].decode()
            lineage = msgspec.json.decode(fields.get("lineage", b"{}"), type=Lineage)
            if lineage.base is None:
                lineage = msgspec.structs.replace(lineage, base=version)
            return _Manifest(
                version=version,
                header=fields["header"],
                chunks=msgspec.json.decode(fields["chunks"], type=list[tuple[str, str]]),
                next_offsets=msgspec.json.decode(fields["next_offsets"], type=dict[int, int]),
                pending=msgspec.json.decode(fields["pending"], type=list[str]),
                lineage=lineage,
                kept=msgspec.json.decode(fields.get("kept", b"[]"), type=list[_Kept]),
            )
        except (KeyError, msgspec.MsgspecError) as error:
            raise SnapshotBroken(f"items: {key.decode()}: {error!r}") from error


def _aged(old: _Manifest | None) -> tuple[list[_Kept], list[_Kept]]:
    """What is kept of the snapshots before the one that is being written, and what is not."""
    if old is None:
        return [], []
    now_ms = time.time_ns() // 1_000_000
    before = [_Kept(old.version, now_ms, old.chunks), *old.kept]
    young = [s for s in before[:MOST_KEPT] if now_ms - s.replaced_ms < KEEP_S * 1_000]
    return young, [snapshot for snapshot in before if snapshot not in young]


def _field(snapshot: _Kept) -> str:
    return f"kept:{snapshot.version}"


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)
