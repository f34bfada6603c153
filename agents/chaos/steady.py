"""An endless stream at a rate: a shop's regulars, and people who come once and never again.

What comes once has to be forgotten by every cache it fills, so it is part of any long run. What
stays true: memory here does not grow with the length of the run.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from agents.simulate.shop import Shop, ShopConfig
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.events import Click, RecommendRequest

if TYPE_CHECKING:
    from agents.chaos.bed import Bed

TICK_S = 0.05
"""Messages leave in groups this far apart."""

ONCE_EACH = 10
"""One event in so many is a stranger's only one."""

N_ITEMS = 2_000


class SteadyLoad:
    """Sends events, some requests too, from `start` to `stop`.

    rate_per_s may be changed while it runs. n_events: acknowledged so far.
    """

    def __init__(self, bed: Bed, seed: int, *, n_users: int = 5_000) -> None:
        self.rate_per_s = 0.0
        self.requests_per_s = 0.0
        self.n_events = 0
        self.late_s = 0.0  # how far it is behind its own rate
        topics = bed.settings().topics()
        self._events, self._requests = topics.events.name, topics.requests.name
        self._items = topics.items.name
        self._shop = Shop(ShopConfig(n_users=n_users, n_items=N_ITEMS, seed=seed))
        self._draw = random.Random(seed)
        self._n_users = n_users
        self._messages = self._stream(seed)
        self._producer = BulkProducer(bed.kafka, "chaos-steady")
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Send the catalogue and begin, at `rate_per_s`. Raises BrokerAway."""
        await self._producer.start()
        for item in self._shop.items():
            await self._producer.put(self._items, item.item_id.encode(), encode(item))
        await self._producer.flush()
        self._task = asyncio.create_task(self._send(), name="steady load")

    async def stop(self) -> None:
        """Send no more; raises what ended it before, if anything did."""
        if self._task is not None:
            self._task.cancel()
            ended = await asyncio.gather(self._task, return_exceptions=True)
            await self._producer.flush()
            if isinstance(ended[0], Exception):
                raise ended[0]
        await self._producer.stop()

    async def burst(self, n_events: int) -> None:
        """Send so many more as fast as they go; returns once they are acknowledged."""
        for number, (key, value) in enumerate(itertools.islice(self._messages, n_events)):
            await self._producer.put(self._events, key, value)
            if number % 2_000 == 0:
                await asyncio.sleep(0)
        await self._producer.flush()
        self.n_events += n_events

    def _stream(self, seed: int) -> Iterator[tuple[bytes, bytes]]:
        strangers = itertools.count()
        for chunk in self._shop.stream():
            for number, message in enumerate(zip(chunk.keys, chunk.values, strict=True)):
                yield message
                if number % ONCE_EACH == 0:
                    who = f"once-{seed}-{next(strangers)}"
                    yield (
                        who.encode(),
                        encode(
                            Click(
                                user_id=who,
                                item_id=f"i{self._draw.randrange(N_ITEMS)}",
                                ts=self._shop.time_ms(),
                                event_id=who,
                            )
                        ),
                    )

    async def _send(self) -> None:
        due, requests_due = 0.0, 0.0
        at = time.monotonic()
        numbers = itertools.count()
        while True:
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            due += (now - at) * self.rate_per_s
            requests_due += (now - at) * self.requests_per_s
            at = now
            n = int(due)
            due -= n
            for key, value in itertools.islice(self._messages, n):
                await self._producer.put(self._events, key, value)
            while requests_due >= 1:
                requests_due -= 1
                user = f"u{self._draw.randrange(self._n_users)}"
                asked = RecommendRequest(request_id=f"soak-{next(numbers)}", user_id=user)
                await self._producer.put(self._requests, user.encode(), encode(asked))
            await self._producer.flush()
            self.n_events += n
            self.late_s = time.monotonic() - now
