"""Connections to the store: one link, the map of a cluster, a pool for what needs no fence.

Owns sockets, time-outs and the meaning of the store's error replies; knows no key. redis-py
gives the connection (addresses, TLS, passwords, parser); its clients and pipelines stay out of
the way, because in cluster mode they repeat a MULTI without its WATCH after a broken socket, and
cost twice the CPU. What stays true: after any doubt about what a link still has to say
(time-out, cancellation, broken socket) it is closed, so no answer ever goes to the wrong question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
    ResponseError,
)

from profiles.errors import ProfilesError, RecordCorrupt, StoreAway, StoreFull, StoreMismatch

Address = tuple[str, int]
"""Host and port of a node; `HOME` for a standalone server, whose URL says everything."""

HOME: Address = ("", 0)

_PASSING = ("CLUSTERDOWN", "TRYAGAIN", "READONLY", "MASTERDOWN", "NOREPLICAS", "BUSY", "LOADING")
"""Refusals that end by themselves: failover, resharding, a restart, a long script elsewhere."""


def pack(*args: bytes | str | int) -> bytes:
    """One command in the store's protocol.

    >>> pack("GET", b"a")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\na\\r\\n'
    """
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub names one item
    return packed


def is_elsewhere(error: object) -> bool:
    """Whether a reply says that another node has the slot: refresh the map, ask there."""
    return isinstance(error, (MovedError, AskError))


def store_error(error: ResponseError, what: str) -> ProfilesError:
    """Our error for a refusal of the store; what: the thing that was refused, for the message."""
    code = getattr(error, "status_code", None) or str(error).split(" ", 1)[0]
    said = f"{what}: the store said {code}: {error}"
    if isinstance(error, OutOfMemoryError) or code == "MISCONF" or "OOM" in str(error):
        return StoreFull(f"{said}; give it memory (maxmemory) or disk, nothing was written")
    if is_elsewhere(error) or code in _PASSING:
        return StoreAway(said)
    if code == "WRONGTYPE":
        return RecordCorrupt(f"{said}; something else wrote this key")
    if isinstance(error, NoPermissionError):
        return StoreMismatch(f"{said}; grant the store's user these commands (ACL)")
    return StoreMismatch(said)


class Link:
    """One connection to one node; one question at a time."""

    def __init__(self, connection: AbstractConnection, address: Address, timeout_s: float) -> None:
        self.address = address
        self._connection = connection
        self._timeout_s = timeout_s

    async def open(self) -> None:
        """Connect, authenticate, select. Raises StoreAway, or StoreMismatch for a password."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except AuthenticationError as error:
            await self.drop()
            raise StoreMismatch(f"store {self.name}: {error}; see the user and password") from error
        except (RedisError, OSError, TimeoutError) as error:
            await self.drop()
            raise StoreAway(f"store {self.name} can't be reached: {_told(error)}") from error
        except BaseException:
            await self.drop()
            raise

    @property
    def name(self) -> str:
        """Where the link leads, for messages (never the password)."""
        return ":".join(
            str(value)
            for key, value in self._connection.repr_pieces()  # type: ignore[no-untyped-call]
            if key in ("host", "port", "path")
        )

    async def ask(self, payload: Sequence[bytes], n_replies: int) -> list[Any]:
        """Send packed commands in one write and read their replies.

        Refusals of single commands come back as `ResponseError` values in their place. Raises
        StoreAway when the connection breaks or `timeout_s` passes; the link is closed then,
        and what the store did with the commands is unknown.
        """
        connection = self._connection
        replies: list[Any] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send_packed_command(payload, check_health=False)
                for _ in range(n_replies):
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
        except (RedisError, OSError, TimeoutError) as error:
            await self.drop()
            raise StoreAway(f"store {self.name} gave no answer: {_told(error)}") from error
        except BaseException:
            await self.drop()
            raise
        return replies

    async def is_clean(self) -> bool:
        """Whether the link is open and has nothing left to say (False too after the far end)."""
        connection = self._connection
        return connection.is_connected and not await connection.can_read()

    async def drop(self) -> None:
        """Close at once, whatever was going on."""
        await self._connection.disconnect(nowait=True)

    async def close(self) -> None:
        """Close and wait for it."""
        await self._connection.disconnect()


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
        self._refreshing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find out what the server is. Raises StoreAway, StoreMismatch."""
        link, _ = await self._open_any()
        try:
            (info,) = await link.ask([pack("INFO", "server")], 1)
        finally:
            await link.close()
        if isinstance(info, ResponseError):
            raise store_error(info, "INFO server")
        is_cluster = b"_mode:cluster" in info
        if self.cluster is None:
            self.cluster = is_cluster
        if self.cluster != is_cluster:
            here = "a cluster" if is_cluster else "a standalone server"
            raise StoreMismatch(
                f"store {link.name} is {here}: set cluster to {str(is_cluster).lower()}"
            )
        if self.cluster:
            await self.refresh()

    def address(self, slot: int) -> Address:
        """The node that owns a slot, as far as we know."""
        return self._owners[slot] if self.cluster else HOME

    @property
    def masters(self) -> list[Address]:
        """Every node that owns slots."""
        return self._masters

    @property
    def name(self) -> str:
        """The first address of the URL, for messages."""
        return self._link(self._seeds[0], HOME).name

    async def open(self, address: Address) -> Link:
        """A new link. Raises StoreAway, StoreMismatch."""
        arguments = dict(self._seeds[0])
        if address != HOME:
            arguments |= {"host": address[0], "port": address[1]}
        link = self._link(arguments, address)
        await link.open()
        return link

    async def refresh(self) -> None:
        """Ask any node for the map of slots; many callers at once share one question.

        Raises StoreAway when no node answers or a slot has no owner.
        """
        if not self.cluster:
            return
        if self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh())
        task = self._refreshing
        try:
            await asyncio.shield(task)
        finally:
            if task.done() and self._refreshing is task:
                self._refreshing = None

    async def follow(self, error: ResponseError) -> None:
        """Learn from a refusal: a new map, and what the refusal itself says. Raises StoreAway."""
        await self.refresh()
        if type(error) is MovedError and self._owners:
            # The node we asked for the map may not have heard of it yet.
            host = error.host or self._owners[error.slot_id][0]
            self._owners[error.slot_id] = (host, error.port)

    async def _refresh(self) -> None:
        link, host = await self._open_any()
        try:
            (ranges,) = await link.ask([pack("CLUSTER", "SLOTS")], 1)
        finally:
            await link.close()
        if isinstance(ranges, ResponseError):
            raise store_error(ranges, "CLUSTER SLOTS")
        owners: dict[int, Address] = {}
        for first, last, (name, port, *_), *_ in ranges:
            # An empty name means "the host you asked".
            address = (name.decode() if name else host, int(port))
            owners.update(dict.fromkeys(range(first, last + 1), address))
        if len(owners) != 16384:
            raise StoreAway(f"the cluster covers {len(owners)} of 16384 slots")
        self._owners = [owners[slot] for slot in range(16384)]
        self._masters = sorted(set(self._owners))

    async def _open_any(self) -> tuple[Link, str]:
        """A link to any node that answers (known ones first), and its host."""
        known = [address for address in self._masters if address != HOME]
        tries = [self._seeds[0] | {"host": host, "port": port} for host, port in known]
        failure: StoreAway | None = None
        for arguments in (*tries, *self._seeds):
            link = self._link(arguments, HOME)
            try:
                await link.open()
            except StoreAway as error:
                failure = error
            else:
                return link, str(arguments.get("host", "localhost"))
        assert failure is not None
        raise failure

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


class Pool:
    """Links for questions that may be asked twice (reads, and writes under unique keys)."""

    MAX_OPEN = 16
    """Questions at once; more wait. The store answers one at a time anyhow."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._idle: dict[Address, list[Link]] = {}
        self._room = asyncio.Semaphore(self.MAX_OPEN)

    async def ask_slot(
        self, slot: int, payload: Sequence[bytes], n_replies: int, what: str
    ) -> list[Any]:
        """Ask the owner of a slot; follows a slot that moved. A refusal raises its store error.

        payload must be harmless when applied twice. Raises StoreAway, StoreFull, RecordCorrupt,
        StoreMismatch.
        """
        for last in (False, False, True):
            replies = await self.ask(self._topology.address(slot), payload, n_replies)
            error = next((r for r in replies if isinstance(r, ResponseError)), None)
            if error is None:
                return replies
            if last or not is_elsewhere(error):
                raise store_error(error, what)
            await self._topology.follow(error)
        raise AssertionError("not reached")

    async def ask(self, address: Address, payload: Sequence[bytes], n_replies: int) -> list[Any]:
        """Ask one node; refusals stay in the replies. Raises StoreAway."""
        async with self._room:
            idle = self._idle.setdefault(address, [])
            while idle:
                link = idle.pop()
                if await link.is_clean():
                    break
                await link.drop()  # the server was restarted since: no answer is lost yet
            else:
                link = await self._open(address)
            replies = await link.ask(payload, n_replies)
            idle.append(link)
            return replies

    async def _open(self, address: Address) -> Link:
        try:
            return await self._topology.open(address)
        except StoreAway:
            # The node may be gone for good; the next call then asks its successor.
            await self._topology.refresh()
            raise

    async def close(self) -> None:
        """Close all idle links; questions under way end by themselves."""
        links = [link for idle in self._idle.values() for link in idle]
        self._idle.clear()
        for link in links:
            await link.close()


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
