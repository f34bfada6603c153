"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from streams.addresses import without_passwords
from streams.errors import EmbeddedError

LOOPBACK = "127.0.0.1"
BUS = 10_000  # what a cluster node adds to its port for its own bus
_given: set[int] = set()


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def free_ports(n: int) -> list[int]:
    """`n` different free ports that this process has not been given before.

    Not before, because two servers that start side by side ask before either listens. Below 55,000
    and with port + 10,000 free too, because a cluster node of the store also listens there.
    """
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(1000):
            probe = held.enter_context(socket.socket())
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
            if port < 55_000 and port not in _given and is_free(port + BUS):
                _given.add(port)
                found.append(port)
            if len(found) == n:
                return found
    raise EmbeddedError(
        f"no {n} free TCP ports on {LOOPBACK}: end some servers, or use --kafka and --redis"
    )


def require_free(port: int, flag: str, what: str) -> int:
    """`port` itself, or EmbeddedError when another program listens there."""
    if not is_free(port):
        raise EmbeddedError(
            f"port {port} for the {what} is taken on {LOOPBACK}: end the program that listens "
            f"there, choose another {flag}, or leave {flag} out to get a free one"
        )
    return port


def accepts(host: str, port: int, timeout_s: float = 1.0) -> bool:
    """Whether something accepts TCP connections there."""
    try:
        with socket.create_connection((host, port), timeout_s):
            return True
    except OSError:
        return False


def reachable(address: str, default_port: int, timeout_s: float = 5.0) -> bool:
    """Whether one of the addresses in ``host:port,...`` or a URL takes a TCP connection.

    default_port: for an address without one. Raises ValueError where the text is no address.
    """
    parts = [urlsplit(part if "//" in part else f"//{part}") for part in address.split(",") if part]
    if not parts or any(part.hostname is None for part in parts):
        raise ValueError(f"{without_passwords(address)!r} is no address")
    return any(accepts(part.hostname or "", part.port or default_port, timeout_s) for part in parts)


def remembered(path: Path) -> int | None:
    """The port a file holds from an earlier run, if it is free now."""
    try:
        port = int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
    return port if 0 < port < 65_536 and is_free(port) else None
