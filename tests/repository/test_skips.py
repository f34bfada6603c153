"""A skip that may not be fails the run, in one process and in several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest

@pytest.mark.browser
def test_pages():
    pytest.skip("no Chromium")

def test_other():
    pytest.skip("not here")
"""


@pytest.mark.parametrize("processes", [0, 2])
@pytest.mark.parametrize("forbidden", [False, True])
def test_a_browser_test_may_be_skipped_only_where_it_is_said(
    processes: int, forbidden: bool, tmp_path: Path
) -> None:
    conftest = Path(__file__).parent.parent / "conftest.py"
    (tmp_path / "conftest.py").write_text(conftest.read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser: \n data: \n")
    (tmp_path / "test_some.py").write_text(TESTS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", str(processes), str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "FOLDSTREAM_NO_SKIP": str(int(forbidden))},
        timeout=120,
        check=False,
    )
    assert run.returncode == (1 if forbidden else 0), run.stdout + run.stderr
    named = [line for line in run.stdout.splitlines() if "MAY NOT BE" in line]
    assert len(named) == (1 if forbidden else 0)
    assert all(line.endswith("test_some.py::test_pages") for line in named)
