"""Small makers of events, settings and workers, and what tests ask of a running foldstream.

`InProcess` runs a worker's services in the test's own event loop (fast, and open to faults);
`WorkerProcess` runs the real program. Nothing here replaces broker or store.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.app import Worker, build_app, prepare
from agents.chaos.verifier import positions_of as positions_of
from agents.chaos.worker_process import WorkerProcess as WorkerProcess
from agents.chaos.worker_process import until as until
from agents.chaos.worker_process import write_config as write_config
from agents.generations import read_settings
from agents.rebuild import Rebuild, RebuildReport
from agents.settings import Settings, load_settings
from agents.store_access import store_of
from profiles.digest import facts_digest
from profiles.profile import Profile
from profiles.record import decode_profile, facts_of
from profiles.shape import ModelShape
from streams.batch import RawBatch
from streams.bulk import BulkProducer
from streams.codec import EventCodec, decode_change, encode
from streams.events import Cart, Click, Event, Purchase, Search
from streams.manual_reader import ManualReader
from streams.partitioner import partition_of
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.topics import TopicSet

BASE_MS = 1_750_000_000_000
"""Event time of the first event that a test makes."""

# Events ---------------------------------------------------------------------------------------


def click(user_id: str, item_id: str, ts: int = BASE_MS, event_id: str | None = None) -> Click:
    """One click."""
    return Click(user_id=user_id, item_id=item_id, ts=ts, event_id=event_id)


def purchase(
    user_id: str, item_id: str, ts: int = BASE_MS, event_id: str | None = None
) -> Purchase:
    """One purchase."""
    return Purchase(user_id=user_id, item_id=item_id, ts=ts, event_id=event_id)


def user_on(partition: int, n_partitions: int, number: int = 0) -> str:
    """The `number`-th user id (u0, u1, ...) that lives on a partition."""
    found = (f"u{n}" for n in range(1_000_000) if partition_of(f"u{n}", n_partitions) == partition)
    for _ in range(number):
        next(found)
    return next(found)


def stream_of(n: int, seed: int, n_users: int = 200, n_items: int = 50) -> list[Event]:
    """n events with ids of their own, in rising event time; the same for the same seed."""
    draw = random.Random(seed)
    events: list[Event] = []
    for number in range(n):
        named = {
            "user_id": f"u{draw.randrange(n_users)}",
            "ts": BASE_MS + 1_000 * number,
            "event_id": f"{seed}-{number}",
        }
        item_id = f"i{min(draw.randrange(n_items), draw.randrange(n_items))}"
        kind = draw.random()
        if kind < 0.1:
            events.append(Search(query=f"red thing {item_id}", **named))
        elif kind < 0.25:
            events.append(Cart(item_id=item_id, **named))
        elif kind < 0.4:
            events.append(Purchase(item_id=item_id, **named))
        else:
            events.append(Click(item_id=item_id, **named))
    return events


async def put_events(settings: Settings, events: Iterable[Event]) -> None:
    """Append events to the log; returns once all are acknowledged."""
    await put_raw(settings, ((event.user_id.encode(), encode(event)) for event in events))


async def put_raw(settings: Settings, messages: Iterable[tuple[bytes, bytes | None]]) -> None:
    """Append (key, value) as they are to the events topic, by the key's partition."""
    topic = settings.topics().events.name
    producer = BulkProducer(settings.kafka, "test-events")
    await producer.start()
    try:
        for key, value in messages:
            await producer.put(topic, key, value)
        await producer.flush()
    finally:
        await producer.stop()


async def set_aside(settings: Settings, max_bytes: int = 512 * 1024) -> int:
    """Send what the codec refuses of the events topic to the dead letters, as a worker does.

    Returns how many messages. The whole topic each time: call it twice for repeats.
    """
    topics = settings.topics()
    codec = EventCodec([kind.name for kind in settings.kinds])
    records = await messages_of(settings, topics.events.name)
    rejects = [
        r
        for one in records
        for r in codec.decode_batch(RawBatch(one.partition, 0, 1, [one])).rejects
    ]
    async with Producer(settings.kafka, topics) as producer:
        await producer.send_dead_letters(rejects, topics.events.name, max_bytes)
    return len(rejects)


# Settings and workers -------------------------------------------------------------------------


def settings_of(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, folder: Path, **changes: Any
) -> Settings:
    """Settings of a worker that shares broker and store with other tests, and nothing else."""
    values: dict[str, Any] = {
        "kafka": kafka,
        "redis": redis_url,
        "data_dir": folder,
        "topic_prefix": topics.prefix,
        "store_prefix": generation,
        "generation": generation,
        "group": generation,
        "partitions": topics.partitions,
        "worker_id": "w0",
        "session_timeout_ms": 6_000,
        "item_snapshot_interval_s": 2.0,
        "agents": ["updater"],
    }
    return load_settings(values | changes, environment={}).settings


