"""Checks of this machine: versions, compiled kernels, disk."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

import profiles
from agents.doctor.finding import Bench, Finding

LEAST_FREE_BYTES = 1 << 30
LEAST_FREE_SHARE = 0.05

SHOWN = ("aiokafka", "faust-streaming", "msgspec", "numba", "numpy", "redis")


async def versions(bench: Bench) -> list[Finding]:
    """Installed packages against what this version of foldstream asks for."""
    return examine_packages(requires("foldstream") or [])


def examine_packages(wanted: list[str]) -> list[Finding]:
    """Requirements, as pip writes them, against what is installed."""
    findings, installed = [], {}
    for text in wanted:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name = requirement.name
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "nothing"
        if installed[name] == "nothing" or not requirement.specifier.contains(
            installed[name], prereleases=True
        ):
            findings.append(
                Finding(
                    level="error",
                    thing=f"package {name}",
                    finding=f"{installed[name]} is installed, {requirement.specifier or 'any'} is "
                    "asked for",
                    why="foldstream leans on how these versions behave (private parts included)",
                    remedy="pip install --requirement requirements.txt",
                )
            )
    shown = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)
    return findings or [
        Finding(
            level="ok",
            thing=f"Python {platform.python_version()}",
            finding=f"foldstream {version('foldstream')}; {shown}",
        )
    ]


async def kernels(bench: Bench) -> list[Finding]:
    """Whether a worker that starts here finds compiled kernels."""
    folder = os.environ.get("NUMBA_CACHE_DIR")
    return [examine_kernels(Path(folder) if folder else Path(profiles.__file__).parent)]


def examine_kernels(folder: Path) -> Finding:
    """folder: where numba keeps them, or the package beside whose files it does."""
    thing = "compiled kernels"
    found = any(folder.rglob("*.nbi"))
    if found:
        return Finding(level="ok", thing=thing, finding=f"in {folder}")
    cache = folder / "__pycache__" if (folder / "kernel.py").exists() else folder
    if not any(os.access(place, os.W_OK) for place in (cache, cache.parent)):
        return Finding(
            level="warning",
            thing=thing,
            finding=f"none, and {cache} can't be written",
            why="every start of a worker compiles them anew, a minute or two",
            remedy="set NUMBA_CACHE_DIR to a folder that stays and that the worker may write",
        )
    return Finding(
        level="ok", thing=thing, finding="none yet: the first start compiles them, a minute or two"
    )


async def disk(bench: Bench) -> list[Finding]:
    """Room where the embedded stack, locks and positions live."""
    folder = bench.settings.data_dir
    while not folder.exists() and folder != folder.parent:
        folder = folder.resolve().parent
    usage = shutil.disk_usage(folder)
    return [examine_disk(bench.settings.data_dir, usage.free, usage.total)]


def examine_disk(folder: Path, free_bytes: int, total_bytes: int) -> Finding:
    """Room of one file system."""
    thing = f"disk of {folder}"
    told = f"{free_bytes / 1e9:.1f} GB of {total_bytes / 1e9:.1f} GB are free"
    if free_bytes < max(LEAST_FREE_BYTES, LEAST_FREE_SHARE * total_bytes):
        level = "error" if free_bytes < LEAST_FREE_BYTES / 10 else "warning"
        return Finding(
            level=level,  # type: ignore[arg-type]  # one of the two
            thing=thing,
            finding=told,
            why="a broker whose disk is full ends itself; a store refuses commits",
            remedy="free some; or move the stack (--data-dir)",
        )
    return Finding(level="ok", thing=thing, finding=told)
