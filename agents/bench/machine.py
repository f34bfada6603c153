"""What a figure was measured on: a rate without it says nothing."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PACKAGES = ("foldstream", "aiokafka", "faust-streaming", "msgspec", "numba", "numpy", "redis")


class Machine(msgspec.Struct, frozen=True):
    """Processor, memory and versions. load_1m: of the machine before the run; 0 is quiet."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load_1m: float
    versions: dict[str, str]

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB, {self.system}, "
            f"load before the run {self.load_1m:.1f}",
            ", ".join(f"{name} {number}" for name, number in self.versions.items()),
        ]


def this_machine(servers: dict[str, str]) -> Machine:
    """servers: versions of broker and store, as far as they are known."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        memory_gib=round(pages / 2**30, 1),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        load_1m=round(os.getloadavg()[0], 2),
        versions=versions | servers,
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far, all its threads; 0.0 where it can't be told.

    >>> cpu_seconds(os.getpid()) >= 0.0
    True
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()  # the name before may hold anything
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
