"""What `doctor` asks the store beside `ServerFacts`: clocks, limits, disk, and what lies there.

Owns questions only; the verdicts are `agents.doctor`'s. What stays true: nothing is changed, and a
server that hides something (a managed one, without CONFIG) is asked no further.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from redis.exceptions import ResponseError

from profiles.store_keys import Keys
from profiles.store_link import HOME, Address, pack, store_error
from profiles.store_topology import Pool, Topology


@dataclass(frozen=True, slots=True)
class NodeHealth:
    """One master; None where it does not say.

    clock_ahead_ms: its clock minus ours. clock_within_ms: how far that may be wrong.
    max_bulk_bytes: the largest value it takes (proto-max-bulk-len). aof_writes, snapshots_write:
    whether the last one succeeded. n_clients, max_clients: connections. n_replicas: that follow it.
    evicted_keys: removed for want of memory since it started.
    """

    address: str
    clock_ahead_ms: float
    clock_within_ms: float
    max_bulk_bytes: int | None
    aof_writes: bool
    snapshots_write: bool
    n_clients: int
    max_clients: int | None
    n_replicas: int
    evicted_keys: int


class Health:
    """Questions to every master, and to the keys of one generation."""

    def __init__(self, keys: Keys, topology: Topology, pool: Pool) -> None:
        self._keys = keys
        self._topology = topology
        self._pool = pool

    async def nodes(self, now_ms: Callable[[], float]) -> list[NodeHealth]:
        """Every master. now_ms: our clock, ms since 1970. Raises StoreAway, StoreMismatch."""
        return [await self._node(node, now_ms) for node in await self._topology.locate_masters()]

    async def torn(self, partition: int) -> str | None:
        """What the checkpoint says of a commit that was applied in part; None: nothing."""
        key = self._keys.checkpoint[partition]
        command = pack("HGET", key, "torn")
        (found,) = await self._pool.ask_slot(self._keys.slot[partition], [command], 1, key.decode())
        return None if found is None else found.decode(errors="replace")

    async def snapshot_offsets(self) -> dict[int, int] | None:
        """How far the stored item table has learned, by partition; None before the first one."""
        key = self._keys.manifest
        command = pack("HGET", key, "next_offsets")
        (found,) = await self._pool.ask_slot(self._keys.slot[0], [command], 1, key.decode())
        return None if found is None else msgspec.json.decode(found, type=dict[int, int])

    async def _node(self, node: Address, now_ms: Callable[[], float]) -> NodeHealth:
        before_ms = now_ms()
        (time,) = await self._pool.ask(node, [pack("TIME")], 1)
        after_ms = now_ms()
        if isinstance(time, ResponseError):
            raise store_error(time, "TIME")
        commands = [pack("INFO")]
        commands += [pack("CONFIG", "GET", name) for name in ("proto-max-bulk-len", "maxclients")]
        info, *answers = await self._pool.ask(node, commands, len(commands))
        if isinstance(info, ResponseError):
            raise store_error(info, "INFO")
        said = {
            name: value
            for name, _, value in (line.partition(":") for line in info.decode().splitlines())
        }
        config = [
            int(answer[1]) if isinstance(answer, list) and len(answer) == 2 else None
            for answer in answers
        ]
        its_ms = int(time[0]) * 1_000 + int(time[1]) / 1_000
        return NodeHealth(
            address=self._topology.name if node == HOME else f"{node[0]}:{node[1]}",
            clock_ahead_ms=its_ms - (before_ms + after_ms) / 2,
            clock_within_ms=(after_ms - before_ms) / 2,
            max_bulk_bytes=config[0],
            aof_writes=said.get("aof_last_write_status", "ok") == "ok",
            snapshots_write=said.get("rdb_last_bgsave_status", "ok") == "ok",
            n_clients=int(said.get("connected_clients", 0)),
            max_clients=config[1] or _number(said.get("maxclients")),
            n_replicas=int(said.get("connected_slaves", 0)),
            evicted_keys=int(said.get("evicted_keys", 0)),
        )


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
