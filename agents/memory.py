"""Keeps a worker's size at what it holds: glibc's malloc would keep what batches have freed.

Batches have ever other sizes. Left to itself, glibc takes their arrays from its heaps and leaves
ever other pages of them touched: a worker at half load grew by 5 MB an hour of which it held
nothing (docs/decisions/0063).
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable

import structlog
from mode import Service

logger = structlog.get_logger(__name__)

MAPPED_FROM = 128 * 1024
"""Bytes from which an allocation is mapped by itself and goes back when it is freed: where glibc
begins, too, but without a word it raises that to 32 MB."""

KEPT_AT_END = 16 * 1024 * 1024
"""Bytes that lie free at the end of the heap before they go back at once: so that not each batch
takes them anew. A trim takes them, too."""

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_ARENA_MAX = -8
"""Parameters of `mallopt`, as malloc.h numbers them."""

INTERVAL_S = 30.0
"""Between two trims: at most what half a minute frees is kept. One takes a millisecond or two,
during which threads that allocate wait."""


def keep_compact() -> bool:
    """Map large arrays by themselves, and let all threads share one heap; for the whole process.

    To be called before there are threads: a heap that one has already stays. Returns whether the C
    library took it; False where it has no `mallopt` (musl, macOS).
    """
    try:
        option: Callable[[int, int], int] = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    wanted = ((M_MMAP_THRESHOLD, MAPPED_FROM), (M_TRIM_THRESHOLD, KEPT_AT_END), (M_ARENA_MAX, 1))
    return all(option(name, value) for name, value in wanted)


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
