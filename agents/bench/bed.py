"""What a measurement stands on: broker, store, a folder for logs, a name no other run uses."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import redis

from agents.bench.programs import drop_keys
from streams.embedded.stack import Stack
from streams.topics import TopicSet, admin_client, ensure_topics


@dataclass(frozen=True, slots=True)
class Bed:
    """kafka, redis: addresses. name: first part of topics, groups and keys. versions: of servers.

    processes: name -> pid of the servers that we started.
    """

    kafka: str
    redis: str
    name: str
    folder: Path
    topics: TopicSet
    versions: dict[str, str]
    processes: dict[str, int]


@contextmanager
def made_bed(
    kafka: str | None, redis_url: str | None, partitions: int, on_step: Callable[[str], None]
) -> Iterator[Bed]:
    """A throw-away broker and store, or those at the addresses given; topics are created.

    Leaves no process, and nothing in a broker or store that it did not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="foldstream-bench-"))
    name = f"bench-{uuid.uuid4().hex[:8]}"
    topics = TopicSet(name, partitions)
    try:
        stack = Stack(folder / "stack", True, kafka, redis_url, on_step=on_step)
        with stack:
            info = stack.info
            asyncio.run(_create(info.kafka, topics))
            try:
                yield Bed(info.kafka, info.redis, name, folder, topics, info.versions, info.pids)
            finally:
                if kafka is not None:
                    asyncio.run(_delete(kafka, topics))
                if redis_url is not None:
                    with redis.Redis.from_url(redis_url) as store:
                        drop_keys(store, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fresh_bed(bed: Bed, name: str, partitions: int | None = None) -> Iterator[Bed]:
    """The same servers with topics of their own, for one run of many; no topic or key stays.

    name: at most 32 characters, unlike any other run's; also the store's prefix.
    """
    topics = TopicSet(name, partitions or bed.topics.partitions)
    asyncio.run(_create(bed.kafka, topics))
    try:
        yield replace(bed, name=name, topics=topics)
    finally:
        asyncio.run(_delete(bed.kafka, topics))
        with redis.Redis.from_url(bed.redis) as store:
            drop_keys(store, name)


async def _create(kafka: str, topics: TopicSet) -> None:
    await ensure_topics(kafka, topics.all())


async def _delete(kafka: str, topics: TopicSet) -> None:
    async with admin_client(kafka) as admin:
        await admin.delete_topics([topic.name for topic in topics.all()])
