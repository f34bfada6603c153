"""`foldstream up`, `down`, `status` as a user types them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from streams.embedded.guard import wait_gone
from streams.embedded.stack import lock_is_held

Up = Callable[..., "tuple[subprocess.Popen[str], dict[str, object]]"]


def foldstream(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agents", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def up(tmp_path: Path, kafka: str) -> Iterator[Up]:
    """``up(...)``: `foldstream up` with the session's broker (so it is quick), and what it said."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> tuple[subprocess.Popen[str], dict[str, object]]:
        command = [sys.executable, "-m", "agents", "up", "--json", "--kafka", kafka]
        command += ["--data-dir", str(tmp_path), *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        with process.stdout:
            return process, json.loads(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_up_status_and_down_agree(up: Up, tmp_path: Path, kafka: str) -> None:
    process, info = up()
    told = foldstream("status", "--json", "--data-dir", tmp_path)
    assert told.returncode == 0
    status = json.loads(told.stdout)
    assert status["running"] is True
    assert status["pid"] == process.pid == info["pid"]
    assert status["kafka"] == kafka
    assert status["redis"] == info["redis"]
    assert status["answers"] == {"kafka": True, "redis": True}
    assert "valkey" in foldstream("status", "--data-dir", tmp_path).stdout

    assert foldstream("down", "--data-dir", tmp_path).returncode == 0
    assert process.wait(30) == 0
    assert not lock_is_held(tmp_path)
    assert foldstream("status", "--data-dir", tmp_path).returncode == 3
    again = foldstream("down", "--json", "--data-dir", tmp_path)
    assert (again.returncode, json.loads(again.stdout)) == (0, {"stopped": False})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_up_in_order(up: Up, tmp_path: Path, number: signal.Signals) -> None:
    process, info = up("--ephemeral")
    process.send_signal(number)
    assert process.wait(30) == 0
    assert isinstance(info["pids"], dict)
    assert wait_gone(info["pids"]["redis"], 10)
    assert not (tmp_path / "stack.json").exists()


def test_up_ends_with_an_error_when_its_store_dies(up: Up, tmp_path: Path) -> None:
    process, info = up()
    assert isinstance(info["pids"], dict)
    subprocess.run(["kill", "-9", str(info["pids"]["redis"])], check=True)
    assert process.wait(30) == 1
    assert not lock_is_held(tmp_path)


def test_a_second_up_says_who_holds_the_folder(up: Up, tmp_path: Path, kafka: str) -> None:
    process, _ = up()
    second = foldstream("up", "--data-dir", tmp_path, "--kafka", kafka)
    assert second.returncode == 1
    assert f"in use by process {process.pid}" in second.stderr


def test_a_wrong_address_is_a_usage_error(tmp_path: Path) -> None:
    wrong = foldstream("up", "--data-dir", tmp_path, "--kafka", "nowhere")
    assert wrong.returncode == 2
    assert "host:port" in wrong.stderr
