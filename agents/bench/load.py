"""The load of every measurement: clicks of 50,000 users on Zipf-distributed items, seeded.

Users are drawn evenly: a skewed draw would write each user's record less often and flatter us.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from streams.bulk import BulkProducer

BLOCK = 10_000
"""Events drawn at once, and between two looks at the progress display."""


@dataclass(frozen=True, slots=True)
class Load:
    """Which events; the same seed draws the same ones. first_ms: event time of the first."""

    seed: int
    first_ms: int
    n_users: int = 50_000
    n_items: int = 3_000
    zipf: float = 1.0

    def clicks(self, n: int) -> Iterator[tuple[bytes, bytes]]:
        """Key and JSON value of n clicks, one millisecond apart.

        >>> next(Load(seed=1, first_ms=5).clicks(1))[1]
        b'{"type":"click","event_id":"1-0","user_id":"u23659","item_id":"i1960","ts":5}'
        """
        for number, user, item in self.draws(n):
            yield click(self.seed, number, user, item, self.first_ms + number)

    def draws(self, n: int) -> Iterator[tuple[int, int, int]]:
        """Number, user and item of n events."""
        random = np.random.default_rng(self.seed)
        shares = np.cumsum(1.0 / np.arange(1, self.n_items + 1) ** self.zipf)
        shares /= shares[-1]
        for first in range(0, n, BLOCK):
            size = min(BLOCK, n - first)
            users = random.integers(0, self.n_users, size).tolist()
            items = np.searchsorted(shares, random.random(size)).tolist()
            yield from zip(range(first, first + size), users, items, strict=True)

    def probes(self, share: float) -> set[int]:
        """The users whose events are measured, drawn before anything runs."""
        random = np.random.default_rng([self.seed, 1])
        n = max(1, round(self.n_users * share))
        return set(random.choice(self.n_users, n, replace=False).tolist())


def click(seed: int, number: int, user: int, item: int, ts: int) -> tuple[bytes, bytes]:
    """Key and value of one click."""
    value = (
        f'{{"type":"click","event_id":"{seed}-{number}","user_id":"u{user}",'
        f'"item_id":"i{item}","ts":{ts}}}'
    )
    return b"u%d" % user, value.encode()


async def fill(
    bootstrap: str, topic: str, load: Load, n: int, on_sent: Callable[[int], None]
) -> None:
    """Append n events and wait until all are acknowledged. Raises BrokerAway."""
    producer = BulkProducer(bootstrap, "foldstream-bench")
    await producer.start()
    try:
        for number, (key, value) in enumerate(load.clicks(n), 1):
            await producer.put(topic, key, value)
            if number % BLOCK == 0:
                on_sent(number)
        await producer.flush()
        on_sent(n)
    finally:
        await producer.stop()
