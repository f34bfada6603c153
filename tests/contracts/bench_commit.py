"""CPU time of one fenced commit, in this process and in the server.

Run it from a checkout: ``python tests/contracts/bench_commit.py`` (some five seconds). Not a test:
a busy machine makes the numbers larger.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from profiles.store import CommitBatch, LogPosition, ProfileStore, StoreConfig
from streams.embedded.store import StoreServer

RECORD_BYTES = 600
RING_BYTES = 2_097_152
LOG = LogPosition("bench", "foldstream.events", 16, 1, 2, 3)


async def server_cpu_s(store: ProfileStore) -> float:
    """Seconds of CPU the server has used so far."""
    (info,) = await store._pool.ask_slot(0, [b"*2\r\n$4\r\nINFO\r\n$3\r\ncpu\r\n"], 1, "INFO")
    said = dict(line.split(":") for line in info.decode().splitlines() if ":" in line)
    return float(said["used_cpu_sys"]) + float(said["used_cpu_user"])


async def measure(store: ProfileStore, n_records: int, n_commits: int) -> str:
    """One line of the table."""
    claim = (await store.acquire(3, os.urandom(16))).claim
    checkpoint = await store.read_checkpoint(3)
    at = 0 if checkpoint is None else checkpoint.next_offset
    records = [(f"user-{i}", os.urandom(RECORD_BYTES)) for i in range(n_records)]
    server, cpu, wall = 0.0, 0.0, 0.0
    for round_commits in (50, n_commits):  # the first round warms up
        server, cpu, wall = await server_cpu_s(store), time.process_time(), time.perf_counter()
        for _ in range(round_commits):
            seen = [(at * 8 % RING_BYTES, b"x" * 8 * n_records)]
            outbox = [b"y" * 40 * n_records]
            batch = CommitBatch(at, at + n_records, records, seen, outbox, 5, LOG)
            await store.commit(claim, batch)
            at += n_records
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        server = await server_cpu_s(store) - server
    client_us, server_us, wall_us = (x / n_commits * 1e6 for x in (cpu, server, wall))
    return f"{n_records:>8} {client_us:>12.0f} {server_us:>12.0f} {wall_us:>12.0f}"


async def main(url: str) -> None:
    """Print the table, microseconds a commit."""
    lines = [" records    client us    server us      wall us"]
    async with ProfileStore(StoreConfig(url, "bench", 16)) as store:
        for n_records, n_commits in ((1, 3000), (10, 1000), (1000, 100)):
            lines.append(await measure(store, n_records, n_commits))
    print("\n".join(lines))  # noqa: T201  # its purpose


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        own = StoreServer(Path(folder) / "store", ephemeral=True)
        own.start()
        try:
            asyncio.run(main(own.url))
        finally:
            own.stop()
