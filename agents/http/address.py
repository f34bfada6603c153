"""Where a running worker can be reached: a socket of our own, and a small file that says so.

The file `<data_dir>/worker-<instance>.json` is there while the worker serves, so that other
commands can print its address. A worker that was killed leaves its file behind; `read_addresses`
leaves out those whose process is gone.
"""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import asdict, dataclass
from pathlib import Path

from agents.errors import AgentsError


class PortTaken(AgentsError):
    """The address to listen on can't be had; the message names `--port` or `--host`."""


@dataclass(frozen=True, slots=True)
class WorkerAddress:
    """One worker: its name in the group, its URL, its process id."""

    instance: str
    address: str
    pid: int


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes any free one.

    Bound here and not by the HTTP server, which would end the process without a word of ours.
    Raises PortTaken.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise PortTaken(f"host {host!r}: {error.strerror}; choose another --host") from error
    bound = socket.socket(family, kind, protocol)
    try:
        # A restart must not wait for the old connections' TIME_WAIT.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(where)
        bound.listen(128)  # only a listening socket refuses a second one on the port
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise PortTaken(
            f"{host}:{port} can't be listened on ({error.strerror}); choose another --port "
            "(0: any free one)"
        ) from error
    return bound


def url_of(host: str, port: int) -> str:
    """The URL to open in a browser; a wildcard address is reached by loopback.

    >>> url_of("0.0.0.0", 8080), url_of("::1", 80)
    ('http://127.0.0.1:8080', 'http://[::1]:80')
    """
    shown = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def address_file(data_dir: Path, instance: str) -> Path:
    """The file that names a worker's address.

    >>> address_file(Path("d"), "host/1-0").name
    'worker-host_1-0.json'
    """
    return data_dir / f"worker-{re.sub(r'[^A-Za-z0-9._-]', '_', instance)}.json"


def write_address(data_dir: Path, entry: WorkerAddress) -> Path:
    """Say where the worker is; readers see the whole file or none."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = address_file(data_dir, entry.instance)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps(asdict(entry)) + "\n", "utf-8")
    unfinished.replace(path)
    return path


def read_addresses(data_dir: Path) -> list[WorkerAddress]:
    """The workers that run in this data directory, by name."""
    found = []
    for path in sorted(data_dir.glob("worker-*.json")):
        try:
            entry = WorkerAddress(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # just removed, or not ours
        if _is_alive(entry.pid):
            found.append(entry)
    return found


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, but there
    return True
