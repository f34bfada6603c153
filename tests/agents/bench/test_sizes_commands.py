"""`bench score`, `memory` and `startup` as they are typed, at small sizes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit


@pytest.fixture(autouse=True)
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four of each topic: making sixteen takes seconds."""
    monkeypatch.setattr("agents.cli.bench_sizes.PARTITIONS", 4)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run_command(["bench", *arguments, "--json"]) == Exit.DONE
    document: dict[str, Any] = msgspec.json.decode(capsys.readouterr().out)
    assert document["machine"]["versions"]["python"]
    return document


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["score", "--items", "many"], "--items"),
        (["score", "--items", "0"], "--items"),
        (["score", "--items", "3000,19"], "--items"),
        (["score", "--kafka-items", "19"], "--kafka-items"),
        (["score", "--systems", "annoy"], "limit_product"),
        (["score", "--compare", "no-such-file.json"], "no-such-file.json"),
        (["memory", "--users", "4000", "--cache", "2000"], "--users"),
        (["scale", "--only", "height"], "history"),
        (["scale", "--workers", "65"], "--workers"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_what_is_wrong_is_named_before_anything_is_measured(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
):
    assert run_command(["bench", *arguments]) == Exit.USAGE
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("bench", ["throughput", "latency", "score", "memory", "startup", "scale"])
def test_a_file_that_the_shell_has_emptied_is_refused_before_anything_is_measured(
    bench: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    file = tmp_path / "before.json"
    file.touch()
    assert run_command(["bench", bench, "--json", "--compare", str(file)]) == Exit.USAGE
    told = capsys.readouterr().err
    assert "before.json" in told.replace("\n", "")
    assert bench in told


def test_score_tells_requests_latency_recall_and_what_has_changed(
    kafka: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("agents.bench.score_kafka.N_EVENTS", 2_000)
    sizes = ["--items", "300", "--seconds", "0.2", "--repeats", "2", "--rate", "50"]
    given = ["--kafka", kafka, "--redis", redis_url, "--kafka-items", "300"]
    document = run(capsys, "score", *sizes, *given)
    tables = document["tables"]
    rows = tables["300 items, requests"]["rows"]
    assert len(rows) == 8
    assert len(rows["foldstream, one"]["requests/s"]["values"]) == 2
    ratios = tables["300 items, ratio"]["rows"]
    assert ratios["recall@20, foldstream"][""]["median"] == 1.0
    assert ratios["recall@20, candidates"][""]["median"] >= 0.9
    moving = ratios["recall@20 while items move, candidates"][""]
    assert len(moving["values"]) == 2
    assert moving["min"] >= 0.8
    assert set(tables["kafka, latency"]["rows"]) == {"one", "32 at once"}
    before = tmp_path / "before.json"
    before.write_bytes(msgspec.json.encode(document))
    monkeypatch.setattr("agents.bench.score.LEAST_EVENTS", 1_000)  # only compared, not judged
    monkeypatch.setattr("agents.bench.score.N_USERS", 1_000)
    again = [*sizes, "--kafka-items", "0", "--systems", "scores", "--compare", str(before)]
    changes = run(capsys, "score", *again)["changes"]
    assert {"300 items, requests / scores, one / requests/s"} <= {
        change["name"] for change in changes
    }
    assert not any("kafka" in change["name"] for change in changes)


def test_memory_tells_of_store_and_worker_by_user_and_item(
    kafka: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    # The whole of online-retail is folded in test_memory.py.
    purchases = tmp_path / "purchases.csv.gz"
    with gzip.open(purchases, "wt") as file:
        file.write("ts_ms,CustomerID,StockCode,Quantity\n")
        lines = (f"{1_300_000_000_000 + n},c{n % 50},{10_000 + n % 30},1\n" for n in range(500))
        file.writelines(lines)
    monkeypatch.setattr("agents.bench.record_sizes.PURCHASES", purchases)
    monkeypatch.setattr("agents.bench.record_sizes.N_KINDS_OF_RECORDS", 1_000)
    monkeypatch.setattr("agents.bench.memory.STEPS", 10)
    given = ["--kafka", kafka, "--redis", redis_url, "--repeats", "1", "--store-users", "1000"]
    sizes = ["--users", "4000", "--cache", "1000", "--items", "1000"]
    tables = run(capsys, "memory", *given, *sizes)["tables"]
    assert len(tables["store, users"]["rows"]) == 4
    assert tables["items"]["rows"]["store, an item"]["bytes"]["median"] > 256  # its vector alone
    assert "slope from 2,000 users on, a user" in tables["worker, users"]["rows"]


def test_startup_tells_each_start_by_stage(
    kafka: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    # After kill -9 a worker waits for the dead member's session.
    monkeypatch.setenv("FOLDSTREAM_SESSION_TIMEOUT_MS", "6000")
    given = ["--kafka", kafka, "--redis", redis_url, "--repeats", "1", "--events", "1000"]
    tables = run(capsys, "startup", *given)["tables"]
    assert set(tables) == {"first start, empty store", "after a stop", "after kill -9", "reference"}
    for name in set(tables) - {"reference"}:
        rows = {stage: row[""]["median"] for stage, row in tables[name]["rows"].items()}
        assert rows.pop("processor") > 0
        whole = rows.pop("exec to ready")
        assert sum(rows.values()) == pytest.approx(whole)
        assert rows["until it answers"] > 0
