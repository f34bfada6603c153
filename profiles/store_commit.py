"""The fenced commit: one partition's connection, its WATCH and its one MULTI.

Owns what a commit is made of and the table that says what became of one; `store.py` wraps it for
callers. What stays true: nothing is written unless the checkpoint, at the moment of EXEC, is
exactly what it was when it was last read, named this claim and stood at the batch's start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

import msgspec
from redis.exceptions import ResponseError

from profiles.errors import (
    Fenced,
    OutcomeUnknown,
    ProfilesError,
    RecordCorrupt,
    StoreAway,
    StoreFull,
    StoreMismatch,
    StoreWentBack,
)
from profiles.store_keys import Keys
from profiles.store_link import Link, Topology, pack, store_error

T = TypeVar("T")

Step = Callable[[str], Awaitable[None]]
"""Called between the steps of a commit ("watched", "sending", "answered"): where tests stop it."""

MULTI, EXEC = pack("MULTI"), pack("EXEC")


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Which log was folded, and its last folded record, to recognise another log at the seek.

    last_*: None before the first record. last_key_hash: 64 bits, made by the caller.
    """

    cluster_id: str
    topic: str
    n_partitions: int
    last_offset: int | None = None
    last_timestamp_ms: int | None = None
    last_key_hash: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the store says about one partition.

    next_offset: 0 before the first commit. epoch: counts the acquires. owner: 16 bytes of the
    last one. watermark_ms: largest event time folded, 0 before the first. fingerprint: of the
    settings that shape records. log: None when nobody has told yet.
    """

    next_offset: int
    epoch: int
    owner: bytes
    watermark_ms: int
    fingerprint: str
    log: LogPosition | None


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to commit to one partition, until somebody else acquires it."""

    partition: int
    epoch: int
    owner: bytes


@dataclass(frozen=True, slots=True)
class Acquired:
    """What an acquire gives.

    claim: for the commits. checkpoint: as it stands now; None when no one ever committed nor
    named a log here (next_offset counts as 0). seen: the ring's bytes, empty at first, maybe
    shorter than the ring. outbox: what must be announced again.
    """

    claim: Claim
    checkpoint: Checkpoint | None
    seen: bytes
    outbox: list[bytes]

    @property
    def next_offset(self) -> int:
        """Where to seek."""
        return 0 if self.checkpoint is None else self.checkpoint.next_offset


@dataclass(frozen=True, slots=True)
class CommitBatch:
    """All that the batch [start, end) changes.

    records: (user_id, bytes), each user once. seen: (byte position, bytes) for the ring.
    outbox: replaces the previous one. log: with the last record folded so far.
    """

    start: int
    end: int
    records: Sequence[tuple[str, bytes]]
    seen: Sequence[tuple[int, bytes]]
    outbox: Sequence[bytes]
    watermark_ms: int
    log: LogPosition


class Outcome(Enum):
    """What became of a batch, by the checkpoint."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"
    WENT_BACK = "the store went back"
    FENCED = "fenced"


Row = tuple[int, bytes, int]
"""epoch, owner, next_offset as last read; 0, b"", 0 where the store has nothing."""


def decide(row: Row, claim: Claim, start: int, end: int) -> Outcome:
    """What became of [start, end), by the checkpoint (the table of the design, section 4).

    Mine means epoch and owner. A smaller epoch than mine can only be a store that lost my
    acquire. Raises StoreMismatch for a position that no commit of this claim can have written.

    >>> decide((3, b"me", 7), Claim(0, 3, b"me"), 5, 7)
    <Outcome.APPLIED: 'applied'>
    """
    epoch, owner, next_offset = row
    if epoch < claim.epoch:
        return Outcome.WENT_BACK
    if epoch > claim.epoch or owner != claim.owner:
        return Outcome.FENCED
    if next_offset == end:
        return Outcome.APPLIED
    if next_offset == start:
        return Outcome.NOT_APPLIED
    if next_offset < start:
        return Outcome.WENT_BACK
    raise StoreMismatch(
        f"partition {claim.partition}: the checkpoint stands at {next_offset}, which this worker "
        f"never wrote (committing {start} to {end}); two commits of one claim overlapped"
    )


def refusal(outcome: Outcome, row: Row, claim: Claim, start: int) -> ProfilesError:
    """The error for FENCED and WENT_BACK."""
    epoch, _, next_offset = row
    where = f"partition {claim.partition}: epoch {epoch}, next offset {next_offset} in the store"
    mine = f"epoch {claim.epoch}, next offset {start} here"
    if outcome is Outcome.FENCED:
        return Fenced(f"{where}, {mine}: another worker has acquired it")
    return StoreWentBack(f"{where}, {mine}: it lost commits; acquire again and replay")


async def unhurried(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end even when cancelled meanwhile, then raise the cancellation.

    A commit cut in the middle would leave its outcome unknown for no reason. `work` ends by
    itself: every step of it has a time-out.
    """
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        if not task.cancelled():
            task.exception()  # seen: the caller gets the cancellation instead
        raise asyncio.CancelledError
    return task.result()


