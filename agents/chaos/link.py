"""Link: a TCP proxy between a worker and its broker or store, and what can go wrong with it.

Owns one listening port on the loopback interface and everything that goes through it. A fault is in
force from the call that names it until `heal` or the next one, for connections that exist and for
new ones. What stays true: bytes are passed on whole and in order, or never again; a connection that
has swallowed some stays silent for ever, as one does whose firewall forgot it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from collections import deque
from dataclasses import dataclass
from enum import Enum

LOOPBACK = "127.0.0.1"

CHUNK_BYTES = 16 * 1024
"""Small against any bytes-a-second worth trying, so that a slow link is smooth."""

WAITING_BYTES = 256 * 1024
"""On their way in one direction of a connection; then the sender has to wait, as on a real link."""

RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER with no time: closing sends RST."""


class Fault(Enum):
    """What is the matter with a link."""

    NONE = "passes"
    DOWN = "refuses and closes"
    BLACK_HOLE = "accepts, swallows, and keeps silent"
    RESET = "resets"
    SLOW = "is slow"


@dataclass(slots=True)
class _Pipe:
    """One direction of one connection."""

    source: asyncio.StreamReader
    sink: asyncio.StreamWriter
    upwards: bool  # towards the server
    waiting: deque[tuple[float, bytes]]  # read at (monotonic seconds), bytes; empty bytes: the end
    n_waiting: int
    changed: asyncio.Event  # there is more to give
    room: asyncio.Event  # there is room to take more


