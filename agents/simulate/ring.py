"""A ring of fake users that pushes one item: what a seller with a few hundred accounts can do.

Each fake user looks at a few things that real shoppers look at, the baits, and then at the target,
and buys it now and then. Every event is a good one; only together are they a lie. Target and baits
are pulled together, and the target's count rises, so it is shown to those who like the baits.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass

Message = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class RingConfig:
    """A ring.

    target: the item pushed. baits: popular items that are shown interest in first. n_users: fake
    ones, ``<name>0`` and on. baits_per_visit: before each click on the target, so the target has
    the share 1 / (1 + baits_per_visit) of the clicks. buy: chance that a visit ends in a purchase.
    """

    target: str
    baits: tuple[str, ...]
    n_users: int = 300
    baits_per_visit: int = 2
    buy: float = 0.3
    name: str = "ring"


class Ring:
    """An endless, seeded stream of what the fake users do."""

    def __init__(self, config: RingConfig, seed: int) -> None:
        self.config = config
        self.n_events = 0
        self._draw = random.Random(f"ring {seed}")
        self._prefix = f"{config.name}-{seed}-"

    def messages(self, n: int, first_ms: int, gap_ms: float = 10.0) -> Iterator[Message]:
        """The next n events or a few more (a visit is not broken off), as keys and values.

        first_ms: event time of the first; they follow each other at gap_ms.

        >>> ring = Ring(RingConfig("i7", ("i1",), baits_per_visit=1), seed=0)
        >>> [json.loads(value)["item_id"] for _, value in ring.messages(4, 0)][:2]
        ['i1', 'i7']
        """
        began = self.n_events
        while self.n_events - began < n:
            user = f"{self.config.name}{self._draw.randrange(self.config.n_users)}"
            for kind, item in self._visit():
                ts = first_ms + int((self.n_events - began) * gap_ms)
                yield self._message(user, kind, item, ts)

    def visits_in_turn(self, n: int) -> Iterator[list[Message]]:
        """n visits, a list of messages each; the fake users take turns. Event times are 0."""
        for number in range(n):
            user = f"{self.config.name}{number % self.config.n_users}"
            yield [self._message(user, kind, item, 0) for kind, item in self._visit()]

    def is_fake(self, user_id: str) -> bool:
        """Whether a user is one of the ring's."""
        return user_id.startswith(self.config.name)

    def _visit(self) -> list[tuple[str, str]]:
        config = self.config
        baits = [self._draw.choice(config.baits) for _ in range(config.baits_per_visit)]
        visit = [("click", item) for item in baits] + [("click", config.target)]
        if self._draw.random() < config.buy:
            visit += [("cart", config.target), ("purchase", config.target)]
        return visit

    def _message(self, user: str, kind: str, item: str, ts: int) -> Message:
        event = {
            "type": kind,
            "user_id": user,
            "ts": ts,
            "event_id": f"{self._prefix}{self.n_events}",
            "item_id": item,
        }
        self.n_events += 1
        return user.encode(), json.dumps(event, separators=(",", ":")).encode()
