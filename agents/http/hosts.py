"""Which names a browser may use for this server: the answer to DNS rebinding.

A page of another site can make a browser talk to our port under a name of that site's own; the
browser would let it read answers and send events as any shopper. It can't forge the Host header,
though: so only names that are ours are answered, and addresses written as numbers, which no site
can own.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

ANY = "*"
"""In `allowed_hosts`: every name, for a server behind a proxy that checks them itself."""

REFUSED = (
    "foldstream is not known by this name. If it should be, add it to the setting allowed_hosts "
    "of the worker.\n"
)


def is_loopback(host: str) -> bool:
    """Does this name or address stay on the machine?

    >>> is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


class KnownHosts:
    """The names under which a server that listens on `host` answers.

    On the loopback interface only loopback's own names and `allowed` (for a proxy that passes the
    Host header on). On others also any address in numbers, the machine's name and `host` itself.
    """

    def __init__(self, host: str, allowed: Collection[str] = ()) -> None:
        """allowed: names without port, ``*.shop.example`` for all below, ``*`` for any."""
        self._loopback_only = is_loopback(host)
        self._names = {"localhost", *(name.lower() for name in allowed)}
        if not self._loopback_only:
            self._names |= {host.lower(), socket.gethostname().lower()}
        self._below = tuple(name[1:] for name in self._names if name.startswith("*."))

    def knows(self, header: str) -> bool:
        """Whether a Host header, with or without a port, is one of them.

        >>> KnownHosts("127.0.0.1").knows("[::1]:8080"), KnownHosts("127.0.0.1").knows("10.0.0.1")
        (True, False)
        >>> shop = KnownHosts("0.0.0.0", ["*.shop.example"])
        >>> shop.knows("10.0.0.1:80"), shop.knows("a.shop.example"), shop.knows("evil.example")
        (True, True, False)
        """
        name = _without_port(header).lower().rstrip(".")
        if ANY in self._names or name in self._names or name.endswith(self._below):
            return True
        address = _address(name)
        return address is not None and (address.is_loopback or not self._loopback_only)


class HostCheck:
    """ASGI middleware: 400 for requests and WebSockets under a name that is not ours."""

    def __init__(self, app: ASGIApp, known: KnownHosts) -> None:
        self._app = app
        self._known = known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._known.knows(
            Headers(scope=scope).get("host", "")
        ):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await PlainTextResponse(REFUSED, status_code=400)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})  # before accept: HTTP 403


def _without_port(header: str) -> str:
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
