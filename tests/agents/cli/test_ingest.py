"""`foldstream ingest` end to end: flags, report, exit codes, and a run killed with SIGKILL."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit
from streams.topics import TopicSet

HEADER = "ts_ms,session_id,item_id\n"


@pytest.fixture
def clicks(tmp_path: Path) -> Path:
    path = tmp_path / "clicks.csv"
    path.write_text(HEADER + "1000,u,a\n2000,u,b\n3000,,c\n")
    return path


def arguments(path: Path, kafka: str, topics: TopicSet) -> list[str]:
    return [
        *("ingest", str(path), "--json", "--kafka", kafka, "--topic-prefix", topics.prefix),
        *("--data-dir", str(path.parent / "stack")),
    ]


def n_events(kafka: str, topics: TopicSet, capsys: pytest.CaptureFixture[str]) -> int:
    """Distinct event ids on the events topic."""
    capsys.readouterr()
    tail = ["tail", "events", "--from-beginning", "--no-follow", "--json", "--kafka", kafka]
    assert run_command([*tail, "--topic-prefix", topics.prefix]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    return len({json.loads(line)["value"]["event_id"] for line in lines})


def test_the_report_counts_lines_events_and_rejects(
    kafka: str, topics: TopicSet, clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(arguments(clicks, kafka, topics)) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert (report["mapping"], report["lines"], report["accepted"]) == ("yoochoose", 3, 2)
    assert report["rejected"] == {"missing_user_id": 1}
    assert report["sent_events"] == n_events(kafka, topics, capsys) == 2


def test_people_get_a_table(
    kafka: str, topics: TopicSet, clicks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [word for word in arguments(clicks, kafka, topics) if word != "--json"]
    assert run_command(plain) == Exit.DONE
    shown = capsys.readouterr().out
    assert "3 read, 2 accepted" in shown
    assert "1 rejected: missing_user_id" in shown


def test_a_file_of_unknown_columns_ends_with_2_and_the_way_out(
    tmp_path: Path, kafka: str, topics: TopicSet, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    assert run_command(arguments(path, kafka, topics)) == Exit.USAGE
    assert "--mapping" in capsys.readouterr().err


@pytest.mark.parametrize("speed", ["fast", "0", "-1", "nan"])
def test_a_wrong_speed_ends_with_2(speed: str, clicks: Path) -> None:
    assert run_command(["ingest", str(clicks), "--speed", speed]) == Exit.USAGE


def test_no_broker_ends_with_3(clicks: Path, tmp_path: Path) -> None:
    wanted = ["ingest", str(clicks), "--kafka", "127.0.0.1:1", "--data-dir", str(tmp_path)]
    assert run_command(wanted) == Exit.NOT_THERE


def test_a_run_killed_at_any_moment_goes_on_and_leaves_nothing_out(
    tmp_path: Path, kafka: str, topics: TopicSet, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recorded pace makes the run last 6 s; it is killed once it has remembered a line."""
    path = tmp_path / "clicks.csv"
    n_lines = 6_000
    rows = (f"{1_000 + n},u{n % 50},i{n % 20}\n" for n in range(n_lines))
    path.write_text(HEADER + "".join(rows))
    wanted = [*arguments(path, kafka, topics), "--speed", "1"]
    running = subprocess.Popen(
        [sys.executable, "-m", "agents", *wanted], stdout=subprocess.DEVNULL, cwd=Path.cwd()
    )
    states = tmp_path / "stack" / "ingest"
    deadline = time.monotonic() + 60
    while not list(states.rglob("*.json")):
        assert running.poll() is None, "ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    capsys.readouterr()
    # The pace is not part of the position: the rest may go at full speed.
    assert run_command(arguments(path, kafka, topics)) == Exit.DONE
    report = json.loads(capsys.readouterr().out)
    assert 0 < report["resumed_at_line"] < n_lines
    assert report["accepted"] == n_lines == n_events(kafka, topics, capsys)
    assert not list(states.rglob("*.json"))
