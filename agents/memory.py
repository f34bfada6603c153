"""Gives what was freed back to the system, so that a worker's size is what it holds.

glibc keeps freed pages of its arenas, and batches of changing sizes leave ever other ones of them
touched: a worker at half load grew by 5 MB an hour of which it held nothing (docs/decisions/0063).
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

import structlog
from mode import Service

logger = structlog.get_logger(__name__)

INTERVAL_S = 30.0
"""Between two times: at most what half a minute frees is kept. One takes a millisecond or two,
during which threads that allocate wait."""


def trimmer() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None where the C library has none (musl, macOS)."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError):
        return None
    return trim


class FreedMemory(Service):
    """Trims regularly for as long as it runs; does nothing where the C library can't."""

    def __init__(self, interval_s: float = INTERVAL_S) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._trim = trimmer()

    @Service.task
    async def _trim_regularly(self) -> None:
        if self._trim is None:
            logger.info("freed memory is kept: no malloc_trim in this C library")
            return
        while not self.should_stop:
            await self.sleep(self._interval_s)
            await asyncio.to_thread(self._trim, 0)  # ctypes lets go of the GIL meanwhile
