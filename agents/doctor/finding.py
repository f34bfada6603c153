"""What a check says, and what it has to look with."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

import msgspec

from agents.settings import Settings
from profiles.store import ProfileStore
from streams.topics import TopicSet

Severity = Literal["ok", "warning", "error"]

Need = Literal["broker", "store"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at.

    level: ok, warning (works, with a risk) or error (mend it). thing: what was looked at; finding:
    what is so; why: what that leads to; remedy: what to do. check: which check says it.
    """

    level: Severity
    thing: str
    finding: str
    why: str = ""
    remedy: str = ""
    check: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a check may use. store: started, where the store is there."""

    settings: Settings
    topics: TopicSet
    store: ProfileStore

    def now_ms(self) -> float:
        """This machine's clock, ms since 1970."""
        return time.time_ns() / 1_000_000


@dataclass(frozen=True, slots=True)
class Check:
    """One question. needs: which neighbours must be there for it."""

    name: str
    needs: frozenset[Need]
    look: Callable[[Bench], Awaitable[list[Finding]]]


def some(numbers: list[int]) -> str:
    """A few numbers in full, many in short.

    >>> some([3, 1]), some(list(range(9)))
    ('1, 3', '0, 1, 2, 3, 4, 5 and 3 more')
    """
    shown = ", ".join(map(str, sorted(numbers)[:6]))
    return shown if len(numbers) <= 6 else f"{shown} and {len(numbers) - 6} more"


def length(ms: float) -> str:
    """A duration for people.

    >>> length(1_500), length(90_000), length(7_200_000), length(3 * 86_400_000)
    ('1.5 s', '90 s', '2.0 h', '3.0 d')
    """
    seconds = ms / 1_000
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 3_600:
        return f"{seconds:.0f} s"
    return f"{seconds / 3_600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} d"
