"""`foldstream simulate`: what it reports is what is on the topic."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit
from agents.evaluate.stream import read_stream
from agents.simulate.shop import Shop, ShopConfig
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


def test_files_hold_the_shop_that_would_be_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--events", "300", "--shop-rate", "10", "--json"]
    for shop in ("mixed", "pair"):
        to = ["--to", str(tmp_path / shop)]
        assert run_command(["simulate", "--shop", shop, *options, *to]) == Exit.DONE
        report = json.loads(capsys.readouterr().out)
        stream = read_stream(tmp_path / shop)
        assert len(stream) == report["events"] == 300
        assert len(stream.items) == report["items"] > 0
        assert stream.time_ms[-1] - stream.time_ms[0] == 29_900
    shop_of_options = Shop(ShopConfig(events_per_s=10.0))
    sent = b"".join(v + b"\n" for chunk in shop_of_options.stream(300) for v in chunk.values)
    to = ["--to", str(tmp_path / "shop")]
    assert run_command(["simulate", *options, *to, "--no-catalogue"]) == Exit.DONE
    assert (tmp_path / "shop" / "events.jsonl").read_bytes() == sent
    assert not (tmp_path / "shop" / "items.jsonl").exists()


@pytest.mark.parametrize("name", ["events.jsonl", "items.jsonl"])
def test_files_that_are_there_are_left_alone(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    options = ["--events", "5", "--no-catalogue", "--to", str(tmp_path)]
    assert run_command(["simulate", *options]) == Exit.USAGE
    assert name in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_is_a_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "shop"
    path.write_text("mine")
    assert run_command(["simulate", "--events", "5", "--to", str(path)]) == Exit.USAGE
    assert "--to" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--to folder --events 5 --answer", "--answer"),
        ("--to folder --events 5 --rate 9", "--rate"),
        ("--rate max", "--events"),
        ("--rate -3", "--rate"),
        ("--fill --events 5 --late 2", "late"),
        ("--fill --events 5 --shop-rate 0", "--shop-rate"),
        ("--fill --events 5 --shop bazaar", "bazaar"),
        ("--fill --events 5 --shop fashion --late 0.1", "--late"),
        ("--fill --events 5 --rate 9", "--rate"),
        ("--events 5 --answer-share 0.5", "--answer-share"),
        ("--to folder", "--events"),
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
