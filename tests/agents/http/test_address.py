"""The socket of our own, and the file that names a worker's address."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.http.address import (
    PortTaken,
    WorkerAddress,
    address_file,
    listen,
    read_addresses,
    write_address,
)


def test_port_0_takes_any_free_port() -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_a_taken_port_is_refused_with_the_flag_to_change() -> None:
    with listen("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(PortTaken, match=rf"127\.0\.0\.1:{port} .*--port"):
            listen("127.0.0.1", port)


def test_an_address_that_is_not_ours_is_refused_with_its_name() -> None:
    with pytest.raises(PortTaken, match=r"192\.0\.2\.1"):  # reserved for documentation
        listen("192.0.2.1", 0)


def test_a_written_address_is_read_again(tmp_path: Path) -> None:
    entry = WorkerAddress("shop-0", "http://127.0.0.1:5000", os.getpid())
    write_address(tmp_path, entry)
    assert read_addresses(tmp_path) == [entry]


def test_a_worker_that_was_killed_is_not_listed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write_address(tmp_path, WorkerAddress("gone", "http://127.0.0.1:5000", ended.pid))
    assert read_addresses(tmp_path) == []


def test_files_that_are_no_addresses_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "worker-0.json").write_text("{")
    (tmp_path / "worker-1.json").write_text(json.dumps({"port": 1}))
    assert read_addresses(tmp_path) == []


def test_an_instance_name_cannot_leave_the_data_directory(tmp_path: Path) -> None:
    assert address_file(tmp_path, "../../etc/x").parent == tmp_path
