"""Seeded events of a made-up shop, sent while something else happens, whatever the broker does.

What stays true: what is in `acknowledged` was acknowledged by all in-sync replicas. A producer that
lost a batch is replaced and sends again all that was not acknowledged: messages may then be in the
log twice, which the event ids tell.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from agents.simulate.shop import Shop, ShopConfig
from streams.bulk import BulkProducer
from streams.errors import BrokerAway

if TYPE_CHECKING:
    from agents.chaos.bed import Bed

TICK_S = 0.02
"""At a rate, messages leave in groups this far apart."""

FLUSH_EVENTS = 20_000
"""At full speed, events between two waits for the acknowledgement."""


class Load:
    """Events `0 .. n_events - 1` of the shop of a seed; begins at once.

    rate_per_s: messages a second; None: as fast as it goes. shop: late, repeat, malformed, n_users
    and so on, as in `ShopConfig`; by default some of each. acknowledged: events, each once (at
    least so many while it goes on, exactly so many in the end); n_messages: messages.
    """

    def __init__(
        self,
        bed: Bed,
        seed: int,
        n_events: int,
        rate_per_s: float | None = None,
        **shop: float,
    ) -> None:
        values: dict[str, float] = {
            "n_users": 5_000,
            "n_items": 2_000,
            "late": 0.02,
            "repeat": 0.02,
            "malformed": 0.005,
        }
        self._shop = Shop(ShopConfig(seed=seed, **(values | shop)))  # type: ignore[arg-type]
        self._kafka = bed.kafka
        self._topic = bed.settings().topics().events.name
        self._rate_per_s = rate_per_s
        self._began_s = time.monotonic()
        self._n_put = 0
        self._open: list[tuple[bytes, bytes]] = []
        self._stopping = False
        self.n_events = n_events
        self.acknowledged = 0
        self.n_messages = 0
        self.n_restarts = 0
        self._task = asyncio.create_task(self._send_all(), name=f"load {seed}")
        bed.loads.append(self)

    async def done(self) -> None:
        """Wait until all is acknowledged, however long the broker is away."""
        await self._task

    async def reached(self, n_events: float) -> None:
        """Wait until so many events are acknowledged, or all."""
        while self.acknowledged < n_events and not self._task.done():
            await asyncio.wait((self._task,), timeout=TICK_S)
        if self._task.done():
            await self._task

    @property
    def finished(self) -> bool:
        """Whether all is acknowledged."""
        return self._task.done() and not self._task.cancelled() and not self._task.exception()

    async def stop(self) -> None:
        """Send no more than what was begun; wait for its acknowledgement."""
        self._stopping = True
        await self.done()

    async def abandon(self) -> None:
        """End at once; what was not acknowledged may be in the log or not."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _send_all(self) -> None:
        producer = await self._producer()
        try:
            n_left = FLUSH_EVENTS
            for chunk in self._shop.stream(self.n_events):
                for message in zip(chunk.keys, chunk.values, strict=True):
                    producer = await self._put(producer, message)
                n_left -= chunk.n_events
                if self._rate_per_s is not None or n_left <= 0:
                    producer = await self._flush(producer)
                    n_left = FLUSH_EVENTS
                    self.acknowledged = self._n_given() - self._shop.n_waiting
                if self._stopping:
                    break
                await asyncio.sleep(0)
            rest = self._shop.rest()
            for message in zip(rest.keys, rest.values, strict=True):
                producer = await self._put(producer, message)
            await self._flush(producer)
            self.acknowledged = self._n_given()
        finally:
            await producer.stop()

    def _n_given(self) -> int:
        return sum(self._shop.totals.kinds.values())

    async def _put(self, producer: BulkProducer, message: tuple[bytes, bytes]) -> BulkProducer:
        if self._rate_per_s is not None:
            early_s = self._n_put / self._rate_per_s - (time.monotonic() - self._began_s)
            if early_s > TICK_S:
                producer = await self._flush(producer)
                await asyncio.sleep(early_s)
        self._n_put += 1
        self._open.append(message)
        try:
            await producer.put(self._topic, *message)
        except BrokerAway:
            producer = await self._again(producer)
        return producer

    async def _flush(self, producer: BulkProducer) -> BulkProducer:
        while True:
            try:
                await producer.flush()
            except BrokerAway:
                producer = await self._again(producer)
            else:
                self.n_messages += len(self._open)
                self._open.clear()
                return producer

    async def _again(self, broken: BulkProducer) -> BulkProducer:
        """A new producer, which has been given all that was not acknowledged."""
        await broken.stop()
        while True:
            self.n_restarts += 1
            producer = await self._producer()
            try:
                for message in self._open:
                    await producer.put(self._topic, *message)
            except BrokerAway:
                await producer.stop()
            else:
                return producer

    async def _producer(self) -> BulkProducer:
        while True:
            producer = BulkProducer(self._kafka, "chaos-load")
            try:
                await producer.start()
            except BrokerAway:
                await asyncio.sleep(0.2)
            else:
                return producer
