"""A shop told by its visits: a kind of shop says what one visitor looks at next, and no more.

Owns what all kinds share: open visits that interleave, ids, sessions, event times and encoding.
Everything follows from the configuration, and event times never decide what is done: at another
pace the same things happen, only closer together or farther apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Protocol

from agents.errors import UsageError
from agents.simulate.shop import Chunk, Totals
from streams.events import Item

CHUNK = 500


class KindOfShop(Protocol):
    """What is particular about a shop.

    n_users, n_items: how many there are. n_open: visits that go on at a time. deed: the type of its
    events, ``click`` or ``purchase``.
    """

    n_users: int
    n_items: int
    n_open: int
    deed: str

    def visit(self, user: int) -> Iterator[int]:
        """The items of one visit, by row; each is drawn when it is asked for."""

    def tick(self, number: int) -> None:
        """Told before each event: its number, from 0."""

    def item(self, row: int) -> Item:
        """The catalogue entry ``i<row>``."""


@dataclass(frozen=True, slots=True)
class Timing:
    """events_per_s: pace in event time. start_ms: event time of the first, ms since 1970."""

    events_per_s: float = 100.0
    start_ms: int = 1_750_000_000_000

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if not self.events_per_s > 0:
            raise UsageError(f"events_per_s = {self.events_per_s}: must be above 0")

    def at(self, number: int) -> int:
        """Event time of an event, ms since 1970.

        >>> Timing(10.0, 5_000).at(3)
        5300
        """
        return self.start_ms + int(number * 1_000 / self.events_per_s)


class VisitedShop:
    """A shop of one kind; `stream` goes on from where it was left. `totals`: of what it gave."""

    def __init__(self, kind: KindOfShop, seed: int, timing: Timing) -> None:
        self.kind = kind
        self.totals = Totals()
        self._seed = seed
        self._timing = timing
        self._draw = Random(f"visits {seed}")
        self._n_events = 0
        self._n_visits = 0
        self._here: set[int] = set()
        self._open = [self._begin() for _ in range(min(kind.n_open, kind.n_users))]

    def items(self) -> list[Item]:
        """The catalogue; some of it nobody ever looks at, or not yet."""
        return [self.kind.item(row) for row in range(self.kind.n_items)]

    def stream(self, n_events: int | None = None) -> Iterator[Chunk]:
        """The next n_events events; None: without end."""
        left = n_events
        while left is None or left > 0:
            size = CHUNK if left is None else min(left, CHUNK)
            chunk = Chunk([], [], size)
            for _ in range(size):
                user, text = self._next()
                chunk.keys.append(b"u%d" % user)
                chunk.values.append(text.encode())
            if left is not None:
                left -= size
            yield chunk

    def _begin(self) -> tuple[int, int, Iterator[int]]:
        """A new visit: user, number, items. Nobody makes two visits at a time."""
        user = self._draw.randrange(self.kind.n_users)
        while user in self._here:
            user = self._draw.randrange(self.kind.n_users)
        self._here.add(user)
        self._n_visits += 1
        return user, self._n_visits, self.kind.visit(user)

    def _next(self) -> tuple[int, str]:
        """User and JSON value of the next event."""
        number = self._n_events
        self.kind.tick(number)
        place = self._draw.randrange(len(self._open))
        user, visit, items = self._open[place]
        row = next(items, None)
        while row is None:
            self._here.discard(user)
            user, visit, items = self._open[place] = self._begin()
            row = next(items, None)
        self._n_events += 1
        self.totals.kinds[self.kind.deed] += 1
        return user, (
            f'{{"type":"{self.kind.deed}","user_id":"u{user}","ts":{self._timing.at(number)},'
            f'"event_id":"s{self._seed}-{self._timing.start_ms:x}-{number}","item_id":"i{row}",'
            f'"session_id":"{self._seed}-{visit}"}}'
        )
