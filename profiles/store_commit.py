"""The fenced commit: one partition's connection, its WATCH and its one MULTI.

Owns the order of the commands; what they mean is `store_checkpoint`'s. What stays true: nothing is
written unless the checkpoint, at the moment of EXEC, is exactly what it was when it was last read,
named this claim and stood at the batch's start; and nothing by halves, although the store goes on
behind a command that fails inside MULTI: what could make one fail is looked at under the same
WATCH (docs/decisions/0022-no-half-commit.md).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from redis.exceptions import ResponseError

from profiles.errors import (
    OutcomeUnknown,
    ProfilesError,
    RecordCorrupt,
    StoreAway,
    StoreFull,
    StoreMismatch,
)
from profiles.store_checkpoint import (
    Acquired,
    Claim,
    CommitBatch,
    LogPosition,
    Outcome,
    Row,
    decide,
    decode_outbox,
    encode_outbox,
    gap_fields,
    log_fields,
    parse_checkpoint,
    refusal,
)
from profiles.store_keys import Keys
from profiles.store_link import Link, pack, store_error
from profiles.store_topology import Topology

T = TypeVar("T")

Step = Callable[[str], Awaitable[None]]
"""Called between the steps of a commit ("watched", "sending", "answered"): where tests stop it."""

MULTI, EXEC = pack("MULTI"), pack("EXEC")

N_ROW = 3
"""Replies to the WATCH and the reads under it."""


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
        self._seen_key = keys.seen[partition]
        # STRLEN is refused for a key of a foreign type, as SETRANGE would be behind MSET. (MSET
        # and SET replace a key of any type.)
        self._watch = (
            pack("WATCH", self._checkpoint_key, self._seen_key)
            + pack("STRLEN", self._seen_key)
            + pack("HMGET", self._checkpoint_key, "epoch", "owner", "next_offset", "torn")
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
            outbox_key = self._keys.outbox[self._partition]
            first = [
                pack("UNWATCH"),
                pack("STRLEN", self._seen_key),
                pack("STRLEN", outbox_key),
                pack("HMGET", key, "fingerprint", "torn"),
            ]
            replies = await self._ask(link, first, 4)
            for reply, asked in zip(replies, (key, self._seen_key, outbox_key, key), strict=True):
                if isinstance(reply, ResponseError):
                    raise await self._refused(reply, f"acquire: {asked.decode()}")
            found, torn = replies[3]
            if torn is not None:
                raise self._torn(torn)
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
                for name, value in log_fields(log):
                    body.append(pack("HSETNX", key, name, value))
            reads = [
                pack("HGETALL", key),
                pack("GET", self._seen_key),
                pack("GET", outbox_key),
            ]
            # An unknown outcome is harmless: the next acquire only counts the epoch once more.
            results = await self._transact(link, [*body, *reads], StoreAway, "acquire")
            assert results is not None
            for result in results:
                if isinstance(result, ResponseError):
                    raise RecordCorrupt(f"acquire: {result}; something else wrote {key.decode()}")
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
                if await self._exec(
                    body, f"commit of [{start}, {end}), partition {claim.partition}"
                ):
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
        head = keys.record_head[partition]
        if not isinstance(batch.records, Sequence):
            body += [batch.records.mset(head)] if len(batch.records) else []
        elif batch.records:
            flat: list[bytes] = [b"MSET"]
            for user_id, record in batch.records:
                flat.append(head + user_id.encode())
                flat.append(record)
            body.append(pack(*flat))
        body.extend(pack("SETRANGE", keys.seen[partition], pos, part) for pos, part in batch.seen)
        body.append(pack("SET", keys.outbox[partition], encode_outbox(batch.outbox)))
        fields: list[bytes | str | int] = ["next_offset", batch.end]
        fields += ["watermark_ms", batch.watermark_ms]
        for name, value in log_fields(batch.log):
            fields += [name, value]
        if batch.gaps is not None:
            for field, told in gap_fields(batch.gaps):
                fields += [field, told]
        body.append(pack("HSET", self._checkpoint_key, *fields))
        return body

    async def _standing_row(self) -> Row:
        """The checkpoint as it stands under our WATCH. Raises StoreAway."""
        link = await self._ready_link()
        if self._row is None:
            replies = await self._ask(link, [self._watch], N_ROW)
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
        if results is None:
            return False
        faults = [result for result in results if isinstance(result, ResponseError)]
        if not faults:
            return True
        self._row = None
        if len(faults) == len(results):
            raise store_error(faults[0], what)
        # The store went on behind it: the rest is applied. Whoever comes next must know.
        torn = f"{what}: {faults[0]}"
        with contextlib.suppress(StoreAway):  # then only this process knows, and stops
            await self._ask(link, [pack("HSET", self._checkpoint_key, "torn", torn)], 1)
        raise self._torn(torn.encode())

    async def _transact(
        self, link: Link, body: list[bytes], broken: type[StoreAway], what: str
    ) -> list[Any] | None:
        """MULTI, body, EXEC, the next WATCH: one write. Returns EXEC's results, None if refused."""
        self._row = None
        n = len(body)
        if self._step is not None:
            await self._step("sending")
        try:
            replies = await self._ask(link, [MULTI, *body, EXEC, self._watch], n + 2 + N_ROW)
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
        assert results is None or isinstance(results, list)
        return results

    async def _take_row(self, replies: list[Any]) -> None:
        about = (self._checkpoint_key, self._seen_key, self._checkpoint_key)
        for reply, key in zip(replies, about, strict=True):
            if isinstance(reply, ResponseError):
                raise await self._refused(reply, f"reading {key.decode()}")
        epoch, owner, next_offset, torn = replies[-1]
        if torn is not None:
            raise self._torn(torn)
        try:
            self._row = (
                int(epoch or 0),
                bytes.fromhex((owner or b"").decode()),
                int(next_offset or 0),
            )
        except ValueError as error:
            raise RecordCorrupt(f"{self._checkpoint_key.decode()}: {error}") from error

    def _torn(self, torn: bytes) -> RecordCorrupt:
        return RecordCorrupt(
            f"{self._checkpoint_key.decode()}: torn: {torn.decode(errors='replace')}; the rest of "
            "that commit is applied. Rebuild into a new generation, or, if event ids that repeat "
            "may be folded twice, remove the cause and then the field `torn`"
        )

    async def _refused(self, error: ResponseError, what: str) -> ProfilesError:
        """The error to raise; a slot that went elsewhere takes the link with it."""
        ours = store_error(error, what)
        if isinstance(ours, StoreAway) and not isinstance(ours, StoreFull):
            # Also READONLY: what was the master is a replica now, and the map says who is not.
            await self._drop()
            await self._topology.follow(error)
        return ours

    async def _ready_link(self) -> Link:
        link = self._link
        if link is not None and await link.is_clean():
            return link
        await self._drop()
        link = await self._topology.open(await self._topology.locate(self._slot))
        self._link = link
        # If MULTI alone were refused (an ACL), the commands behind it would be applied bare.
        for reply in await self._ask(link, [MULTI, pack("DISCARD")], 2):
            if isinstance(reply, ResponseError):
                raise await self._refused(reply, "MULTI")
        return link

    async def _ask(self, link: Link, payload: list[bytes], n_replies: int) -> list[Any]:
        try:
            return await link.ask(payload, n_replies)
        except StoreAway:
            self._topology.doubt(link.address)
            await self._drop()
            raise
        except BaseException:
            await self._drop()
            raise

    async def _drop(self) -> None:
        self._row = None
        link, self._link = self._link, None
        if link is not None:
            await link.drop()
