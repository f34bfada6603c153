"""What was freed goes back to the system: seen from outside, as the size of a process."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import numpy as np
import pytest

from agents.memory import FreedMemory, trimmer
from tests.builders import until

pytestmark = pytest.mark.skipif(trimmer() is None, reason="needs glibc's malloc_trim")

PIECE = 32 * 1024
"""Below what glibc takes from the system by itself, and gives back by itself."""


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_what_lies_free_between_two_things_in_use_goes_back() -> None:
    pieces = [np.ones(PIECE, np.uint8) for _ in range(2_000)]
    kept = pieces[::50]  # so that no end of the arena is free as a whole
    before = resident()
    del pieces
    freed = 2_000 * PIECE - sum(piece.nbytes for piece in kept)
    service = FreedMemory(interval_s=0.05)
    await service.start()
    try:

        async def gone() -> bool:
            return before - resident() > 0.8 * freed

        await until(gone, "freed memory is the system's again", within_s=10)
    finally:
        await asyncio.wait_for(service.stop(), 5)
    assert all(piece.all() for piece in kept)
