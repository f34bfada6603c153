"""`foldstream config show`."""

from __future__ import annotations

import json

import pytest

from agents.__main__ import run_command


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_the_password_of_the_store_is_not_shown(
    flags: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FOLDSTREAM_REDIS", "rediss://shop:s3cret@store:6379/0")
    assert run_command(["config", "show", *flags]) == 0
    printed = capsys.readouterr().out
    assert "s3cret" not in printed
    assert "shop:***@" in printed
    if flags:
        assert json.loads(printed)["redis"] == {
            "value": "rediss://shop:***@store:6379/0",
            "source": "environment",
        }
