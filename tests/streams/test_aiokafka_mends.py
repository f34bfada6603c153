"""What aiokafka does wrong with broken connections, and does right once it is mended."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvloop
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, create_conn
from aiokafka.errors import KafkaConnectionError, RequestTimedOutError
from aiokafka.protocol.metadata import MetadataRequest

from agents.chaos.link import Link
from streams.aiokafka_mends import mend
from tests.builders import until


async def connected(link: Link, timeout_ms: int) -> Any:
    """A connection to the broker behind a link."""
    mend()
    return await create_conn("127.0.0.1", link.port, request_timeout_ms=timeout_ms)


async def test_a_silent_connection_is_closed_although_nobody_waits_for_its_answer(
    kafka: str,
) -> None:
    host, _, port = kafka.partition(":")
    async with Link("broker", host, int(port)) as link:
        connection = await connected(link, timeout_ms=2_000)
        await connection.send(MetadataRequest([]))
        await link.black_hole()
        asking = asyncio.ensure_future(connection.send(MetadataRequest([])))
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait((asking,))
        assert connection.connected()
        await until(lambda: not connection.connected(), "the connection is closed", 20)


async def test_a_connection_that_answers_is_kept(kafka: str) -> None:
    host, _, port = kafka.partition(":")
    async with Link("broker", host, int(port)) as link:
        connection = await connected(link, timeout_ms=500)
        for _ in range(8):
            await connection.send(MetadataRequest([]))
            await asyncio.sleep(0.1)
        assert connection.connected()
        await connection.close()


async def test_two_requests_that_time_out_together_both_say_so(kafka: str) -> None:
    host, _, port = kafka.partition(":")
    mend()
    client = AIOKafkaClient(bootstrap_servers=kafka)
    await client.bootstrap()
    (node,) = [broker.nodeId for broker in client.cluster.brokers()]
    async with Link("broker", host, int(port)) as link:
        client._conns[node, ConnectionGroup.DEFAULT] = await create_conn(
            "127.0.0.1", link.port, request_timeout_ms=1_000, on_close=client._on_connection_closed
        )
        await link.black_hole()
        outcomes = await asyncio.gather(
            *(client.send(node, MetadataRequest([])) for _ in range(2)), return_exceptions=True
        )
        assert [type(outcome) for outcome in outcomes] == [RequestTimedOutError] * 2
    await client.close()


async def test_a_bootstrap_that_is_cancelled_leaves_no_connection(
    kafka: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mend()
    asked = []
    send = AIOKafkaConnection.send

    def cancelled_at_metadata(self: Any, request: Any, expect_response: bool = True) -> Any:
        if isinstance(request, MetadataRequest):
            asked.append(self)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        return send(self, request, expect_response)

    monkeypatch.setattr(AIOKafkaConnection, "send", cancelled_at_metadata)
    client = AIOKafkaClient(bootstrap_servers=kafka)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(client.bootstrap())
    await client.close()
    assert [connection.connected() for connection in asked] == [False]


def test_a_write_on_a_connection_that_was_just_reset_is_a_connection_error(kafka: str) -> None:
    """uvloop says RuntimeError there."""

    async def use() -> None:
        host, _, port = kafka.partition(":")
        async with Link("broker", host, int(port)) as link:
            connection = await connected(link, timeout_ms=2_000)
            connection._writer.transport.abort()
            with pytest.raises(KafkaConnectionError):
                await connection.send(MetadataRequest([]))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(use())
