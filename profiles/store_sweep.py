"""Gives profiles that retention has ended a time to live, so that they don't fill the store.

Owns one round over the keys; pace and repetition are the caller's. What stays true: a profile that
its user has come back to is never removed. A record is over by the watermark of its partition's
checkpoint, and this is looked at again, over one connection, under a WATCH of the record: a commit
in between (MSET) makes EXEC refuse, a commit behind it clears the time to live. Record, watermark
and EXPIRE are of one server's one history, so a store that goes back to a state with the EXPIRE
also has a watermark that justifies it (docs/decisions/0033-sweeper.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection
from dataclasses import dataclass

from redis.exceptions import ResponseError

from profiles.retention import HEAD_BYTES, Retention
from profiles.store_commit import EXEC, MULTI
from profiles.store_keys import Keys
from profiles.store_link import Address, Link, is_elsewhere, pack, store_error
from profiles.store_topology import Pool, Topology

STEP_KEYS = 500
"""Keys looked at in one step: about a millisecond of the store's time."""

NO_TTL = -1
"""PTTL's answer for a key that stays."""


@dataclass(frozen=True, slots=True)
class SweepStep:
    """What one step did. n_looked: keys passed over, of any kind. n_expired: profiles that got a
    time to live."""

    n_looked: int
    n_expired: int


class Sweep:
    """Rounds over one generation."""

    def __init__(self, keys: Keys, topology: Topology, pool: Pool, fingerprint: str) -> None:
        self._keys = keys
        self._topology = topology
        self._pool = pool
        self._fingerprint = fingerprint

    async def round(
        self,
        partitions: Callable[[], Collection[int]],
        retention_ms: int,
        ttl_ms: int,
        step_keys: int = STEP_KEYS,
    ) -> AsyncIterator[SweepStep]:
        """One round; stops after each step for as long as the caller likes.

        partitions: those to sweep, asked for at each step. ttl_ms: how long a profile stays after
        it was found to be over. Raises StoreAway and StoreMismatch (an ACL): begin again.
        """
        partition_of = {head: p for p, head in enumerate(self._keys.record_head)}
        for node in await self._topology.locate_masters():
            link: Link | None = None
            cursor: bytes | int = 0
            try:
                while True:
                    command = pack(
                        *("SCAN", cursor, "MATCH", self._keys.all_records, "COUNT", step_keys)
                    )
                    (reply,) = await self._pool.ask(node, [command], 1)
                    if isinstance(reply, ResponseError):
                        raise store_error(reply, "SCAN")
                    cursor, found = reply
                    mine = set(partitions())
                    groups: defaultdict[int, list[bytes]] = defaultdict(list)
                    for key in found:
                        partition = partition_of.get(key[: key.index(b"}") + len(b"}:u:")])
                        if partition in mine:
                            groups[partition].append(key)
                    n_expired = 0
                    for partition, keys in groups.items():
                        over = await self._over(node, partition, keys, retention_ms)
                        if over:
                            if link is None:
                                link = await self._topology.open(node)
                            n_expired += await self._expire(
                                link, partition, over, retention_ms, ttl_ms
                            )
                    yield SweepStep(step_keys, n_expired)
                    if cursor == b"0":
                        break
            finally:
                if link is not None:
                    await link.drop()

    async def _over(
        self, node: Address, partition: int, keys: list[bytes], retention_ms: int
    ) -> list[bytes]:
        """The keys whose profiles seem to be over: a first look, without a WATCH."""
        commands = [self._read_checkpoint(partition)]
        commands += [pack("GETRANGE", key, 0, HEAD_BYTES - 1) for key in keys]
        row, *heads = await self._pool.ask(node, commands, len(commands))
        retention = self._retention(row, retention_ms)
        if retention is None:
            return []
        return [
            key
            for key, head in zip(keys, heads, strict=True)
            if isinstance(head, bytes) and retention.is_over(head)
        ]

    async def _expire(
        self, link: Link, partition: int, keys: list[bytes], retention_ms: int, ttl_ms: int
    ) -> int:
        """Give those that are over a time to live; returns how many. None if one was touched."""
        commands = [pack("WATCH", *keys), self._read_checkpoint(partition)]
        commands += [pack("GETRANGE", key, 0, HEAD_BYTES - 1) for key in keys]
        commands += [pack("PTTL", key) for key in keys]
        watched, row, *replies = await link.ask(commands, len(commands))
        await self._check(watched)
        retention = self._retention(row, retention_ms)
        over = [
            key
            for key, head, ttl in zip(keys, replies[: len(keys)], replies[len(keys) :], strict=True)
            if retention is not None
            and isinstance(head, bytes)
            and retention.is_over(head)
            and ttl == NO_TTL
        ]
        if not over:
            await link.ask([pack("UNWATCH")], 1)
            return 0
        body = [pack("PEXPIRE", key, ttl_ms) for key in over]
        *queued, results = await link.ask([MULTI, *body, EXEC], len(body) + 2)
        if results is None:  # a user came back: the next round looks again
            return 0
        for reply in (*queued, results, *(results if isinstance(results, list) else ())):
            await self._check(reply)
        return sum(results)

    async def _check(self, reply: object) -> None:
        """Raise our error for a refusal; learn from one that says the slot is elsewhere."""
        if isinstance(reply, ResponseError):
            if is_elsewhere(reply):
                await self._topology.follow(reply)
            raise store_error(reply, "sweeping profiles")

    def _read_checkpoint(self, partition: int) -> bytes:
        return pack("HMGET", self._keys.checkpoint[partition], "watermark_ms", "fingerprint")

    def _retention(self, row: object, retention_ms: int) -> Retention | None:
        """Retention by a checkpoint; None where it says that these records are not ours to judge
        (no checkpoint, other settings, another node's by now)."""
        if not isinstance(row, list) or None in row:
            return None
        watermark, fingerprint = row
        if fingerprint.decode() != self._fingerprint or not watermark.isdigit():
            return None
        return Retention(retention_ms, int(watermark))
