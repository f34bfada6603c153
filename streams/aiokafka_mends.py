"""What aiokafka 0.14 does wrong with broken connections, mended in one place, once a process.

Owns nothing. What stays true: a mend only turns an error that aiokafka has no answer for into one
that it has; a test shows that it is still needed. aiokafka is pinned below 0.15.
"""

from __future__ import annotations

import weakref
from contextvars import ContextVar
from typing import Any

from aiokafka import client as client_module
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError

_MENDED = "_foldstream_mended"

GRACE_S = 0.1
"""Behind the request's own time-out: whoever waits for it gets aiokafka's error first."""


def mend() -> None:
    """Mend aiokafka's connection and client; harmless twice. Called before a client starts, not at
    import."""
    if not hasattr(AIOKafkaConnection, _MENDED):
        setattr(AIOKafkaConnection, _MENDED, True)
        AIOKafkaConnection.send = _sending(AIOKafkaConnection.send)
        AIOKafkaClient.send = _asking(AIOKafkaClient.send)
        AIOKafkaClient.bootstrap = _bootstrapping(AIOKafkaClient.bootstrap)
        client_module.create_conn = _noting(client_module.create_conn)


class _Bootstrap:
    """The connections that one bootstrap makes, while it runs.

    An object, emptied in the end: tasks that a bootstrap begins keep its context for good.
    """

    def __init__(self) -> None:
        self.runs = True
        self.connections: list[Any] = []


_bootstrap: ContextVar[_Bootstrap | None] = ContextVar("_bootstrap", default=None)


def _bootstrapping(bootstrap: Any) -> Any:
    """A mend of `AIOKafkaClient.bootstrap`.

    Cancelled while it waits for the metadata (whoever starts the client has a time-out), it leaves
    the connection that it asked on open, and nobody knows it any more.
    """

    async def mended(self: Any) -> None:
        this = _Bootstrap()
        token = _bootstrap.set(this)
        try:
            await bootstrap(self)
        except BaseException:
            for connection in this.connections:
                connection.close()
            raise
        finally:
            this.runs = False
            this.connections.clear()
            _bootstrap.reset(token)

    return mended


def _noting(create_conn: Any) -> Any:
    """`create_conn`, with a note of what it made for the mend of `bootstrap`."""

    async def mended(*args: Any, **settings: Any) -> Any:
        connection = await create_conn(*args, **settings)
        this = _bootstrap.get()
        if this is not None and this.runs:
            this.connections.append(connection)
        return connection

    return mended


def _asking(send: Any) -> Any:
    """A mend of `AIOKafkaClient.send`.

    Of two requests on one connection that time out together (the process was frozen, say), the
    first closes the connection and the second looks for it in vain: its KeyError ends aiokafka's
    fetching task for good.
    """

    async def mended(
        self: Any, node_id: Any, request: Any, *, group: Any = ConnectionGroup.DEFAULT
    ) -> Any:
        try:
            return await send(self, node_id, request, group=group)
        except KeyError as error:
            if error.args != ((node_id, group),):
                raise
            raise RequestTimedOutError from error

    return mended


def _sending(send: Any) -> Any:
    """Two mends of `AIOKafkaConnection.send`.

    uvloop refuses a write on a connection that was reset a moment ago with a RuntimeError; aiokafka
    awaits an OSError, and its fetching or sending task ends for good.

    A request that nobody waits for any more when its time is up (whoever asked has a time-out of
    its own, as long as the request's) leaves its connection open, and so does one for metadata. A
    connection whose far end has gone without a word is then used for ever.
    """

    def mended(self: Any, request: Any, expect_response: bool = True) -> Any:
        writer = self._writer
        try:
            answer = send(self, request, expect_response)
        except RuntimeError as error:
            if writer is None or not writer.transport.is_closing():
                raise
            self.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(
                f"Connection at {self._host}:{self._port} broken: {error}"
            ) from error
        if expect_response:
            number = self._requests[-1][0]
            self._loop.call_later(
                self._request_timeout + GRACE_S, _close_if_silent, weakref.ref(self), number
            )
        return answer

    return mended


def _close_if_silent(reference: weakref.ref[Any], number: int) -> None:
    connection = reference()
    if connection is not None and any(number == waiting[0] for waiting in connection._requests):
        connection.close(reason=CloseReason.CONNECTION_TIMEOUT)
