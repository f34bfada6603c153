"""`foldstream schema`: the schemas on the screen and in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit


def test_one_topic_is_printed_as_a_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schema", "items"]) == Exit.DONE
    schema = json.loads(capsys.readouterr().out)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "item_id" in schema["$defs"]["Item"]["properties"]


def test_all_topics_are_written_to_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", "--out", str(tmp_path / "s"), "--json"]) == Exit.DONE
    files = json.loads(capsys.readouterr().out)["files"]
    assert str(tmp_path / "s" / "events.schema.json") in files
    assert all(json.loads(Path(file).read_text()) for file in files)


def test_a_shop_finds_its_own_kinds_in_the_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "foldstream.toml"
    config.write_text('[[kinds]]\nname = "favourite"\n')
    assert run_command(["schema", "events", "--config", str(config)]) == Exit.DONE
    assert '"favourite"' in capsys.readouterr().out


def test_an_unknown_topic_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schema", "clicks"]) == Exit.USAGE
    assert "there are events" in capsys.readouterr().err


def test_a_misspelt_option_ends_with_2_and_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["schema", "--ouch"]) == Exit.USAGE
    assert "--ouch" in capsys.readouterr().err
