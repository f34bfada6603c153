"""What the store's contract runs on: a standalone server, a cluster of three, and faulty networks.

The servers are real; a `Proxy` between client and server loses exactly what a test wants lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from profiles.store import CommitBatch, LogPosition, ProfileStore, StoreConfig
from profiles.store_commit import Step
from streams.embedded.store import StoreCluster, StoreServer

PARTITIONS = 6
LOG = LogPosition("cluster-1", "foldstream.events", PARTITIONS)

MakeStore = Callable[..., Awaitable[ProfileStore]]


@pytest.fixture(scope="session")
def standalone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    """A standalone server for tests that leave it as it is."""
    server = StoreServer(tmp_path_factory.mktemp("standalone") / "store", ephemeral=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["standalone", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    """URL of the store under test; every test that asks for it runs on both."""
    if request.param == "cluster":
        cluster: StoreCluster = request.getfixturevalue("store_cluster")
        return cluster.url
    server: StoreServer = request.getfixturevalue("standalone")
    return server.url


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[StoreServer]:
    """A server with an append-only file, which a test may fill, kill and start again."""
    server = StoreServer(tmp_path / "store", ephemeral=False)
    server.start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def connect(generation: str) -> AsyncIterator[MakeStore]:
    """``await connect(url)``: a started store; all are closed at the end."""
    made: list[ProfileStore] = []

    async def make(
        url: str, *, step: Step | None = None, timeout_s: float = 5.0, fingerprint: str = "k=64"
    ) -> ProfileStore:
        config = StoreConfig(
            url, generation, PARTITIONS, fingerprint=fingerprint, timeout_s=timeout_s
        )
        store = ProfileStore(config, step)
        await store.start()
        made.append(store)
        return store

    yield make
    for store in made:
        await store.close()


@pytest.fixture
def owner() -> Callable[[], bytes]:
    """``owner()``: the 16 random bytes of one more worker."""
    return lambda: os.urandom(16)


@pytest.fixture
def batch() -> Callable[..., CommitBatch]:
    """``batch(start, end, user=record, ...)``: a commit with a ring entry and an announcement."""

    def make(start: int, end: int, **records: bytes) -> CommitBatch:
        return CommitBatch(
            start=start,
            end=end,
            records=list(records.items()),
            seen=[(8 * start, end.to_bytes(8, "little"))],
            outbox=[f"changed up to {end}".encode()],
            watermark_ms=1000 * end,
            log=LogPosition(LOG.cluster_id, LOG.topic, PARTITIONS, end - 1, 1000 * end, 77),
        )

    return make


class Proxy:
    """A TCP proxy in front of one server that can lose what passes it.

    cut: what happens to the next EXEC: ``"request"`` (its bytes and the connection are lost
    behind MULTI and the commands), ``"answer"`` (the server gets it, its answer and the connection
    are lost), ``"hold"`` (it waits, even if the client goes away, until `release`), or None.
    """

    EXEC = b"*1\r\n$4\r\nEXEC\r\n"

    def __init__(self, port: int) -> None:
        self.cut: str | None = None
        self.reached = asyncio.Event()
        self.release = asyncio.Event()
        self.delivered = asyncio.Event()
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.release.set()
        for writer in self._writers:
            writer.transport.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        self._writers += [to_client, to_server]
        down = asyncio.create_task(self._pass_down(server, to_client))
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._pass_up(client, to_server, server, down)
        finally:
            down.cancel()
            await asyncio.wait((down,))
            for writer in (to_client, to_server):
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
            self._tasks.discard(task)

    async def _pass_up(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        down: asyncio.Task[None],
    ) -> None:
        while data := await client.read(1 << 20):
            at = data.find(self.EXEC)
            if at < 0 or self.cut is None:
                to_server.write(data)
                await to_server.drain()
                continue
            cut, self.cut = self.cut, None
            to_server.write(data[:at])
            await to_server.drain()
            if cut == "hold":
                self.reached.set()
                await self.release.wait()
            elif cut == "request":
                self.reached.set()
                return
            elif cut == "answer":
                down.cancel()
                await asyncio.wait((down,))
            to_server.write(data[at:])
            await to_server.drain()
            if cut == "answer":
                await server.readuntil(b"\r\n")  # the server has spoken: EXEC went through
                await self._until_applied(server)
                self.reached.set()
                return
            self.delivered.set()

    async def _until_applied(self, server: asyncio.StreamReader) -> None:
        # The HMGET sent behind EXEC answers with an array of four.
        await server.readuntil(b"*4\r\n")

    async def _pass_down(
        self, server: asyncio.StreamReader, to_client: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await server.read(1 << 20):
                to_client.write(data)
                await to_client.drain()


@pytest.fixture
def proxy_to() -> Callable[[int], Proxy]:
    """``proxy_to(port)``: a `Proxy`, an async context manager."""
    return Proxy