class Fence:
    """The commit connection of one partition.

    Behind every EXEC the next WATCH is sent along with a read of the checkpoint, so a commit
    takes one round trip (docs/decisions/0020-commit-in-one-round-trip.md).
    """

    def __init__(self, partition: int, keys: Keys, topology: Topology, step: Step | None) -> None:
        self._partition = partition
        self._slot = keys.slot[partition]
        self._topology = topology
        self._step = step
        self._keys = keys
        self._checkpoint_key = keys.checkpoint[partition]
        self._watch = pack("WATCH", self._checkpoint_key) + pack(
            "HMGET", self._checkpoint_key, "epoch", "owner", "next_offset"
        )
        self._link: Link | None = None
        self._row: Row | None = None  # read under a WATCH that still stands; None: read it again
        self._lock = asyncio.Lock()

    async def acquire(self, owner: bytes, fingerprint: str, log: LogPosition | None) -> Acquired:
        """Take the partition; see `ProfileStore.acquire`."""
        key = self._checkpoint_key
        async with self._lock:
            link = await self._ready_link()
            # Before the epoch moves: a worker with other settings must not fence the right one.
            # UNWATCH: an acquire wins over whatever happens beside it.
            self._row = None
            first = [pack("UNWATCH"), pack("HGET", key, "fingerprint")]
            for reply in (replies := await self._ask(link, first, 2)):
                if isinstance(reply, ResponseError):
                    raise await self._refused(reply, "acquire")
            found = replies[1]
            if found is not None and found.decode() != fingerprint:
                raise StoreMismatch(
                    f"partition {self._partition}: fingerprint {found.decode()!r} in {key.decode()}"
                    f", {fingerprint!r} in this worker: k, history, ring or facts settings differ; "
                    "set them back, or use a new generation (rebuild into it)"
                )
            body = [
                pack("HINCRBY", key, "epoch", 1),
                pack("HSET", key, "owner", owner.hex()),
                pack("HSETNX", key, "fingerprint", fingerprint),
            ]
            if log is not None:
                for name, value in _log_fields(log):
                    body.append(pack("HSETNX", key, name, value))
            reads = [
                pack("HGETALL", key),
                pack("GET", self._keys.seen[self._partition]),
                pack("GET", self._keys.outbox[self._partition]),
            ]
            # An unknown outcome is harmless: the next acquire only counts the epoch once more.
            results = await self._transact(link, [*body, *reads], StoreAway, "acquire")
            assert results is not None
            fields, seen, outbox = results[-3:]
            checkpoint = parse_checkpoint(fields, key)
        assert checkpoint is not None
        claim = Claim(self._partition, checkpoint.epoch, owner)
        fresh = checkpoint.next_offset == 0 and checkpoint.log is None
        return Acquired(
            claim, None if fresh else checkpoint, seen or b"", decode_outbox(outbox, claim)
        )

    async def commit(self, claim: Claim, batch: CommitBatch) -> None:
        """One attempt; see `ProfileStore.commit`."""
        start, end = batch.start, batch.end
        if not start < end:
            raise ValueError(f"partition {claim.partition}: batch [{start}, {end}) is empty")
        body: list[bytes] | None = None
        async with self._lock:
            for _ in range(3):
                row = await self._standing_row()
                outcome = decide(row, claim, start, end)
                if outcome is Outcome.APPLIED:
                    return
                if outcome is not Outcome.NOT_APPLIED:
                    raise refusal(outcome, row, claim, start)
                if body is None:
                    body = self._pack(batch)
                if await self._exec(body, f"commit of partition {claim.partition}"):
                    return
        raise StoreAway(f"partition {claim.partition}: its checkpoint keeps changing")

    async def outcome(self, claim: Claim, start: int, end: int) -> Outcome:
        """Read the checkpoint anew and decide. Raises StoreAway, StoreMismatch."""
        async with self._lock:
            self._row = None
            return decide(await self._standing_row(), claim, start, end)

    async def write_fenced(self, claim: Claim, body: list[bytes], what: str) -> None:
        """Commands on this partition's slot, applied together if the claim still holds.

        Raises Fenced, StoreWentBack (my acquire is gone), StoreAway, StoreFull, OutcomeUnknown.
        """
        async with self._lock:
            for _ in range(3):
                row = await self._standing_row()
                if row[:2] != (claim.epoch, claim.owner):
                    behind = row[0] < claim.epoch
                    outcome = Outcome.WENT_BACK if behind else Outcome.FENCED
                    raise refusal(outcome, row, claim, row[2])
                if await self._exec(body, what):
                    return
        raise StoreAway(f"partition {claim.partition}: its checkpoint keeps changing")

    async def close(self) -> None:
        """Close the connection after what is under way."""
        async with self._lock:
            self._row = None
            link, self._link = self._link, None
            if link is not None:
                await link.close()

    def _pack(self, batch: CommitBatch) -> list[bytes]:
        keys, partition = self._keys, self._partition
        body = []
        if batch.records:
            head = keys.record_head[partition]
            flat: list[bytes] = [b"MSET"]
            for user_id, record in batch.records:
                flat.append(head + user_id.encode())
                flat.append(record)
            body.append(pack(*flat))
        body.extend(pack("SETRANGE", keys.seen[partition], pos, part) for pos, part in batch.seen)
        body.append(pack("SET", keys.outbox[partition], encode_outbox(batch.outbox)))
        fields: list[bytes | str | int] = ["next_offset", batch.end]
        fields += ["watermark_ms", batch.watermark_ms]
        for name, value in _log_fields(batch.log):
            fields += [name, value]
        body.append(pack("HSET", self._checkpoint_key, *fields))
        return body

    async def _standing_row(self) -> Row:
        """The checkpoint as it stands under our WATCH. Raises StoreAway."""
        link = await self._ready_link()
        if self._row is None:
            replies = await self._ask(link, [self._watch], 2)
            await self._take_row(replies)
            if self._step is not None:
                await self._step("watched")
        assert self._row is not None
        return self._row

    async def _exec(self, body: list[bytes], what: str) -> bool:
        """Send body between MULTI and EXEC; False when the checkpoint was touched."""
        link = self._link
        assert link is not None
        results = await self._transact(link, body, OutcomeUnknown, what)
        return results is not None

    async def _transact(
        self, link: Link, body: list[bytes], broken: type[StoreAway], what: str
    ) -> list[Any] | None:
        """MULTI, body, EXEC, the next WATCH: one write. Returns EXEC's results, None if refused."""
        self._row = None
        n = len(body)
        if self._step is not None:
            await self._step("sending")
        try:
            replies = await self._ask(link, [MULTI, *body, EXEC, self._watch], n + 4)
        except StoreAway as error:
            raise broken(f"{what}: {error}") from error
        if self._step is not None:
            await self._step("answered")
        results, row = replies[n + 1], replies[n + 2 :]
        if isinstance(results, ResponseError):
            # Refused whole. The first reply that is an error says why; EXEC's only that.
            first = next(r for r in replies if isinstance(r, ResponseError))
            raise await self._refused(first, what)
        if not any(isinstance(r, ResponseError) for r in row):
            await self._take_row(row)
        if results is None:
            return None
        for result in results:
            if isinstance(result, ResponseError):
                # Redis goes on behind a failed command: only a foreign type of key can do this.
                raise RecordCorrupt(f"{what}: {result}; something else wrote one of its keys")
        assert isinstance(results, list)
        return results

    async def _take_row(self, replies: list[Any]) -> None:
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise await self._refused(reply, "reading " + self._checkpoint_key.decode())
        epoch, owner, next_offset = replies[1]
        try:
            self._row = (
                int(epoch or 0),
                bytes.fromhex((owner or b"").decode()),
                int(next_offset or 0),
            )
        except ValueError as error:
            raise RecordCorrupt(f"{self._checkpoint_key.decode()}: {error}") from error

    async def _refused(self, error: ResponseError, what: str) -> ProfilesError:
        """The error to raise; a slot that went elsewhere takes the link with it."""
        ours = store_error(error, what)
        if isinstance(ours, StoreAway) and not isinstance(ours, StoreFull):
            # Also READONLY: what was the master is a replica now, and the map says who is not.
            await self._drop()
            if self._topology.cluster:
                await self._topology.refresh()
        return ours

    async def _ready_link(self) -> Link:
        link = self._link
        if link is not None and await link.is_clean():
            return link
        await self._drop()
        try:
            link = await self._topology.open(self._topology.address(self._slot))
        except StoreAway:
            if self._topology.cluster:
                await self._topology.refresh()
            raise
        self._link = link
        # If MULTI alone were refused (an ACL), the commands behind it would be applied bare.
        for reply in await self._ask(link, [MULTI, pack("DISCARD")], 2):
            if isinstance(reply, ResponseError):
                raise await self._refused(reply, "MULTI")
        return link

    async def _ask(self, link: Link, payload: list[bytes], n_replies: int) -> list[Any]:
        try:
            return await link.ask(payload, n_replies)
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        self._row = None
        link, self._link = self._link, None
        if link is not None:
            await link.drop()


