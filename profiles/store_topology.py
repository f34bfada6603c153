"""Which node to ask, and asking it: the map of a cluster, and a pool for what needs no fence.

Owns the map of slots, its renewal and idle links; a link itself is `store_link`'s. What stays
true: a node that refuses, breaks or keeps silent is asked again only after another node was asked
for a newer map, so a frozen master is left as soon as any node knows its successor; and however
many callers meet the same failure, one question for the map is under way at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import MovedError, ResponseError

from profiles.errors import StoreAway, StoreMismatch
from profiles.store_link import HOME, Address, Link, is_elsewhere, pack, store_error

T = TypeVar("T")

NEXT_NODE_S = 0.1
"""A healthy node tells the map within milliseconds; after this long another is asked beside it."""

REFRESH_PAUSE_S = 0.1
"""Least time between two questions for the map because of silence: callers by the dozen retry."""


class Topology:
    """Which node has which slot, and how to connect to it."""

    def __init__(self, url: str, cluster: bool | None, timeout_s: float) -> None:
        """url: one URL, or several of one cluster separated by commas. cluster: None asks."""
        try:
            self._seeds = [dict(parse_url(part.strip())) for part in url.split(",")]
        except ValueError as error:
            raise StoreMismatch(f"store URL: {error}") from error
        self.cluster = cluster
        self._timeout_s = timeout_s
        self._owners: list[Address] = []
        self._masters: list[Address] = [HOME]
        # Masters and replicas (a replica may be all that is left of a shard), next to ask first.
        self._nodes: deque[Address] = deque()
        self._doubted: set[Address] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._refreshed_s = -REFRESH_PAUSE_S  # monotonic; the end of the last try

    async def start(self) -> None:
        """Find out what the server is. Raises StoreAway, StoreMismatch."""

        def read(info: bytes, arguments: dict[str, Any]) -> tuple[bool, str]:
            return b"_mode:cluster" in info, self._link(arguments, HOME).name

        is_cluster, name = await self._ask_any(["INFO", "server"], read)
        if self.cluster is None:
            self.cluster = is_cluster
        if self.cluster != is_cluster:
            here = "a cluster" if is_cluster else "a standalone server"
            raise StoreMismatch(f"store {name} is {here}: set cluster to {str(is_cluster).lower()}")
        if self.cluster:
            await self.refresh()

    async def close(self) -> None:
        """End a question that nobody waits for any more."""
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait((self._refreshing,))

    def address(self, slot: int) -> Address:
        """The node that owns a slot, as far as we know."""
        return self._owners[slot] if self.cluster else HOME

    @property
    def masters(self) -> list[Address]:
        """Every node that owns slots, as far as we know."""
        return self._masters

    @property
    def name(self) -> str:
        """The first address of the URL, for messages."""
        return self._link(self._seeds[0], HOME).name

    def doubt(self, address: Address) -> None:
        """A node gave no answer: before it is asked again, another one is asked for the map."""
        if not self.cluster:
            return
        self._doubted.add(address)
        if address in self._nodes:  # it would be the last to know
            self._nodes.remove(address)
            self._nodes.append(address)

    async def locate(self, slot: int) -> Address:
        """The node to ask about a slot: by a new map, if that node is in doubt.

        Where no new map is to be had, the old one must do (the node may be back by now).
        """
        if self.address(slot) in self._doubted:
            await self._renew()
        return self.address(slot)

    async def locate_masters(self) -> list[Address]:
        """As `locate`, of every node that owns slots."""
        if not self._doubted.isdisjoint(self._masters):
            await self._renew()
        return self._masters

    async def open(self, address: Address) -> Link:
        """A new link. Raises StoreAway (the node is in doubt then), StoreMismatch."""
        arguments = dict(self._seeds[0])
        if address != HOME:
            arguments |= {"host": address[0], "port": address[1]}
        link = self._link(arguments, address)
        try:
            await link.open()
        except StoreAway:
            self.doubt(address)
            raise
        return link

    async def refresh(self) -> None:
        """Ask for the map of slots; many callers at once share one question.

        Asks one node after the other until one answers, a slow one no longer than
        `NEXT_NODE_S` alone; about `timeout_s` in all. Raises StoreAway when no node answers or a
        slot has no owner.
        """
        if not self.cluster:
            return
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
            # Seen, even when all who waited were cancelled meanwhile.
            self._refreshing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._refreshing)

    async def follow(self, error: ResponseError) -> None:
        """Learn from a refusal: a new map, and what the refusal itself says. Raises StoreAway."""
        await self.refresh()
        if type(error) is MovedError and self._owners:
            # The node we asked for the map may not have heard of it yet.
            host = error.host or self._owners[error.slot_id][0]
            self._owners[error.slot_id] = (host, error.port)

    async def _renew(self) -> None:
        if time.monotonic() - self._refreshed_s < REFRESH_PAUSE_S:
            return
        try:
            await self.refresh()
        except StoreAway:
            return

    async def _refresh(self) -> None:
        try:
            owners, nodes = await self._ask_any(["CLUSTER", "SLOTS"], _read_slots)
        finally:
            self._refreshed_s = time.monotonic()
        self._owners = owners
        self._masters = sorted(set(owners))
        self._doubted.clear()
        # Not the same node first every time: one that is cut off from the others has an old map.
        kept = [node for node in self._nodes if node in nodes]
        self._nodes = deque([*kept, *sorted(nodes - set(kept))])
        self._nodes.rotate(-1)

    async def _ask_any(self, words: Sequence[str], read: Callable[[Any, dict[str, Any]], T]) -> T:
        """What `read` makes of the first answer of any node; the rest are let go.

        Raises StoreAway when none has one, StoreMismatch at once (a password, an ACL).
        """
        known = [self._seeds[0] | {"host": host, "port": port} for host, port in self._nodes]
        left = deque(known)
        left.extend(seed for seed in self._seeds if seed not in known)
        asking: set[asyncio.Task[T]] = set()
        failure: StoreAway | None = None
        try:
            while left or asking:
                if left:
                    asking.add(asyncio.create_task(self._ask_one(left.popleft(), words, read)))
                done, _ = await asyncio.wait(
                    asking,
                    timeout=NEXT_NODE_S if left else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in done:
                    asking.discard(task)
                    try:
                        return task.result()
                    except StoreAway as error:
                        failure = error
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        assert failure is not None
        raise failure

    async def _ask_one(
        self,
        arguments: dict[str, Any],
        words: Sequence[str],
        read: Callable[[Any, dict[str, Any]], T],
    ) -> T:
        link = self._link(arguments, HOME)
        await link.open()
        try:
            (reply,) = await link.ask([pack(*words)], 1)
        finally:
            await link.drop()
        if isinstance(reply, ResponseError):
            raise store_error(reply, " ".join(words))
        return read(reply, arguments)

    def _link(self, arguments: dict[str, Any], address: Address) -> Link:
        kind = arguments.get("connection_class", Connection)
        arguments = {k: v for k, v in arguments.items() if k != "connection_class"}
        # No retry inside redis-py: a repeated MULTI would have lost its WATCH. No time-out inside
        # either: `Link` has one for the whole round trip, which costs less than one a reply.
        connection = kind(
            **{
                "protocol": 2,
                "driver_info": None,
                "socket_connect_timeout": self._timeout_s,
                **arguments,
                "socket_timeout": None,
                "retry": Retry(NoBackoff(), 0),
            }
        )
        return Link(connection, address, self._timeout_s)


def _read_slots(ranges: list[Any], arguments: dict[str, Any]) -> tuple[list[Address], set[Address]]:
    """CLUSTER SLOTS' answer: the owner of every slot, and all nodes. Raises StoreAway."""
    host = str(arguments.get("host", "localhost"))
    owners: dict[int, Address] = {}
    nodes: set[Address] = set()
    for first, last, *who in ranges:
        # An empty name means "the host you asked". The master comes first, then its replicas.
        shard = [(name.decode() if name else host, int(port)) for name, port, *_ in who]
        nodes.update(shard)
        owners.update(dict.fromkeys(range(first, last + 1), shard[0]))
    if len(owners) != 16384:
        raise StoreAway(f"the cluster covers {len(owners)} of 16384 slots")
    return [owners[slot] for slot in range(16384)], nodes


