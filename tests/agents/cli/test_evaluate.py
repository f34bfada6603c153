"""`foldstream evaluate`: options that would be dropped are refused."""

from __future__ import annotations

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--workers 2", "--through-kafka"),
        ("--rate 9", "--workers"),
        ("--through-kafka --rate 9", "--workers"),
        ("--attack-visits 5", "--attack"),
        ("--through-kafka --seed 1", "no use for --seed"),
        ("--through-kafka --attack 5", "choose one"),
        ("--through-kafka --every 2", "no use for --every"),
        ("--attack 5 --plot p.svg", "no use for --plot"),
        ("--attack 5 --every 2", "no use for --every"),
        ("--attack 5 --tenths", "no use for --tenths"),
        ("--attack 5 --models fold", "no use for --models"),
    ],
)
def test_an_option_that_would_be_dropped_is_named(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["evaluate", "no-such-data", *options.split()]) == Exit.USAGE
    assert message in " ".join(capsys.readouterr().err.split())