def encode_outbox(messages: Sequence[bytes]) -> bytes:
    """A MessagePack array of byte strings."""
    return msgspec.msgpack.encode(list(messages))


def decode_outbox(value: bytes | None, claim: Claim) -> list[bytes]:
    """The messages of an outbox. Raises RecordCorrupt."""
    if value is None:
        return []
    try:
        return msgspec.msgpack.decode(value, type=list[bytes])
    except msgspec.MsgspecError as error:
        raise RecordCorrupt(f"outbox of partition {claim.partition}: {error}") from error


def _log_fields(log: LogPosition) -> list[tuple[str, str | int]]:
    fields: list[tuple[str, str | int]] = [
        ("log_cluster_id", log.cluster_id),
        ("log_topic", log.topic),
        ("log_n_partitions", log.n_partitions),
    ]
    if log.last_offset is not None:
        fields.append(("log_last_offset", log.last_offset))
    if log.last_timestamp_ms is not None:
        fields.append(("log_last_timestamp_ms", log.last_timestamp_ms))
    if log.last_key_hash is not None:
        fields.append(("log_last_key_hash", log.last_key_hash))
    return fields


def parse_checkpoint(flat: list[bytes], key: bytes) -> Checkpoint | None:
    """HGETALL's answer as a checkpoint; None for no such key. Raises RecordCorrupt."""
    if not flat:
        return None
    fields = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    try:
        log = None
        if "log_topic" in fields:
            log = LogPosition(
                cluster_id=fields["log_cluster_id"].decode(),
                topic=fields["log_topic"].decode(),
                n_partitions=int(fields["log_n_partitions"]),
                last_offset=number("log_last_offset"),
                last_timestamp_ms=number("log_last_timestamp_ms"),
                last_key_hash=number("log_last_key_hash"),
            )
        return Checkpoint(
            next_offset=number("next_offset") or 0,
            epoch=number("epoch") or 0,
            owner=bytes.fromhex(fields.get("owner", b"").decode()),
            watermark_ms=number("watermark_ms") or 0,
            fingerprint=fields.get("fingerprint", b"").decode(),
            log=log,
        )
    except (KeyError, ValueError) as error:
        raise RecordCorrupt(f"{key.decode()}: {error!r}; no version wrote this") from error


def with_last(log: LogPosition, offset: int, timestamp_ms: int, key_hash: int) -> LogPosition:
    """The same log, one record further."""
    return replace(log, last_offset=offset, last_timestamp_ms=timestamp_ms, last_key_hash=key_hash)