class Link:
    """A proxy to one server; start and stop it, or use it as an async context manager."""

    def __init__(self, name: str, host: str, port: int) -> None:
        """name: for messages. host, port: of the server, which need not run yet."""
        self.name = name
        self.fault = Fault.NONE
        self.port = 0
        self.n_accepted = 0
        self.n_bytes_up = 0  # passed on to the server
        self.n_bytes_down = 0  # and to its client
        self._target = (host, port)
        self._latency_s = 0.0
        self._bytes_per_s: float | None = None
        self._in_haste = asyncio.Event()  # clear while the link is slow
        self._free_at = {True: 0.0, False: 0.0}  # by direction: when the link has sent what it has
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None  # keeps the port ours while the link is down
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def address(self) -> str:
        """``host:port`` for clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def n_open(self) -> int:
        """Connections of clients that are open now."""
        return len(self._connections)

    def aim(self, host: str, port: int) -> None:
        """Lead new connections to this server."""
        self._target = (host, port)

    async def start(self) -> None:
        """Listen on a free port."""
        self._hold()
        await self._listen()

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._stop_listening()
        await self._end_connections(reset=False)
        if self._held is not None:
            self._held.close()
            self._held = None

    async def __aenter__(self) -> Link:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    # Faults ---------------------------------------------------------------------------------

    async def heal(self) -> None:
        """Pass everything on again; what a black hole has swallowed stays lost."""
        self._latency_s, self._bytes_per_s = 0.0, None
        self._free_at = dict.fromkeys(self._free_at, 0.0)
        self._in_haste.set()
        self.fault = Fault.NONE
        if self._server is None:
            await self._listen()

    async def cut(self) -> None:
        """Close every connection in order (FIN) and refuse new ones."""
        await self.heal()
        self.fault = Fault.DOWN
        self._stop_listening()
        self._hold()
        await self._end_connections(reset=False)

    async def black_hole(self) -> None:
        """Swallow whatever comes, in both directions, and keep all connections open."""
        await self.heal()
        self.fault = Fault.BLACK_HOLE

    async def reset(self) -> None:
        """Break every connection with RST, and each new one after its first bytes."""
        await self.heal()
        self.fault = Fault.RESET
        await self._end_connections(reset=True)

    async def slow(self, latency_s: float = 0.0, bytes_per_s: float | None = None) -> None:
        """latency_s: added in each direction. bytes_per_s: of all connections, a direction."""
        await self.heal()
        self._latency_s, self._bytes_per_s = latency_s, bytes_per_s
        self._in_haste.clear()
        self.fault = Fault.SLOW

    # The port -------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Bind the port without listening: who connects is refused, and nobody else gets it."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            held.setblocking(False)
            held.bind((LOOPBACK, self.port))
        except OSError:
            held.close()
            raise
        self.port = held.getsockname()[1]
        self._held = held

    async def _listen(self) -> None:
        held, self._held = self._held, None
        assert held is not None
        self._server = await asyncio.start_server(self._accept, sock=held, limit=WAITING_BYTES)

    def _stop_listening(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _end_connections(self, *, reset: bool) -> None:
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            if reset:
                _reset_on_close(writer)
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    # Connections ----------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.n_accepted += 1
        self._connections[task] = writer
        server: asyncio.StreamWriter | None = None
        try:
            if self.fault is Fault.RESET:
                await reader.read(1)
                _reset_on_close(writer)
            elif self.fault is Fault.BLACK_HOLE:
                while await reader.read(CHUNK_BYTES):
                    pass
            else:
                answers, server = await asyncio.open_connection(*self._target, limit=WAITING_BYTES)
                await self._carry(reader, writer, answers, server)
        except asyncio.CancelledError:
            pass  # `cut`, `reset` or `stop`: this task is ours alone
        except OSError:
            pass  # either side has gone, or was never there: so does, or is, the other
        finally:
            self._connections.pop(task, None)
            for end in (writer, server):
                if end is not None:
                    end.transport.abort() if self.fault is Fault.RESET else end.close()

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        answers: asyncio.StreamReader,
        server: asyncio.StreamWriter,
    ) -> None:
        """Both directions, until either side is done."""
        pipes = [
            _Pipe(reader, server, True, deque(), 0, asyncio.Event(), asyncio.Event()),
            _Pipe(answers, writer, False, deque(), 0, asyncio.Event(), asyncio.Event()),
        ]
        tasks = [
            asyncio.ensure_future(work(pipe)) for pipe in pipes for work in (self._take, self._give)
        ]
        givers = tasks[1::2]
        try:
            await asyncio.wait(givers, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in tasks:
                one.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, pipe: _Pipe) -> None:
        """Read until the end; into a black hole nothing is kept, and nothing ever again."""
        lost = False
        while True:
            try:
                data = await pipe.source.read(CHUNK_BYTES)
            except OSError:
                data = b""
            if not data:
                pipe.waiting.append((0.0, b""))
                pipe.changed.set()
                return
            lost = lost or self.fault is Fault.BLACK_HOLE
            if lost:
                continue
            pipe.waiting.append((time.monotonic(), data))
            pipe.n_waiting += len(data)
            pipe.changed.set()
            if pipe.n_waiting > WAITING_BYTES:
                pipe.room.clear()
                await pipe.room.wait()

    async def _give(self, pipe: _Pipe) -> None:
        """Write what was read, when its time has come."""
        while True:
            while not pipe.waiting:
                pipe.changed.clear()
                await pipe.changed.wait()
            read_at, data = pipe.waiting.popleft()
            if not data:
                return
            await self._until(read_at + self._latency_s)
            if self._bytes_per_s is not None:
                begin = max(time.monotonic(), self._free_at[pipe.upwards])
                self._free_at[pipe.upwards] = begin + len(data) / self._bytes_per_s
                await self._until(self._free_at[pipe.upwards])
            if self.fault is Fault.BLACK_HOLE:  # it was on its way
                await asyncio.Event().wait()
            pipe.n_waiting -= len(data)
            pipe.room.set()
            if pipe.upwards:
                self.n_bytes_up += len(data)
            else:
                self.n_bytes_down += len(data)
            with contextlib.suppress(OSError):
                pipe.sink.write(data)
                await pipe.sink.drain()

    async def _until(self, due: float) -> None:
        """Sleep until then, or until the link is not slow any more."""
        left_s = due - time.monotonic()
        if self.fault is Fault.SLOW and left_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._in_haste.wait()


def _reset_on_close(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):  # closed meanwhile
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
