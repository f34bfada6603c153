"""`foldstream dead-letters`: list, show and replay as a person types them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit
from streams.topics import TopicSet
from tests.builders import put_raw, set_aside, settings_of

LARGE = b'{"type":"wish","text":"' + b"y" * 2_000 + b'"}'


@pytest.fixture
def where(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> list[str]:
    """The options that lead to this test's topics, with four dead letters on them."""
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)

    async def fill() -> None:
        wrong_time = b'{"type":"click","user_id":"u1","item_id":"i1","ts":"now","event_id":"e1"}'
        messages = [(b"u1", wrong_time), (b"u2", b"\xff[red]"), (b"u3", LARGE), (b"u4", None)]
        await put_raw(settings, messages)
        await set_aside(settings, max_bytes=1_024)

    asyncio.run(fill())
    return ["--kafka", kafka, "--topic-prefix", topics.prefix, "--data-dir", str(tmp_path)]


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    document: dict[str, object] = json.loads(capsys.readouterr().out)
    return document


def letters(where: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Position by reason code."""
    assert run_command(["dead-letters", "list", *where, "--json"]) == Exit.DONE
    listed = said(capsys)["letters"]
    assert isinstance(listed, list)
    return {one["code"]: one["position"] for one in listed}


def test_the_list_counts_by_reason_and_shows_the_newest(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["dead-letters", "list", *where, "--json", "--limit", "2"]) == Exit.DONE
    document = said(capsys)
    assert document["total"] == 4
    codes = document["codes"]
    assert isinstance(codes, dict)
    assert {"invalid_event": 1, "unknown_type": 1, "empty_value": 1}.items() <= codes.items()
    assert len(codes) == 4
    assert len(document["letters"]) == 2  # type: ignore[arg-type]
    narrowed = ["--code", "unknown_type", "--since", "1h", "--where", "type=wish"]
    assert run_command(["dead-letters", "list", *where, *narrowed]) == Exit.DONE
    shown = capsys.readouterr().out
    assert "unknown_type" in shown
    assert "empty_value" not in shown
    assert run_command(["dead-letters", "list", *where, "--until", "1d"]) == Exit.DONE
    assert "no dead letters like that" in capsys.readouterr().out


def test_one_is_shown_with_its_reason_and_original_bytes(
    where: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = letters(where, capsys)
    saved = tmp_path / "original"
    large = ["dead-letters", "show", places["unknown_type"], *where]
    assert run_command([*large, "--json", "--save", str(saved)]) == Exit.DONE
    document = said(capsys)
    assert (document["fetched"], document["bytes"]) == (True, len(LARGE))
    assert document["value"] == json.loads(LARGE)
    assert saved.read_bytes() == LARGE
    assert run_command([*large, "--hex"]) == Exit.DONE
    assert "00000000  7b 22 74 79" in capsys.readouterr().out
    short = places["invalid_event"].split(".", 1)[1].partition("/")[2]  # partition/offset
    assert run_command(["dead-letters", "show", short, *where]) == Exit.DONE
    shown = capsys.readouterr().out
    assert "invalid_event" in shown
    assert '"event_id": "e1"' in shown
    assert run_command(["dead-letters", "show", "0/999999", *where]) == Exit.USAGE
    assert "no dead letter of that position" in capsys.readouterr().err


def test_bytes_that_are_no_text_stay_bytes(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    places = letters(where, capsys)
    (code,) = set(places) - {"invalid_event", "unknown_type", "empty_value"}
    assert run_command(["dead-letters", "show", places[code], *where]) == Exit.DONE
    assert "\\xff[red]" in capsys.readouterr().out


def test_a_replay_says_what_it_would_do_then_does_it_once(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["dead-letters", "replay", "--code", "invalid_event", *where, "--json"]
    assert run_command([*command, "--dry-run"]) == Exit.DIFFERENCE
    document = said(capsys)
    assert (document["refused"], document["n_refused"]) == ({"invalid_event": 1}, 1)
    mended = [*command, "--set", "ts=1750000000000"]
    assert run_command([*mended, "--dry-run"]) == Exit.DONE
    assert said(capsys)["accepted"] == 1
    assert run_command(mended) == Exit.USAGE  # there is nobody to ask
    assert "--yes" in capsys.readouterr().err
    mended.append("--yes")
    assert run_command(mended) == Exit.DONE
    assert said(capsys)["sent"] == 1
    assert run_command(mended) == Exit.DONE
    again = said(capsys)
    assert (again["sent"], again["sent_before"]) == (0, 1)
    assert run_command(["dead-letters", "list", *where, "--json"]) == Exit.DONE
    listed = said(capsys)["letters"]
    replayed = {one["code"]: one["replayed_ms"] is not None for one in listed}  # type: ignore[attr-defined]
    assert replayed["invalid_event"]
    assert not replayed["unknown_type"]


def test_a_replay_of_everything_must_be_asked_for(
    where: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["dead-letters", "replay", *where]) == Exit.USAGE
    assert "--all" in capsys.readouterr().err
    assert run_command(["dead-letters", "replay", "--all", "--yes", *where]) == Exit.DIFFERENCE
    told = capsys.readouterr()
    assert "4 dead letters selected" in told.out
    assert "would be refused again" in told.out
    assert "--force" in told.err


@pytest.mark.parametrize(
    "options",
    [["--since", "soon"], ["--where", "x"], ["--partition", "-1"]],
)
def test_a_wrong_filter_ends_with_2(options: list[str]) -> None:
    assert run_command(["dead-letters", "list", *options]) == Exit.USAGE


def test_no_broker_ends_with_3(tmp_path: Path) -> None:
    where = ["--kafka", "127.0.0.1:1", "--data-dir", str(tmp_path)]
    assert run_command(["dead-letters", "list", *where]) == Exit.NOT_THERE
