"""A link passes everything on, or fails in exactly the way it is told to."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from agents.chaos.link import Link


@pytest.fixture
async def link() -> AsyncIterator[Link]:
    """A link to a server that answers each line with the same line."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Link("echo", *server.sockets[0].getsockname()[:2]) as made:
        yield made


class Client:
    """A connection through a link."""

    def __init__(self, link: Link) -> None:
        self.link = link

    async def __aenter__(self) -> Client:
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.link.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.writer.close()

    async def say(self, text: bytes) -> bytes:
        """Send, and read as many bytes back."""
        self.writer.write(text)
        await self.writer.drain()
        return await self.reader.readexactly(len(text))

    async def is_silent(self) -> bool:
        """Whether nothing at all comes back to what is said."""
        self.writer.write(b"?")
        try:
            async with asyncio.timeout(0.2):
                await self.reader.read(1)
        except TimeoutError:
            return True
        return False


async def test_what_is_said_comes_back_whole(link: Link) -> None:
    text = bytes(range(256)) * 4_000
    async with Client(link) as client:
        assert await client.say(text) == text
    assert link.n_bytes_up == link.n_bytes_down == len(text)
    assert link.n_accepted == 1


async def test_a_link_that_is_down_ends_connections_and_refuses_new_ones(link: Link) -> None:
    async with Client(link) as client:
        await client.say(b"a")
        await link.cut()
        assert await client.reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", link.port)
    await link.heal()
    async with Client(link) as client:
        assert await client.say(b"b") == b"b"


async def test_a_black_hole_keeps_silent_and_what_fell_in_stays_lost(link: Link) -> None:
    async with Client(link) as before, Client(link) as unused:
        await before.say(b"a")
        await unused.say(b"a")
        await link.black_hole()
        assert await before.is_silent()
        async with Client(link) as during:  # it lets in
            assert await during.is_silent()
            await link.heal()
            assert await before.is_silent()
            assert await during.is_silent()
        assert await unused.say(b"b") == b"b"
    async with Client(link) as after:
        assert await after.say(b"c") == b"c"


async def test_a_reset_breaks_what_is_open_and_what_comes(link: Link) -> None:
    async with Client(link) as client:
        await client.say(b"a")
        await link.reset()
        with pytest.raises(ConnectionResetError):
            await client.reader.readexactly(1)
        async with Client(link) as another:
            another.writer.write(b"b")
            with pytest.raises(ConnectionResetError):
                await another.reader.readexactly(1)
        await link.heal()
        async with Client(link) as another:
            assert await another.say(b"c") == b"c"


async def test_a_slow_link_adds_its_latency_in_each_direction(link: Link) -> None:
    async with Client(link) as client:
        await client.say(b"a")
        await link.slow(latency_s=0.1)
        began = time.monotonic()
        assert await client.say(b"b") == b"b"
        assert 0.2 <= time.monotonic() - began < 2


async def test_a_slow_link_shares_its_bytes_a_second(link: Link) -> None:
    text = b"x" * 100_000
    async with Client(link) as one, Client(link) as other:
        await asyncio.gather(one.say(b"a"), other.say(b"a"))
        await link.slow(bytes_per_s=400_000)
        began = time.monotonic()
        assert await asyncio.gather(one.say(text), other.say(text)) == [text, text]
        took_s = time.monotonic() - began
        assert 0.4 <= took_s < 4  # 200,000 bytes, both directions at the same time
        await link.heal()
        assert await one.say(text) == text


async def test_a_server_that_is_not_there_ends_the_connection() -> None:
    async with Link("nobody", "127.0.0.1", 1) as link, Client(link) as client:
        assert await client.reader.read() == b""
