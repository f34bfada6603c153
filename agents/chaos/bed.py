"""What a scenario stands on: a broker and a store of its own, which keep their data over a kill.

Owns the servers' folders and processes and hands out workers. What stays true: everything that was
started here is gone when the block ends, and when this process dies.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from agents.chaos.scenario import StoreKind
from agents.chaos.victim import VictimOrder
from agents.chaos.worker_process import WorkerProcess
from agents.settings import Settings, load_settings
from streams.embedded.kafka import KafkaServer
from streams.embedded.store import StoreCluster, StoreServer
from streams.topics import ensure_topics

if TYPE_CHECKING:
    from agents.chaos.load import Load

SESSION_MS = 6_000
"""Of workers; the least that settings allow, so that scenarios wait no longer than needed."""

LOOK_S = 30.0
"""How long the driver waits for the store: it may be verifying another run, on a busy machine."""

Embedded = TypeVar("Embedded", KafkaServer, StoreServer)


class ServerHandle(Generic[Embedded]):
    """One server, for faults: the same port and data after each `start`."""

    def __init__(self, name: str, server: Embedded) -> None:
        self.name = name
        self.server: Embedded = server

    async def start(self) -> None:
        """Start it (again) and wait until it answers. Raises EmbeddedError."""
        await asyncio.to_thread(self.server.start)

    async def terminate(self) -> None:
        """SIGTERM; returns when it is gone."""
        await asyncio.to_thread(self.server.stop)

    async def kill(self) -> None:
        """SIGKILL; returns when it is gone."""
        await asyncio.to_thread(self.server.process.kill)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nothing."""
        self.server.process.pause()

    def resume(self) -> None:
        """SIGCONT."""
        self.server.process.resume()

    def alive(self) -> bool:
        """Whether it runs."""
        return self.server.alive()

    @property
    def folder(self) -> Path:
        """Where its data are."""
        return self.server.folder


@dataclass
class Bed:
    """One run's broker, store, folder and names.

    kafka, redis: addresses for clients. store: the standalone server, or the first node of
    `nodes`, which holds all of a cluster (with replicas: masters first, then their replicas).
    loads: what was sent here; the verifier asks them.
    """

    folder: Path
    kafka: str
    redis: str
    partitions: int
    broker: ServerHandle[KafkaServer]
    store: ServerHandle[StoreServer]
    nodes: list[ServerHandle[StoreServer]]
    overrides: Mapping[str, Any]
    versions: dict[str, str]
    loads: list[Load] = field(default_factory=list)
    _workers: list[WorkerProcess] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        """Settings for this process's own looks and commands; as `worker_settings`, but patient."""
        return self.worker_settings(**{"store_timeout_s": LOOK_S} | changes)

    def worker_settings(self, **changes: Any) -> Settings:
        """Settings of a worker here; the scenario's, then these changes."""
        values: dict[str, Any] = {
            "kafka": self.kafka,
            "redis": self.redis,
            "data_dir": self.folder / "workers",
            "partitions": self.partitions,
            "worker_id": "w0",
            "session_timeout_ms": SESSION_MS,
            "item_snapshot_interval_s": 2.0,
            "agents": ["updater"],
        }
        return load_settings(values | dict(self.overrides) | changes, environment={}).settings

    def worker(self, name: str, **settings: Any) -> WorkerProcess:
        """A worker that is not started yet: `async with`, or `start` and `terminate`."""
        worker = WorkerProcess(self.worker_settings(worker_id=name, **settings))
        self.adopt(worker)
        return worker

    def victim(self, name: str, order: VictimOrder, **settings: Any) -> WorkerProcess:
        """A worker that harms itself as it is told to."""
        command = ("-m", "agents.chaos.victim", msgspec.json.encode(order).decode())
        worker = WorkerProcess(self.worker_settings(worker_id=name, **settings), command=command)
        self.adopt(worker)
        return worker

    def adopt(self, worker: WorkerProcess) -> None:
        """End this worker, too, with the bed."""
        self._workers.append(worker)

    async def end_loads(self) -> None:
        """Stop sending, where a run ended before its load did."""
        await asyncio.gather(*(load.abandon() for load in self.loads if not load.finished))

    async def end_workers(self) -> None:
        """SIGKILL for every worker that still runs."""
        await asyncio.gather(*(worker.kill() for worker in self._workers if worker.alive()))


@asynccontextmanager
async def made_bed(
    folder: Path,
    *,
    partitions: int = 4,
    store: StoreKind = "standalone",
    overrides: Mapping[str, Any] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> AsyncIterator[Bed]:
    """Start broker and store in `folder` (it may exist) and create the topics.

    store: ``standalone``; ``cluster``: three masters; ``replicated``: the same with a replica each.
    Raises EmbeddedError. Leaves the folder.
    """
    broker = KafkaServer(folder / "kafka", ephemeral=False)
    async with AsyncExitStack() as stack:
        nodes, redis = await _start_store(stack, folder, store)
        on_step("starting the broker")
        stack.push_async_callback(_end, broker)
        await asyncio.to_thread(broker.start)
        bed = Bed(
            folder=folder,
            kafka=broker.bootstrap,
            redis=redis,
            partitions=partitions,
            broker=ServerHandle("broker", broker),
            store=nodes[0],
            nodes=nodes,
            overrides=overrides or {},
            versions={"kafka": broker.version, "store": nodes[0].server.version},
        )
        await ensure_topics(bed.kafka, bed.settings().topics().all())
        stack.push_async_callback(bed.end_workers)
        stack.push_async_callback(bed.end_loads)
        yield bed


async def _start_store(
    stack: AsyncExitStack, folder: Path, kind: StoreKind
) -> tuple[list[ServerHandle[StoreServer]], str]:
    if kind == "standalone":
        server = StoreServer(folder / "store", ephemeral=False)
        stack.push_async_callback(_end, server)
        await asyncio.to_thread(server.start)
        return [ServerHandle("store", server)], server.url
    cluster = StoreCluster(
        folder / "store", 3, ephemeral=False, n_replicas=1 if kind == "replicated" else 0
    )
    for node in cluster.nodes:
        stack.push_async_callback(_end, node)
    await asyncio.to_thread(cluster.start)
    handles = [ServerHandle(f"store node {n}", node) for n, node in enumerate(cluster.nodes)]
    return handles, ",".join(node.url for node in cluster.nodes)


async def _end(server: KafkaServer | StoreServer) -> None:
    """At once: nobody needs the data in order any more."""
    if server.alive():
        await asyncio.to_thread(server.process.kill)


def remove(folder: Path) -> None:
    """Delete a bed's folder."""
    shutil.rmtree(folder, ignore_errors=True)
