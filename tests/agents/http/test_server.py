"""Routes for machines, on a real socket; store and broker are away on purpose."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import pytest_asyncio

from agents.http.address import PortTaken, listen, read_addresses
from agents.http.hosts import HostCheck, KnownHosts
from agents.http.server import HttpServer
from agents.metrics import Metrics
from agents.settings import Settings
from agents.store_access import store_of


def closed_port() -> int:
    """A port that nothing listens on."""
    with listen("127.0.0.1", 0) as bound:
        return int(bound.getsockname()[1])


def lonely_worker(data_dir: Path, port: int = 0, **changes: Any) -> Any:
    """A worker without agents whose neighbours do not answer."""
    settings = Settings(
        agents=("catalogue",),
        kafka=f"127.0.0.1:{closed_port()}",
        redis=f"redis://127.0.0.1:{closed_port()}/0",
        data_dir=data_dir,
        port=port,
        store_timeout_s=0.5,
        partitions=4,
        **changes,
    )
    reached = asyncio.Event()
    reached.set()
    return SimpleNamespace(
        settings=settings,
        metrics=Metrics(),
        store=store_of(settings),
        readiness=SimpleNamespace(reached=reached),
        catalogue=None,
        view=None,
        evaluator=None,
        updater=None,
        scorer=None,
        snapshots=None,
    )


@pytest_asyncio.fixture
async def server(tmp_path: Path) -> AsyncIterator[HttpServer]:
    """A server that runs."""
    worker = lonely_worker(tmp_path)
    running = HttpServer(worker, "shop-0")
    await running.start()
    yield running
    await running.stop()
    await worker.store.close()


@pytest_asyncio.fixture
async def client(server: HttpServer) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    assert server.address is not None
    async with httpx.AsyncClient(base_url=server.address, trust_env=False) as opened:
        yield opened


async def test_a_worker_whose_neighbours_are_away_is_alive_and_not_ready(
    client: httpx.AsyncClient,
) -> None:
    alive = await client.get("/livez")
    assert alive.status_code == 200
    assert alive.json() == {"alive": True, "causes": [], "progress_age_s": {}}
    async with asyncio.timeout(20):
        while True:
            ready = await client.get("/readyz")
            parts = {cause["part"] for cause in ready.json()["causes"]}
            if parts == {"store", "broker"}:
                break
            await asyncio.sleep(0.1)
    assert ready.status_code == 503
    assert ready.json()["ready"] is False


async def test_metrics_are_in_prometheus_text(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE foldstream_commits_total counter" in answer.text


async def test_a_loopback_server_answers_to_loopback_names_only(
    client: httpx.AsyncClient,
) -> None:
    assert (await client.get("/livez", headers={"host": "evil.example"})).status_code == 400


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("10.1.2.3:8080", 200),
        ("[fd00::1]", 200),
        ("localhost", 200),
        ("Shop.Example:443", 200),
        ("shop.example.", 200),
        ("a.inner.example", 200),
        ("inner.example", 400),
        ("evil.example", 400),
        ("shop.example.evil.example", 400),
        ("", 400),
    ],
)
async def test_a_server_for_others_answers_to_numbers_and_to_names_of_the_settings(
    tmp_path: Path, host: str, status: int
) -> None:
    worker = lonely_worker(
        tmp_path, host="0.0.0.0", allowed_hosts=("shop.example", "*.inner.example")
    )
    app = HttpServer(worker, "shop-0").application()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/livez", headers={"host": host})
    await worker.store.close()
    assert answer.status_code == status
    assert status == 200 or "allowed_hosts" in answer.text


async def test_every_name_is_answered_where_the_settings_say_so(tmp_path: Path) -> None:
    worker = lonely_worker(tmp_path, host="0.0.0.0", allowed_hosts=("*",))
    transport = httpx.ASGITransport(app=HttpServer(worker, "shop-0").application())
    async with httpx.AsyncClient(transport=transport, base_url="http://any.example") as client:
        assert (await client.get("/livez")).status_code == 200
    await worker.store.close()


async def test_a_web_socket_under_a_foreign_name_is_refused() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it reached the pages")

    said: list[Any] = []

    async def send(message: Any) -> None:
        said.append(message)

    check = HostCheck(app, KnownHosts("0.0.0.0"))
    scope = {"type": "websocket", "headers": [(b"host", b"evil.example")]}
    await check(scope, receive=None, send=send)  # type: ignore[arg-type]
    assert said == [{"type": "websocket.close", "code": 1008}]


async def test_the_address_file_is_there_while_the_server_runs(tmp_path: Path) -> None:
    worker = lonely_worker(tmp_path)
    server = HttpServer(worker, "shop-0")
    await server.start()
    (entry,) = read_addresses(tmp_path)
    assert (entry.instance, entry.address) == ("shop-0", server.address)
    await server.stop()
    await worker.store.close()
    assert read_addresses(tmp_path) == []
    assert server.address is None


async def test_a_taken_port_stops_the_start(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        worker = lonely_worker(tmp_path, port)
        server = HttpServer(worker)
        with pytest.raises(PortTaken, match="--port"):
            await server.start()
    assert read_addresses(tmp_path) == []
