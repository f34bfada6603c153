"""`foldstream restore` says where it moved what was there, and how to be rid of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest

from agents import __main__ as program
from agents.backup import DESCRIPTION, Backup, BackupFile

SNAPSHOT = b"REDIS0011 as a server wrote it"


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Folder of a whole back-up."""
    folder = tmp_path / "backup"
    folder.mkdir()
    (folder / "store-0.rdb").write_bytes(SNAPSHOT)
    file = BackupFile(
        node="127.0.0.1:1",
        source="dump.rdb",
        file="store-0.rdb",
        n_bytes=len(SNAPSHOT),
        sha256=hashlib.sha256(SNAPSHOT).hexdigest(),
    )
    backup = Backup(
        made_ms=0,
        prefix="fs",
        generation="g1",
        n_partitions=1,
        record_format=3,
        cluster_id="c",
        topic="events",
        positions={0: 5},
        software="a store",
        files=[file],
    )
    (folder / DESCRIPTION).write_bytes(msgspec.json.encode(backup))
    return folder


def test_it_names_what_it_moved_aside_now_and_before(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "a stack"
    older = data_dir / "redis-before-restore-20200101-000000"
    for folder, content in ((data_dir / "redis", b"now"), (older, b"before")):
        folder.mkdir(parents=True)
        (folder / "appendonly.aof").write_bytes(content)
    assert program.run_command(["restore", str(kept), "--data-dir", str(data_dir), "--json"]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert result["moved_aside_before"] == [str(older)]
    aside = Path(result["moved_aside"])
    assert (aside / "appendonly.aof").read_bytes() == b"now"
    assert (older / "appendonly.aof").read_bytes() == b"before"
    assert (data_dir / "redis" / "appendonly.aof").read_bytes() == SNAPSHOT


def test_it_gives_the_command_that_removes_them(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data_dir = tmp_path / "a stack"
    older = data_dir / "redis-before-restore-20200101-000000"
    older.mkdir(parents=True)
    assert program.run_command(["restore", str(kept), "--data-dir", str(data_dir)]) == 0
    said = capsys.readouterr()
    text = "".join((said.out + said.err).split("\n"))
    assert f"rm -r '{older}'" in text
    assert "the oldest holds what ran before the first of them" in text
    assert "needed by nothing" not in text