class InProcess:
    """One worker's services in this event loop; no pages, and no agent on `requests`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.worker: Worker = build_app(settings)
        self._services = [s for s in self.worker.services if s is not self.worker.http]

    async def start(self) -> None:
        """Start every service in its order."""
        await prepare(self.settings)
        for service in self._services:
            await service.start()

    async def stop(self) -> None:
        """A graceful stop: as Faust's worker does it."""
        for service in reversed(self._services):
            await service.stop()

    async def __aenter__(self) -> InProcess:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if not all(service.should_stop for service in self._services):
            await self.stop()

    async def abandon(self) -> None:
        """As a crash leaves it: nothing in flight is finished, nothing is handed back.

        Sockets are closed and threads end, as the kernel would see to; the group is not left, no
        snapshot is written, no announcement waited for, nothing committed to Kafka any more.
        """
        updater, model = self.worker.updater, self.worker.model
        assert updater is not None
        assert model is not None
        for service in self._services:
            service._stopped_set()
        while ours := [task for task in asyncio.all_tasks() if _is_ours(task)]:
            for task in ours:
                task.cancel()
            await asyncio.gather(*ours, return_exceptions=True)
        committing = updater.consumer._commit_task
        if committing is not None:
            committing.cancel()
            await asyncio.gather(committing, return_exceptions=True)
            updater.consumer._commit_task = None
        updater.consumer._commits.clear()
        await updater.consumer.stop(leave=False)
        await updater._reader.stop()
        exchange = self.worker.exchange
        if exchange is not None and exchange._replica is not None:
            await exchange._replica.stop()
        model._thread.shutdown(wait=True)
        await self.worker.store.close()
        await self.worker.producer.stop()

    @property
    def crashed(self) -> bool:
        """Whether a service met what it has no answer for."""
        return any(service.crashed for service in self._services)

    def metric(self, name: str, **labels: str) -> float:
        """One metric's value now; 0 for one that has no sample yet."""
        return self.worker.metrics.registry.get_sample_value(name, labels) or 0.0


def _is_ours(task: asyncio.Task[Any]) -> bool:
    """Whether a task runs code of `agents` (not a library's, and not the test's)."""
    code = getattr(task.get_coro(), "cr_code", None)
    names = ("PartitionFold.", "ProfileUpdater.", "Model.", "SnapshotWriter.", "DeltaExchange.")
    return code is not None and code.co_qualname.startswith(
        (*names, "Service.", "BatchConsumer._open")
    )


# What tests ask -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """What a generation holds. digest: of the facts; last_offset: by user."""

    digest: str
    n_profiles: int
    n_events: int
    last_offset: dict[str, int]


async def state_of(settings: Settings) -> State:
    """Read every profile of the generation."""
    async with store_of(settings) as store:
        records = dict([entry async for entry in store.iter_records()])
    digest = await facts_digest(_each(records), facts_of)
    shape = ModelShape(n_factors=settings.n_factors, history=settings.history)
    profiles = {user: decode_profile(record, shape, user) for user, record in records.items()}
    return State(
        digest=digest.hex,
        n_profiles=len(profiles),
        n_events=sum(profile.n_events for profile in profiles.values()),
        last_offset={user: profile.last_offset for user, profile in profiles.items()},
    )


async def _each(records: dict[str, bytes]) -> Any:
    for entry in records.items():
        yield entry


async def profile_of(settings: Settings, user_id: str) -> Profile | None:
    """One user's profile as the store has it."""
    partition = partition_of(user_id, settings.partitions)
    shape = ModelShape(n_factors=settings.n_factors, history=settings.history)
    async with store_of(settings) as store:
        (record,) = await store.read_many(partition, [user_id])
    return None if record is None else decode_profile(record, shape, user_id)


async def all_folded(settings: Settings, within_s: float = 60.0) -> None:
    """Wait until the profiles stand at the end of the log (its last stable offsets)."""
    reader = ManualReader(settings.kafka, settings.topics().events.name)
    await reader.start()
    try:
        async with store_of(settings) as store:
            ends = await reader.end_offsets(range(settings.partitions))
            wanted = [ends[partition] for partition in range(settings.partitions)]

            async def there() -> bool:
                positions = await positions_of(store, settings.partitions)
                return all(at >= end for at, end in zip(positions, wanted, strict=True))

            await until(there, f"everything up to {wanted} is folded", within_s)
    finally:
        await reader.stop()


async def rebuilt(settings: Settings) -> RebuildReport:
    """What `rebuild --check` says."""
    async with store_of(settings) as store:
        settings = await read_settings(settings, store)
    return await Rebuild(settings, lambda done, total: None).check()


async def messages_of(settings: Settings, topic: str) -> list[Any]:
    """Every message that is on a topic now."""
    async with TopicTail(settings.kafka, topic, from_beginning=True, follow=False) as tail:
        return [record async for records in tail.records() for record in records]


async def announced(settings: Settings) -> dict[str, set[int]]:
    """User -> the offsets of theirs that were announced."""
    found: dict[str, set[int]] = {}
    for record in await messages_of(settings, settings.topics().profile_changes.name):
        for user in decode_change(record.value).users:
            found.setdefault(user.user_id, set()).add(user.offset)
    return found
