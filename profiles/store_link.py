"""One connection to one node of the store, and the meaning of its error replies.

Owns the socket and the time-out; which node to ask is `store_topology`'s. redis-py
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
from redis.asyncio.connection import AbstractConnection
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

SLOWEST_BYTES_PER_S = 1_000_000
"""A commit of 8,000 events has some 4 MB: on a link slower than this it would be sent again and
again, and never arrive, were its size not allowed for."""

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
        return RecordCorrupt(
            f"{said}; something else wrote this key: stop it, then remove the key "
            "(docs/decisions/0022-no-half-commit.md says what that loses)"
        )
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
        StoreAway when the connection breaks or `timeout_s` passes (and what the bytes may take on
        a slow link); the link is closed then, and what the store did with the commands is unknown.
        """
        patience_s = self._timeout_s + sum(map(len, payload)) / SLOWEST_BYTES_PER_S
        connection = self._connection
        replies: list[Any] = []
        try:
            async with asyncio.timeout(patience_s):
                await connection.send_packed_command(payload, check_health=False)
                for _ in range(n_replies):
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
        except (RedisError, OSError, TimeoutError) as error:
            await self.drop()
            raise StoreAway(f"store {self.name} gave no answer: {_told(error)}") from error
        except RuntimeError as error:
            # uvloop's answer to a write on a connection that was reset a moment ago.
            writer = connection._writer
            broken = writer is None or writer.transport.is_closing()
            await self.drop()
            if not broken:
                raise
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


def _told(error: BaseException) -> str:
    return str(error) or type(error).__name__
