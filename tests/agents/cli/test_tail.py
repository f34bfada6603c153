"""`foldstream tail`: filters, limits, and messages that are no JSON."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiokafka import AIOKafkaProducer

from agents.__main__ import run_command
from agents.cli.common import Exit
from streams.topics import TopicSet


@pytest.fixture
def tail(kafka: str, topics: TopicSet) -> list[str]:
    """The command, with three messages of two users on the events topic."""

    async def send() -> None:
        async with AIOKafkaProducer(bootstrap_servers=kafka) as producer:
            for key, value in (
                (b"u1", b'{"type":"click","item_id":"[red]","rating":null}'),
                (b"u2", b"caf\xe9 [bold]"),
                (b"u1", None),
            ):
                await producer.send_and_wait(topics.events.name, value, key=key)

    asyncio.run(send())
    return [
        *("tail", "events", "--kafka", kafka, "--topic-prefix", topics.prefix),
        *("--from-beginning", "--no-follow"),
    ]


def test_json_lines_carry_value_key_and_place(
    tail: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*tail, "--json", "--user", "u1"]) == Exit.DONE
    first, second = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert first["value"] == {"type": "click", "item_id": "[red]", "rating": None}
    assert (first["key"], first["offset"]) == ("u1", 0)
    assert second["value"] is None


def test_bytes_that_are_no_json_are_shown_raw(
    tail: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*tail, "--json", "--user", "u2"]) == Exit.DONE
    assert json.loads(capsys.readouterr().out)["raw"] == "caf\\xe9 [bold]"


def test_people_get_one_line_each_and_brackets_stay_text(
    tail: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(tail) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    shown = "\n".join(lines)
    assert "click  item_id [red]" in shown
    assert "caf\\xe9 [bold]" in shown
    assert "deleted" in shown


def test_the_limit_ends_it(tail: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command([*tail, "--json", "--limit", "2"]) == Exit.DONE
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_an_unknown_topic_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["tail", "clicks"]) == Exit.USAGE
    assert "events, items" in capsys.readouterr().err.replace("\n", " ")
