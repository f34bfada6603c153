"""Workers of one data directory get numbers of their own, the same again after a restart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agents.errors import UsageError
from agents.instance import worker_number


def test_workers_side_by_side_get_different_numbers_and_free_ones_come_again(
    tmp_path: Path,
) -> None:
    with worker_number(tmp_path) as first:
        with worker_number(tmp_path) as second:
            assert (first, second) == (0, 1)
        with worker_number(tmp_path) as third:
            assert third == 1
    with worker_number(tmp_path) as again:
        assert again == 0


def test_a_killed_workers_number_is_free_at_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, pathlib\n"
        "from agents.instance import worker_number\n"
        "with worker_number(pathlib.Path(sys.argv[1])) as number:\n"
        "    print(number, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False
    )
    assert done.stdout == "0\n"
    with worker_number(tmp_path) as number:
        assert number == 0


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="--data-dir"), worker_number(tmp_path / "file" / "data"):
        raise AssertionError("not reached")
