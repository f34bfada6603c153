"""ProfileStore: acquire a partition, read profiles, commit a batch as one atomic step.

Owns what callers see of Redis or Valkey, standalone or cluster. Behind it: `store_keys` spells
the keys, `store_link` holds a socket, `store_topology` knows which node to ask, `store_checkpoint`
the meaning of a checkpoint, `store_commit` the fence, `store_items` the item table's snapshots,
`store_scan` what reads a whole generation. Records are bytes here. What stays true: whatever must
survive together is written together, and only by the last one who acquired the partition.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from profiles.errors import OutcomeUnknown, RecordCorrupt, StoreAway
from profiles.store_backup import Snapshots
from profiles.store_checkpoint import (
    Acquired,
    Checkpoint,
    Claim,
    CommitBatch,
    Gap,
    LogPosition,
    Outcome,
    gap_fields,
    parse_checkpoint,
    with_last,
)
from profiles.store_commit import Fence, Step, unhurried
from profiles.store_generations import Registry
from profiles.store_health import Health
from profiles.store_items import ItemSnapshots, Lineage, StoredSnapshot
from profiles.store_keys import Keys
from profiles.store_link import pack
from profiles.store_scan import FAST, MetaInfo, ServerFacts, Survey
from profiles.store_sweep import STEP_KEYS, Sweep, SweepStep
from profiles.store_topology import Pool, Topology

__all__ = [
    "Acquired",
    "Checkpoint",
    "Claim",
    "CommitBatch",
    "LogPosition",
    "MetaInfo",
    "Outcome",
    "ProfileStore",
    "ServerFacts",
    "StoreConfig",
    "StoredSnapshot",
    "with_last",
]

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0
"""Pauses between attempts double from the first to the longest: a restart takes 0.1 s to 10 s."""

MGET_KEYS = 10_000
"""Keys in one command: some 5 ms of the store's time, in which it answers nobody else."""


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Which store, and which part of it is ours.

    url: ``redis://``, ``rediss://`` or ``unix://``; several of one cluster separated by commas.
    generation, prefix: 1-64 letters, digits, ``.``, ``_`` or ``-``. partitions: of the events
    topic. fingerprint: of the settings that shape records. cluster: None asks the server.
    timeout_s: for one round trip, also for connecting.
    """

    url: str
    generation: str
    partitions: int
    prefix: str = "fs"
    fingerprint: str = ""
    cluster: bool | None = None
    timeout_s: float = 5.0


class ProfileStore:
    """The profiles of one generation.

    >>> config = StoreConfig("redis://127.0.0.1:6379/0", "g1", partitions=4)
    >>> ProfileStore(config).keys.record(2, "u 42")
    b'fs:g1:{p-3}:u:u 42'
    """

    def __init__(self, config: StoreConfig, step: Step | None = None) -> None:
        """No I/O. step: called between the steps of a commit, where tests stop it.

        Raises ValueError (generation, prefix, partitions) and StoreMismatch (url).
        """
        self.config = config
        self.keys = Keys(config.prefix, config.generation, config.partitions)
        self._topology = Topology(config.url, config.cluster, config.timeout_s)
        self._pool = Pool(self._topology)
        self._items = ItemSnapshots(self.keys, self._pool)
        self._survey = Survey(self.keys, self._topology, self._pool)
        self._sweep = Sweep(self.keys, self._topology, self._pool, config.fingerprint)
        self.health = Health(self.keys, self._topology, self._pool)
        self.snapshots = Snapshots(self._topology, self._pool)
        self.registry = Registry(self.keys, self._topology, self._pool)
        self._step = step
        self._fences: dict[int, Fence] = {}

    async def start(self) -> None:
        """Find the server or the cluster's map. Raises StoreAway, StoreMismatch."""
        await self._topology.start()

    async def close(self) -> None:
        """Close every connection, after the commits under way."""
        for partition in list(self._fences):
            await self.release(partition)
        await self._pool.close()
        await self._topology.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def acquire(
        self, partition: int, owner: bytes, log: LogPosition | None = None
    ) -> Acquired:
        """Become the only one who may commit to a partition; older claims are fenced from now on.

        owner: 16 random bytes, new for each acquire. log: kept with the first acquire only, so
        that another log is recognised even before the first commit. Reads checkpoint, seen ring
        and outbox in the same step. Raises StoreMismatch (fingerprint: nothing was changed),
        StoreAway (acquire again: harmless), StoreFull, RecordCorrupt.
        """
        if len(owner) != 16:
            raise ValueError(f"owner: {len(owner)} bytes instead of 16")
        fence = self._fence(partition)
        return await unhurried(fence.acquire(owner, self.config.fingerprint, log))

    async def release(self, partition: int) -> None:
        """Close the partition's commit connection (after a revocation); waits for a commit."""
        fence = self._fences.pop(partition, None)
        if fence is not None:
            await fence.close()

    async def read_many(self, partition: int, user_ids: Sequence[str]) -> list[bytes | None]:
        """Records in the order asked for, None for a user never seen: one round trip.

        Repeated ids are read twice. A key of a foreign type counts as never seen (MGET says so,
        and the next commit replaces it). Raises StoreAway (ask again), RecordCorrupt,
        StoreMismatch.
        """
        head = self.keys.record_head[partition]
        return await self._read(
            self.keys.slot[partition],
            [head + user_id.encode() for user_id in user_ids],
            f"profiles of partition {partition}",
        )

    async def read_across(self, wanted: Sequence[tuple[int, str]]) -> list[bytes | None]:
        """Records of (partition, user_id) pairs, in their order: one round trip, in a cluster one
        for each partition, all at the same time. Else as `read_many`."""
        if not self._topology.cluster:
            return await self._read(
                0, [self.keys.record(p, user_id) for p, user_id in wanted], "profiles"
            )
        by_partition: dict[int, list[str]] = {}
        for partition, user_id in wanted:
            by_partition.setdefault(partition, []).append(user_id)
        answers = await asyncio.gather(
            *(self.read_many(partition, ids) for partition, ids in by_partition.items()),
            return_exceptions=True,  # none goes on unseen behind another's failure
        )
        queues: dict[int, Iterator[bytes | None]] = {}
        for partition, answer in zip(by_partition, answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            queues[partition] = iter(answer)
        return [next(queues[partition]) for partition, _ in wanted]

    async def _read(self, slot: int, keys: Sequence[bytes], what: str) -> list[bytes | None]:
        """The values of keys that one node has, None where there is none."""
        if not keys:
            return []
        parts = [keys[at : at + MGET_KEYS] for at in range(0, len(keys), MGET_KEYS)]
        replies = await self._pool.ask_slot(
            slot, [pack("MGET", *part) for part in parts], len(parts), what
        )
        found: list[bytes | None] = [value for reply in replies for value in reply]
        if len(found) != len(keys):
            raise RecordCorrupt(f"{what}: {len(found)} records for {len(keys)} ids")
        return found

    async def read_checkpoint(self, partition: int) -> Checkpoint | None:
        """The partition's checkpoint; None before its first acquire. Raises StoreAway."""
        key = self.keys.checkpoint[partition]
        (flat,) = await self._pool.ask_slot(
            self.keys.slot[partition], [pack("HGETALL", key)], 1, key.decode()
        )
        return parse_checkpoint(flat, key)

    async def commit(self, claim: Claim, batch: CommitBatch) -> None:
        """One attempt to write a batch: all of it or nothing.

        Returns too when the checkpoint says that an earlier attempt was applied. Cancelled, it
        first ends (at most a few `timeout_s`), then raises CancelledError: acquire again, which
        tells what was applied. Commits of one partition must not overlap.

        Raises StoreAway (surely not applied: send it again), StoreFull (the same, for want of
        memory or disk), OutcomeUnknown (send it again, or ask `outcome`), Fenced (another worker
        has the partition), StoreWentBack (acquire again and replay), RecordCorrupt (something else
        wrote a key of the partition; nothing was applied, unless it says "torn"), ValueError
        (start >= end).
        """
        await unhurried(self._fence(claim.partition).commit(claim, batch))

    async def outcome(self, claim: Claim, start: int, end: int) -> Outcome:
        """What became of [start, end). NOT_APPLIED: send the same again, and nothing else.

        (Until something else is committed or acquired, an EXEC that is still on its way may
        apply that same batch; the WATCH in front of it refuses it afterwards.)
        Raises StoreAway.
        """
        return await unhurried(self._fence(claim.partition).outcome(claim, start, end))

    async def commit_until_known(
        self,
        claim: Claim,
        batch: CommitBatch,
        on_away: Callable[[StoreAway], None],
        give_up: asyncio.Event,
    ) -> None:
        """Commit, however long the store is away; returns once the batch is surely applied.

        on_away: told of each failed attempt (to log, to count, to turn readiness off). give_up:
        set it to stop waiting (the partition was revoked, the worker ends): it returns at once
        from a pause, else after the attempt under way. That takes as long as the store takes to
        refuse it (milliseconds while it is down, full or without quorum); where a store keeps
        silent (frozen, cut off) one `timeout_s`, in a cluster of which no node answers two.

        Raises Fenced, StoreWentBack, RecordCorrupt; after `give_up` OutcomeUnknown if any attempt
        ended in one (the batch may be applied), else the last StoreAway (it is not).
        """
        pause_s = FIRST_PAUSE_S
        unknown: OutcomeUnknown | None = None
        while True:
            try:
                await self.commit(claim, batch)
                return
            except StoreAway as error:
                away = error
            if isinstance(away, OutcomeUnknown):
                unknown = away
            on_away(away)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await give_up.wait()
            if give_up.is_set():
                raise unknown or away
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def write_item_snapshot(
        self,
        claim: Claim,
        header: bytes,
        chunks: Mapping[int, bytes],
        next_offsets: Mapping[int, int],
        n_chunks: int | None = None,
        lineage: Lineage | None = None,
    ) -> str:
        """Store the item table: changed chunks under new keys, then the manifest, fenced.

        claim: of partition 0. chunks: by number, the changed ones or all. next_offsets: by
        partition, how far the table has learned. n_chunks: of the whole table; None: as many as
        before, or more. lineage: which deltas are inside; default: it is a base of its own.
        Returns the snapshot's version. Cancelled, it first ends.

        Raises Fenced, StoreAway and StoreFull (nothing is lost: write these chunks again, or all
        of them; later changes alone would not do), StoreWentBack (the changes belong to a
        snapshot that the store no longer has: reload), SnapshotBroken (a chunk is missing).
        """
        if claim.partition != 0:
            raise ValueError(f"the item table belongs to partition 0, not {claim.partition}")
        fence = self._fence(0)
        return await unhurried(
            self._items.write(
                fence, claim, header, chunks, next_offsets, n_chunks, lineage or Lineage()
            )
        )

    async def read_item_snapshot(self) -> StoredSnapshot | None:
        """The item table as stored last; None before the first. Needs no claim.

        Raises SnapshotBroken (names the chunk and the way out), StoreAway (ask again).
        """
        return await self._items.read()

    async def item_snapshot_version(self) -> str | None:
        """Which snapshot is current: a cheap question for readers that wait for a newer one."""
        return await self._items.read_version()

    async def item_snapshot_base(self) -> tuple[str, str] | None:
        """(version, base) of the current snapshot: a process that goes back to the same base has
        the same from the deltas."""
        return await self._items.read_base()

    def iter_records(self, partition: int | None = None) -> AsyncIterator[tuple[str, bytes]]:
        """(user_id, record) of every profile of a partition, or of all; no order, each once.

        Not a snapshot in time: stop the writers to compare. Keeps about 150 bytes a user.
        Raises StoreAway while it runs: begin again.
        """
        return self._survey.iter_records(partition)

    def sweep(
        self,
        partitions: Callable[[], Collection[int]],
        retention_ms: int,
        ttl_ms: int,
        step_keys: int = STEP_KEYS,
    ) -> AsyncIterator[SweepStep]:
        """One round over the records of some partitions: those whose last event is more than
        retention_ms behind their checkpoint's watermark get a time to live.

        partitions: asked for at each step. A profile whose user comes back meanwhile stays, also
        when another worker has the partition. Raises StoreAway (begin again), StoreMismatch.
        """
        return self._sweep.round(partitions, retention_ms, ttl_ms, step_keys)

    async def drop_generation(
        self,
        generation: str,
        keys_per_s: int = FAST,
        on_removed: Callable[[int], None] = lambda n: None,
    ) -> int:
        """Remove every key of a generation, and its description; returns how many keys.

        keys_per_s: no faster than this. on_removed: told how many so far. Raises StoreMismatch for
        the live one (the generation in `<prefix>:meta`), ValueError for an impossible name,
        StoreAway (drop it again).
        """
        keys = Keys(self.config.prefix, generation, self.config.partitions)
        await self.registry.start_drop(generation)
        n_removed = await self._survey.drop(keys.everything, keys_per_s, on_removed)
        await self.registry.forget(generation)
        return n_removed

    async def step_back(self, claim: Claim, next_offset: int, gaps: Sequence[Gap]) -> None:
        """Let a partition go on from before its checkpoint: the log lost its end.

        For a person's decision only: what takes those offsets next is folded on top. gaps: all that
        were accepted. Raises as `write_item_snapshot`.
        """
        key = self.keys.checkpoint[claim.partition]
        values: list[bytes | str | int] = ["next_offset", next_offset]
        for name, value in gap_fields(gaps):
            values += [name, value]
        last = [f"log_last_{name}" for name in ("offset", "timestamp_ms", "key_hash")]
        body = [pack("HSET", key, *values), pack("HDEL", key, *last)]
        await unhurried(self._fence(claim.partition).write_fenced(claim, body, "accepted gap"))

    async def read_meta(self) -> MetaInfo | None:
        """What `<prefix>:meta` says of the live generation; None in a fresh store."""
        return (await self.registry.read()).meta

    async def server_facts(self) -> list[ServerFacts]:
        """Version, memory, eviction and persistence of each node, for `doctor`."""
        return await self._survey.server_facts()

    def _fence(self, partition: int) -> Fence:
        fence = self._fences.get(partition)
        if fence is None:
            fence = Fence(partition, self.keys, self._topology, self._step)
            self._fences[partition] = fence
        return fence
