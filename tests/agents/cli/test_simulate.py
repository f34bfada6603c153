"""`foldstream simulate`: what it reports is what is on the topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit
from streams.topics import TopicSet


def test_the_report_is_what_was_sent(
    kafka: str, topics: TopicSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--kafka", kafka, "--topic-prefix", topics.prefix, "--data-dir", str(tmp_path)]
    options = ["--fill", "--events", "2000", "--users", "100", "--items", "40"]
    options += ["--repeat", "0.1", "--malformed", "0.1"]
    assert run_command(["simulate", *where, *options, "--json"]) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert report["events"] == sum(report["seen"]["kinds"].values()) == 2_000
    assert report["messages"] == 2_000 + report["seen"]["repeated"] + report["seen"]["malformed"]
    tail = ["tail", "events", "--from-beginning", "--no-follow", "--json", *where]
    assert run_command(tail) == Exit.DONE
    assert len(capsys.readouterr().out.splitlines()) == report["messages"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--rate max", "--events"),
        ("--rate -3", "--rate"),
        ("--fill --events 5 --late 2", "late"),
        ("--fill --events 5 --shop-rate 0", "--shop-rate"),
    ],
)
def test_a_wrong_option_is_named_and_ends_with_2(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["simulate", *options.split()]) == Exit.USAGE
    assert message in capsys.readouterr().err


def test_no_broker_ends_with_3(tmp_path: Path) -> None:
    options = ["--kafka", "127.0.0.1:1", "--data-dir", str(tmp_path), "--events", "1"]
    assert run_command(["simulate", *options]) == Exit.NOT_THERE
