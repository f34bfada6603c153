"""The store's own snapshot: asks every node for one, and learns where it lies.

Owns no file: a server writes its own. What stays true: a snapshot is of one moment (the server's
fork), so a partition's records, checkpoint, ring and outbox in it belong together.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from profiles.errors import StoreAway, StoreMismatch
from profiles.store_link import HOME, Address, pack, store_error
from profiles.store_topology import Pool, Topology

LOOK_S = 0.1
BUSY_S = 600.0
"""How long to wait for another snapshot, or a rewrite of the append-only file, under way."""


@dataclass(frozen=True, slots=True)
class NodeSnapshot:
    """One node's snapshot. path: on that node's own disk. saved_s: since 1970, by its clock."""

    node: str
    path: str
    saved_s: int


class Snapshots:
    """Asks for snapshots of whole servers."""

    def __init__(self, topology: Topology, pool: Pool) -> None:
        self._topology = topology
        self._pool = pool

    async def take(self) -> list[NodeSnapshot]:
        """One new snapshot of each master, one after the other; returns when all are written.

        Raises StoreMismatch where a server does not allow it or could not write (names why),
        StoreAway.
        """
        return [await self._take(node) for node in await self._topology.locate_masters()]

    async def _take(self, node: Address) -> NodeSnapshot:
        name = self._topology.name if node == HOME else f"{node[0]}:{node[1]}"
        before = int(await self._one(node, "LASTSAVE"))
        deadline = asyncio.get_running_loop().time() + BUSY_S
        while True:
            (reply,) = await self._pool.ask(node, [pack("BGSAVE")], 1)
            if not isinstance(reply, ResponseError):
                break
            if "in progress" not in str(reply):
                raise StoreMismatch(
                    f"store {name} does not allow BGSAVE ({reply}): take a snapshot by its own "
                    "means; any of them is a consistent start (docs/operations.md, 'Back-up')"
                )
            if asyncio.get_running_loop().time() > deadline:
                raise StoreAway(f"store {name}: {reply}, for {BUSY_S:.0f} s")
            await asyncio.sleep(LOOK_S)
        # LASTSAVE counts whole seconds: a snapshot within the second of the one before looks the
        # same, so what is going on is asked too.
        while True:
            said = await self._persistence(node)
            if said.get("rdb_bgsave_in_progress") == "0":
                break
            await asyncio.sleep(LOOK_S)
        saved_s = int(await self._one(node, "LASTSAVE"))
        if said.get("rdb_last_bgsave_status") != "ok" or saved_s < before:
            raise StoreMismatch(
                f"store {name} could not write its snapshot: see its log (no disk left, no right "
                "to write, or no memory to fork)"
            )
        folder, file = await self._config(node, "dir"), await self._config(node, "dbfilename")
        path = f"{folder.rstrip('/')}/{file}" if folder and file else ""
        return NodeSnapshot(name, path, saved_s)

    async def _persistence(self, node: Address) -> dict[str, str]:
        info = await self._one(node, "INFO", "persistence")
        pairs = (line.partition(":") for line in info.decode().splitlines())
        return {name: value for name, _, value in pairs}

    async def _config(self, node: Address, name: str) -> str:
        """A setting of the server; empty where it does not say."""
        (reply,) = await self._pool.ask(node, [pack("CONFIG", "GET", name)], 1)
        known = isinstance(reply, list) and len(reply) == 2
        return reply[1].decode() if known else ""

    async def _one(self, node: Address, *words: str) -> Any:
        (reply,) = await self._pool.ask(node, [pack(*words)], 1)
        if isinstance(reply, ResponseError):
            raise store_error(reply, " ".join(words))
        return reply
