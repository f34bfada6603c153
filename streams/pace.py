"""Pace: many small looks become fewer, larger ones, and a single event never waits.

A reader that wakes for each of 1,000 messages a second pays 1,000 times for what it could do in 50
turns. But a timer that makes every message wait would be paid by the quiet shop, too. So turns have
a budget: unused turns are saved up, and only who spends faster than the budget fills has to wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """A budget of turns: `rate_per_s` on average, `burst` at once after a quiet moment.

    >>> now = iter([0.0, 0.0, 0.0, 10.0]).__next__
    >>> pace = Pace(rate_per_s=50, burst=2, clock=now)
    >>> pace.pause_s(), pace.pause_s(), pace.pause_s()
    (0.0, 0.02, 0.0)
    """

    def __init__(
        self,
        rate_per_s: float = 50.0,
        burst: int = 25,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """50 turns a second: 20 ms at most between an event and its turn, 10 ms on average."""
        self._rate_per_s = rate_per_s
        self._burst = float(burst)
        self._clock = clock
        self._saved = float(burst)
        self._at = clock()

    def pause_s(self) -> float:
        """Call after a turn that found something: how long to wait before the next look."""
        now = self._clock()
        self._saved = min(self._burst, self._saved + (now - self._at) * self._rate_per_s) - 1
        self._at = now
        return max(0.0, (1 - self._saved) / self._rate_per_s)
