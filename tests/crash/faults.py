"""Stops a worker between two chosen steps of the main path, as a crash at that moment would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from agents.partition_fold import PartitionFold
from streams.batch import RawBatch, Reject
from tests.builders import InProcess

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
    "Kafka commit due",
)
"""Every place between two steps, from the acquisition to the Kafka commit."""


class Abort(BaseException):
    """The worker is gone from here on. No `Exception`: nothing may have an answer for it."""


class FaultyAnnouncer:
    """The worker's own announcer, with a place to stop before and after each step."""

    def __init__(self, inner: Any, reach: Callable[[str], None]) -> None:
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


class Fault:
    """Ends a worker when it comes to `point` for the `visit`-th time.

    reached: set then. From that moment on every point ends whoever comes to it: a process that is
    gone does nothing more on its other partitions either.
    """

    def __init__(self, running: InProcess, point: str, visit: int) -> None:
        assert point in POINTS
        self.reached = asyncio.Event()
        self._point = point
        self._left = visit
        worker = running.worker
        updater, model, store = worker.updater, worker.model, worker.store
        assert updater is not None
        assert model is not None
        parts = updater._parts
        self._announcer = FaultyAnnouncer(parts.announcer, self.reach)
        parts.announcer = self._announcer
        next_batch, read_many, run = updater.consumer.next_batch, store.read_many, model.run
        request_commit, commit = updater.consumer.request_commit, store.commit_until_known
        acquiring = set[int]()
        acquire = store.acquire

        async def faulty_next_batch(partition: int, max_events: int) -> RawBatch:
            batch = await next_batch(partition, max_events)
            self.reach("fetched")
            return batch

        async def faulty_read_many(partition: int, user_ids: Sequence[str]) -> Any:
            records = await read_many(partition, user_ids)
            self.reach("gathered")
            return records

        async def faulty_run(job: Callable[[], Any], **more: Any) -> Any:
            result = await run(job, **more)
            if job.__qualname__.startswith(PartitionFold.__name__):
                self.reach("folded")
            return result

        async def faulty_commit(*arguments: Any, **more: Any) -> None:
            await commit(*arguments, **more)
            self.reach("committed")

        async def faulty_acquire(partition: int, *arguments: Any) -> Any:
            acquiring.add(partition)
            result = await acquire(partition, *arguments)
            acquiring.discard(partition)
            self.reach("acquired")
            return result

        async def step(name: str) -> None:
            if acquiring:  # nothing is folded before all partitions are acquired
                if name == "answered":
                    self.reach("acquired, answer lost")
                return
            if name == "sending":
                self.reach("commit due")
            elif name == "answered":
                self.reach("committed, answer lost")
            # "watched" is no place of its own: WATCH goes along with the EXEC or acquire before it.

        def faulty_request_commit(partition: int, next_offset: int) -> None:
            self.reach("Kafka commit due")
            request_commit(partition, next_offset)

        updater.consumer.next_batch = faulty_next_batch  # type: ignore[method-assign]
        updater.consumer.request_commit = faulty_request_commit  # type: ignore[method-assign]
        store.read_many = faulty_read_many  # type: ignore[method-assign]
        store.commit_until_known = faulty_commit  # type: ignore[method-assign]
        store.acquire = faulty_acquire  # type: ignore[method-assign]
        store._step = step
        model.run = faulty_run  # type: ignore[method-assign]

    def reach(self, point: str) -> None:
        """Raises Abort at the chosen visit of the chosen point, and everywhere after it."""
        if point == self._point and not self.reached.is_set():
            self._left -= 1
            if self._left == 0:
                self.reached.set()
        if self.reached.is_set():
            raise Abort(point)

    async def settled(self) -> None:
        """See the errors that nobody is left to see."""
        tasks = [task for task in self._announcer.sending if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
