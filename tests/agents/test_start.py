"""What starts brings only what it needs: a worker that was killed has to be back in seconds."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("faust", "fastapi", "numba", "river", "scipy.stats", "nicegui")


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("agents.worker", {"faust", "fastapi", "numba"}),
        ("agents.doctor.examine", set()),
        ("agents.backup", set()),
        ("agents.promotion", set()),
        ("agents.cli.chaos", set()),
    ],
)
def test_a_module_brings_no_more_than_it_needs(module: str, allowed: set[str]) -> None:
    code = f"import sys, {module}; print(*(n for n in {HEAVY!r} if n in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= allowed
