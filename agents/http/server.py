"""HttpServer: health, metrics and pages, on the worker's own event loop.

Owns the socket, the ASGI application and the looks at store and broker behind `/readyz`. The pages
are mounted only with the `dashboard` role. What stays true: nothing here waits on the way of an
event, and a page that fails takes nothing down with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from mode import Service
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from agents.dashboard.recent import RecentMessages
from agents.dashboard.state import SAMPLE_S, StateTaker
from agents.errors import AgentsError
from agents.http.address import WorkerAddress, listen, url_of, write_address
from agents.http.health import Cause, Neighbours, liveness, progress_ages, readiness
from agents.http.hosts import HostCheck, KnownHosts
from streams.topics import TopicSet

if TYPE_CHECKING:
    from agents.app import Worker
    from agents.dashboard.pages import Pages

logger = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
"""Between two looks at store and broker."""

LOOK_S = 2.0
"""Longest look at the broker: with the pause and a page's share, trouble shows within 5 s."""

GOODBYE_S = 2
"""Open connections get this long at a stop; a browser reconnects by itself."""


class HttpServer(Service):
    """Serves one worker; `address` is its URL once started, None before and after."""

    def __init__(self, worker: Worker, instance: str | None = None) -> None:
        """instance: this worker's name in the group, which names its address file."""
        super().__init__()
        settings = worker.settings
        self.worker = worker
        self.instance = instance or settings.instance_id()
        self.address: str | None = None
        self.last_port: int | None = None  # of this start or the one before
        self.neighbours = Neighbours()
        self._taker = StateTaker(worker, self.instance, time.monotonic())
        self.snapshot = self._taker.take(time.monotonic())
        # The smallest topic: what is asked is whether the broker answers at all.
        dead_letters = TopicSet(settings.topic_prefix, settings.partitions).dead_letters
        self._broker = RecentMessages(settings.kafka, dead_letters)
        self._probe = RecentMessages(settings.kafka, dead_letters, LOOK_S)  # waits for no page
        self._pages: Pages | None = None
        if "dashboard" in settings.agents:
            # Not at the top of the module: NiceGUI takes a second or two to import, and a worker
            # without pages has no use for it. Not at the start: the loop would stand still.
            from agents.dashboard.pages import Pages

            self._pages = Pages(self, self._broker)
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._file: Path | None = None

    async def on_start(self) -> None:
        """Listen, then say where. Raises PortTaken."""
        settings = self.worker.settings
        self._socket = listen(settings.host, settings.port)
        port = self.last_port = self._socket.getsockname()[1]
        app = self.application()
        if self._pages is not None:
            self._pages.mount(app)
        self._server = _Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="warning",  # of each browser it would tell that it came
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=GOODBYE_S,
            )
        )
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        await asyncio.wait(
            [self._serving, ready := asyncio.ensure_future(self._server.ready.wait())],
            return_when=asyncio.FIRST_COMPLETED,
        )
        ready.cancel()
        if self._serving.done():
            self._serving.result()
            raise AgentsError("the HTTP server ended while starting; its log says why")
        self.address = url_of(settings.host, port)
        self._file = write_address(
            settings.data_dir, WorkerAddress(self.instance, self.address, os.getpid())
        )
        logger.info("serving", address=self.address, dashboard=self._pages is not None)

    async def on_stop(self) -> None:
        self.address = None
        if self._file is not None:
            self._file.unlink(missing_ok=True)
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.wait([self._serving])
        if self._pages is not None:
            await self._pages.close()
        await self._broker.close()
        await self._probe.close()
        if self._socket is not None:
            self._socket.close()

    @Service.task
    async def _watch(self) -> None:
        """A server that ends by itself ends the worker: nobody could see it any more."""
        assert self._serving is not None
        await asyncio.wait([self._serving])
        if not self.should_stop:
            self._serving.result()
            raise AgentsError("the HTTP server ended; its log says why")

    @Service.task
    async def _sample(self) -> None:
        while not self.should_stop:
            self.snapshot = self._taker.take(time.monotonic(), self.not_ready())
            await self.sleep(SAMPLE_S)

    @Service.task
    async def _look_at_store(self) -> None:
        while not self.should_stop:
            await self.neighbours.look("store", self.worker.store.read_meta)
            await self.sleep(LOOK_EVERY_S)

    @Service.task
    async def _look_at_broker(self) -> None:
        while not self.should_stop:
            await self.neighbours.look("broker", self._probe.ends)
            await self.sleep(LOOK_EVERY_S)

    def not_ready(self) -> list[Cause]:
        """Why the worker is not ready; empty when it is."""
        return readiness(self.worker, self.neighbours)

    def application(self) -> FastAPI:
        """Routes for machines; pages are mounted behind them."""
        app = FastAPI(title="foldstream", docs_url=None, redoc_url=None, openapi_url=None)
        settings = self.worker.settings
        app.add_middleware(HostCheck, known=KnownHosts(settings.host, settings.allowed_hosts))

        @app.get("/livez")
        async def livez() -> Response:
            causes = liveness(self.worker, self.neighbours)
            ages = {part: round(age_s, 3) for part, age_s in progress_ages(self.worker).items()}
            return _verdict("alive", causes, {"progress_age_s": ages})

        @app.get("/readyz")
        async def readyz() -> Response:
            return _verdict("ready", self.not_ready(), {"instance": self.instance})

        @app.get("/metrics")
        async def metrics() -> Response:
            return PlainTextResponse(
                generate_latest(self.worker.metrics.registry), media_type=CONTENT_TYPE_LATEST
            )

        return app


class _Server(uvicorn.Server):
    """uvicorn as a part: signals stay with the worker, and whoever waits learns of the start."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave SIGINT and SIGTERM to Faust's worker."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        self.ready.set()


def _verdict(word: str, causes: list[Cause], more: dict[str, Any]) -> JSONResponse:
    listed = [{"part": cause.part, "cause": cause.cause} for cause in causes]
    document = {word: not causes, "causes": listed} | more
    return JSONResponse(
        document, status_code=503 if causes else 200, headers={"cache-control": "no-store"}
    )
