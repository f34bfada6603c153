"""`foldstream --version`: the installed version, whatever else is asked."""

import platform
from importlib.metadata import version

import pytest

from agents.__main__ import run_command


@pytest.mark.parametrize("arguments", [["--version"], ["--version", "worker"]])
def test_the_version_is_told_and_nothing_runs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments) == 0
    told = capsys.readouterr().out
    assert told == f"foldstream {version('foldstream')} (Python {platform.python_version()})\n"
