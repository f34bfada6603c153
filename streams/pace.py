"""Pace: many small looks become fewer, larger ones, and a single event never waits.

Who wakes for each of 1,000 messages a second pays 1,000 times for what 50 turns could do. But a
timer that makes every message wait would be paid by the quiet shop, too. So turns have a budget:
unused turns are saved up, and only who spends faster than the budget fills has to wait. Readers
wait where it is cheapest, at the broker (`FetchPace`); others sleep (`Pace.pause_s`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

QUIET: Final = (1, 250)
"""Least bytes and longest wait (ms) of a fetch when it is quiet: a message comes at once."""

BUSY: Final = (1 << 20, 20)
"""And in a busy one: the broker gathers for 20 ms, or until there is plenty."""


LEAST_BUSY: Final = 0.7
MOST_BUSY: Final = 0.85
"""Share of the time that a thread may have something to do: beyond, what comes finds it busy too
often."""

SCHEDULED: Final = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds that the thread computed, that it waited for a processor, and its turns."""


def demand_s(scheduled: Path = SCHEDULED) -> float:
    """Seconds that this thread has computed, or could have if it had had a processor.

    Where processors are short, computing alone looks like idling. Without Linux' file it is all
    that is known.
    """
    try:
        waited_s = int(scheduled.read_bytes().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        waited_s = 0.0
    return time.thread_time() + waited_s


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
        self.burst = float(burst)
        self.saved = float(burst)
        self._rate_per_s = rate_per_s
        self._clock = clock
        self._at = clock()

    def rest(self) -> None:
        """Time has gone by."""
        now = self._clock()
        self.saved = min(self.burst, self.saved + (now - self._at) * self._rate_per_s)
        self._at = now

    def spend(self) -> None:
        """One turn was taken."""
        self.rest()
        self.saved -= 1

    def pause_s(self) -> float:
        """Spend a turn; how long to wait before the next one."""
        self.spend()
        return max(0.0, (1 - self.saved) / self._rate_per_s)


class WorkPace(Pace):
    """A budget that follows what a thread has left: more turns where it idles, fewer where not.

    A thread that is busy for more than `MOST_BUSY` of the time makes everything wait for everything
    else; one that idles could have let nobody wait. A budget that was not used up stays: grown in
    a quiet hour it would be too large when the load comes.
    """

    def __init__(
        self,
        rate_per_s: float,
        bounds: tuple[float, float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """rate_per_s: to begin with. bounds: of it."""
        super().__init__(rate_per_s, burst=int(rate_per_s / 4), clock=clock)
        self._least, self._most = bounds
        self._ran_short = False  # since it last followed

    def spend(self) -> None:
        """One turn was taken."""
        super().spend()
        self._ran_short |= self.saved < 1

    @property
    def rate_per_s(self) -> float:
        """Turns a second, at present."""
        return self._rate_per_s

    def follow(self, busy: float) -> None:
        """Call about once a second. busy: share of the time in which the thread had something to do
        (`demand_s`)."""
        self.rest()
        if busy > MOST_BUSY:
            self._rate_per_s = max(self._least, self._rate_per_s * 0.8)
        elif busy < LEAST_BUSY and self._ran_short:
            self._rate_per_s = min(self._most, self._rate_per_s * 1.25)
        self.burst = self._rate_per_s / 4
        self._ran_short = False


class FetchPace:
    """Lets the broker gather messages while a consumer is busy.

    aiokafka sends a fetch as soon as the last one was consumed, and the broker answers it with the
    first message; what comes a moment later waits for the fetch behind it. So a pause between two
    looks would cost two pauses of latency; a fetch that the broker holds for a moment costs one.
    """

    def __init__(self, pace: Pace | None = None) -> None:
        self._pace = pace or Pace()
        self.busy = False

    def note(self, consumer: Any, n_messages: int) -> None:
        """Call after each turn of an `AIOKafkaConsumer`, with what it brought."""
        if n_messages:
            self._pace.spend()
        else:
            self._pace.rest()
        if self._pace.saved < 1:
            busy = True
        elif self._pace.saved > self._pace.burst / 2:
            busy = False
        else:
            return
        if busy != self.busy:
            self.busy = busy
            # Private to aiokafka, pinned below 0.15; a test watches that they are still read.
            fetcher = consumer._fetcher
            fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = BUSY if busy else QUIET
