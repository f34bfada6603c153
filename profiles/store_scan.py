"""What reads or removes a whole generation, and what the servers say about themselves.

Owns scans and server facts; nothing here is on the hot path. What stays true: a
scan never blocks the store for long, yields each profile once, and changes nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from redis.exceptions import ResponseError

from profiles.store_keys import Keys
from profiles.store_link import HOME, Address, pack, store_error
from profiles.store_topology import Pool, Topology

SCAN_COUNT = 1000
"""Keys looked at in one step: under a millisecond of the store's time."""


FAST = 100_000
"""Keys removed a second at most: more than a store frees, so no bound."""


@dataclass(frozen=True, slots=True)
class MetaInfo:
    """What `<prefix>:meta` tells every reader: enough to find a user's key in any language."""

    generation: str
    prefix: str
    n_partitions: int
    record_format: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One node; None where it does not say (a managed service may hide CONFIG).

    address: "host:port". software: "valkey" or "redis". used_memory, max_memory: bytes, the
    latter 0 for no limit. aof: appendonly is on. fsync: its policy.
    """

    address: str
    software: str
    version: str
    cluster: bool
    role: str
    used_memory: int
    max_memory: int | None
    eviction_policy: str | None
    aof: bool
    fsync: str | None
    n_clients: int


class Survey:
    """Scans and facts over every node."""

    def __init__(self, keys: Keys, topology: Topology, pool: Pool) -> None:
        self._keys = keys
        self._topology = topology
        self._pool = pool

    async def iter_records(self, partition: int | None) -> AsyncIterator[tuple[str, bytes]]:
        """Every profile of a partition, or of all, in no order, each once.

        Remembers the ids it has given (SCAN repeats some while the store's table grows):
        about 150 bytes a user. Raises StoreAway: begin again.
        """
        seen: set[bytes] = set()
        if partition is None:
            pattern = self._keys.all_records
            nodes = await self._topology.locate_masters()
        else:
            pattern = self._keys.records_pattern(partition)
            nodes = [await self._topology.locate(self._keys.slot[partition])]
        heads = {head: p for p, head in enumerate(self._keys.record_head)}
        for node in nodes:
            async for found in self._scan(node, pattern):
                groups: dict[int, list[bytes]] = {}
                for key in found:
                    owner = heads.get(key[: _head_bytes(key)])
                    if owner is not None and key not in seen:
                        seen.add(key)
                        # A cluster answers one MGET for one slot only.
                        group = owner if self._topology.cluster else 0
                        groups.setdefault(group, []).append(key)
                for group, keys in groups.items():
                    (records,) = await self._pool.ask_slot(
                        self._keys.slot[group], [pack("MGET", *keys)], 1, "profiles"
                    )
                    for key, record in zip(keys, records, strict=True):
                        if record is not None:  # else removed since the scan saw it
                            yield key[_head_bytes(key) :].decode(), record

    async def drop(self, pattern: bytes, keys_per_s: int, on_removed: Callable[[int], None]) -> int:
        """Remove all keys of a pattern, no faster than `keys_per_s`; returns how many."""
        n_removed = 0
        began = time.monotonic()
        for node in await self._topology.locate_masters():
            async for keys in self._scan(node, pattern):
                # One command a key: in a cluster they lie in different slots.
                for key, reply in zip(
                    keys,
                    await self._pool.ask(node, [pack("UNLINK", key) for key in keys], len(keys)),
                    strict=True,
                ):
                    if isinstance(reply, ResponseError):
                        raise store_error(reply, f"removing {key.decode(errors='replace')}")
                    n_removed += reply
                on_removed(n_removed)
                ahead_s = n_removed / keys_per_s - (time.monotonic() - began)
                if ahead_s > 0:
                    await asyncio.sleep(ahead_s)
        return n_removed

    async def count_keys(self) -> int:
        """How many keys the store holds, of whatever kind: a bound for what a scan will meet."""
        total = 0
        for node in await self._topology.locate_masters():
            (reply,) = await self._pool.ask(node, [pack("DBSIZE")], 1)
            if isinstance(reply, ResponseError):
                raise store_error(reply, "DBSIZE")
            total += reply
        return total

    async def server_facts(self) -> list[ServerFacts]:
        """What each master says about itself. Raises StoreAway."""
        return [await self._facts(node) for node in await self._topology.locate_masters()]

    async def _facts(self, node: Address) -> ServerFacts:
        settings = ("maxmemory", "maxmemory-policy", "appendfsync")
        commands = [pack("INFO")] + [pack("CONFIG", "GET", name) for name in settings]
        info, *answers = await self._pool.ask(node, commands, len(commands))
        if isinstance(info, ResponseError):
            raise store_error(info, "INFO")
        said = {
            name: value
            for name, _, value in (line.partition(":") for line in info.decode().splitlines())
        }
        config: list[str | None] = [
            answer[1].decode() if isinstance(answer, list) and len(answer) == 2 else None
            for answer in answers
        ]
        limit = config[0] or said.get("maxmemory")
        software = said.get("server_name", "redis")
        return ServerFacts(
            address=self._topology.name if node == HOME else f"{node[0]}:{node[1]}",
            software=software,
            version=said.get(f"{software}_version", said.get("redis_version", "")),
            cluster=said.get("cluster_enabled") == "1",
            role=said.get("role", ""),
            used_memory=int(said.get("used_memory", 0)),
            max_memory=None if limit is None else int(limit),
            eviction_policy=config[1] or said.get("maxmemory_policy"),
            aof=said.get("aof_enabled") == "1",
            fsync=config[2],
            n_clients=int(said.get("connected_clients", 0)),
        )

    async def _scan(self, node: Address, pattern: bytes) -> AsyncIterator[list[bytes]]:
        cursor: bytes | int = 0
        while True:
            command = pack("SCAN", cursor, "MATCH", pattern, "COUNT", SCAN_COUNT)
            (reply,) = await self._pool.ask(node, [command], 1)
            if isinstance(reply, ResponseError):
                raise store_error(reply, "SCAN")
            cursor, keys = reply
            if keys:
                yield keys
            if cursor == b"0":
                return


def _head_bytes(key: bytes) -> int:
    """Where the user id begins: behind the first brace that closes, and ``:u:``."""
    return key.index(b"}") + len(b"}:u:")
