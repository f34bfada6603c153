"""The places between two steps of a worker's main path, and a hook at each.

Owns which places there are. What happens there (a kill, a stop, an abort in a test) is the
caller's: `reach(point)` is called in the worker's event loop, and what it raises goes up there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from agents.app import Worker
from agents.partition_fold import PartitionFold
from streams.batch import RawBatch, Reject

POINTS = (
    "acquired, answer lost",
    "acquired",
    "fetched",
    "dead letters due",
    "dead letters sent",
    "gathered",
    "folded",
    "commit due",
    "committed, answer lost",
    "committed",
    "announcement due",
    "announced",
    "Kafka commit asked for",
    "Kafka commit due",
    "Kafka committed",
)
"""Every place between two steps, from the acquisition to the Kafka commit.

"acquired" lies inside the assign callback; at "commit due" the WATCH stands and MULTI is unsent.
The Kafka commit is asked for with each batch and due once a second, for all partitions at once.
"""

Reach = Callable[[str], None]


class _Announcer:
    """The worker's own announcer, with a place before and after each step.

    sending: tasks that were on their way through it.
    """

    def __init__(self, inner: Any, reach: Reach) -> None:
        self.sending: set[asyncio.Task[Any] | None] = set()
        self._inner = inner
        self._reach = reach

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        self.sending.add(asyncio.current_task())
        self._reach("announcement due")
        await self._inner.announce(partition, messages)
        self._reach("announced")

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        self._reach("dead letters due")
        await self._inner.set_aside(rejects)
        self._reach("dead letters sent")


def hook(worker: Worker, reach: Reach) -> set[asyncio.Task[Any] | None]:
    """Have `reach` called at every point of a worker that was built and not started.

    Returns the set of tasks that announce, kept up to date: after an abort nobody else sees their
    errors.
    """
    updater, model, store = worker.updater, worker.model, worker.store
    if updater is None or model is None:
        raise ValueError("this worker has no updater: nothing is folded in it")
    parts = updater._parts
    announcer = _Announcer(parts.announcer, reach)
    parts.announcer = announcer
    next_batch, read_many, run = updater.consumer.next_batch, store.read_many, model.run
    request_commit, commit = updater.consumer.request_commit, store.commit_until_known
    commit_to_kafka = updater.consumer._commit_now
    acquiring = set[int]()
    acquire = store.acquire

    async def hooked_next_batch(partition: int, max_events: int) -> RawBatch:
        batch = await next_batch(partition, max_events)
        reach("fetched")
        return batch

    async def hooked_read_many(partition: int, user_ids: Sequence[str]) -> Any:
        records = await read_many(partition, user_ids)
        reach("gathered")
        return records

    async def hooked_run(job: Callable[[], Any], **more: Any) -> Any:
        result = await run(job, **more)
        if job.__qualname__.startswith(PartitionFold.__name__):
            reach("folded")
        return result

    async def hooked_commit(*arguments: Any, **more: Any) -> None:
        await commit(*arguments, **more)
        reach("committed")

    async def hooked_acquire(partition: int, *arguments: Any) -> Any:
        acquiring.add(partition)
        result = await acquire(partition, *arguments)
        acquiring.discard(partition)
        reach("acquired")
        return result

    async def step(name: str) -> None:
        if acquiring:  # nothing is folded before all partitions are acquired
            if name == "answered":
                reach("acquired, answer lost")
            return
        if name == "sending":
            reach("commit due")
        elif name == "answered":
            reach("committed, answer lost")
        # "watched" is no place of its own: WATCH goes along with the EXEC or acquire before it.

    def hooked_request_commit(partition: int, next_offset: int) -> None:
        reach("Kafka commit asked for")
        request_commit(partition, next_offset)

    async def hooked_commit_to_kafka() -> None:
        if not updater.consumer._commits:  # nothing to commit: no step of the path
            return
        reach("Kafka commit due")
        await commit_to_kafka()
        reach("Kafka committed")

    updater.consumer.next_batch = hooked_next_batch  # type: ignore[method-assign]
    updater.consumer.request_commit = hooked_request_commit  # type: ignore[method-assign]
    updater.consumer._commit_now = hooked_commit_to_kafka  # type: ignore[method-assign]
    store.read_many = hooked_read_many  # type: ignore[method-assign]
    store.commit_until_known = hooked_commit  # type: ignore[method-assign]
    store.acquire = hooked_acquire  # type: ignore[method-assign,assignment]
    store._step = step
    model.run = hooked_run  # type: ignore[method-assign]
    return announcer.sending