class Pool:
    """Links for questions that may be asked twice (reads, and writes under unique keys)."""

    MAX_OPEN = 16
    """Questions to one node at once; more wait. It answers one at a time anyhow."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._idle: dict[Address, list[Link]] = {}
        # By node: those that wait for a frozen one are in nobody's way.
        self._room: dict[Address, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self.MAX_OPEN)
        )

    async def ask_slot(
        self, slot: int, payload: Sequence[bytes], n_replies: int, what: str
    ) -> list[Any]:
        """Ask the owner of a slot; follows a slot that moved. A refusal raises its store error.

        payload must be harmless when applied twice. Raises StoreAway, StoreFull, RecordCorrupt,
        StoreMismatch.
        """
        for last in (False, False, True):
            replies = await self.ask(await self._topology.locate(slot), payload, n_replies)
            error = next((r for r in replies if isinstance(r, ResponseError)), None)
            if error is None:
                return replies
            if last or not is_elsewhere(error):
                raise store_error(error, what)
            await self._topology.follow(error)
        raise AssertionError("not reached")

    async def ask(self, address: Address, payload: Sequence[bytes], n_replies: int) -> list[Any]:
        """Ask one node; refusals stay in the replies. Raises StoreAway."""
        async with self._room[address]:
            idle = self._idle.setdefault(address, [])
            while idle:
                link = idle.pop()
                if await link.is_clean():
                    break
                await link.drop()  # the server was restarted since: no answer is lost yet
            else:
                link = await self._topology.open(address)
            try:
                replies = await link.ask(payload, n_replies)
            except StoreAway:
                self._topology.doubt(address)
                while idle:  # they lead to the same silence
                    await idle.pop().drop()
                raise
            idle.append(link)
            return replies

    async def close(self) -> None:
        """Close all idle links; questions under way end by themselves."""
        links = [link for idle in self._idle.values() for link in idle]
        self._idle.clear()
        for link in links:
            await link.close()
