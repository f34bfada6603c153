"""What was freed goes back to the system: seen from outside, as the size of a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
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


WHERE = """
import sys
import threading
from pathlib import Path
import numpy as np
from agents.memory import keep_compact

def in_heap(array):
    maps = Path("/proc/self/maps").read_text().splitlines()
    (line,) = [line for line in maps if "[heap]" in line]
    first, _, end = line.split()[0].partition("-")
    return int(first, 16) <= array.ctypes.data < int(end, 16)

if sys.argv[1] == "compact":
    assert keep_compact()
np.ones(8 << 20, np.uint8)  # freed at once: glibc then takes what is smaller from its heap
small = []
other = threading.Thread(target=lambda: small.append(np.ones(60_000, np.uint8)))
other.start()
other.join()
print(in_heap(np.ones(1 << 20, np.uint8)), in_heap(small[0]))
"""
"""Whether a large array lies in the heap, and a small one of another thread."""


@pytest.mark.parametrize(("how", "told"), [("as it is", "True False"), ("compact", "False True")])
def test_large_arrays_are_mapped_and_threads_share_one_heap(how: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHERE, how], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told


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
