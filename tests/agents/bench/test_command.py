"""`foldstream bench` as it is typed."""

from __future__ import annotations

import msgspec
import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit


def test_a_wrong_system_is_named_with_the_right_ones(capsys: pytest.CaptureFixture[str]):
    assert run_command(["bench", "throughput", "--systems", "flink"]) == Exit.USAGE
    assert "faust_take" in capsys.readouterr().err


def test_a_broker_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]):
    code = run_command(["bench", "latency", "--kafka", "127.0.0.1:1", "--redis", "redis://x:1/0"])
    assert code in (Exit.FAILED, Exit.NOT_THERE)
    assert "error:" in capsys.readouterr().err


def test_json_is_one_document_with_machine_settings_rates_and_ratios(
    kafka: str, redis_url: str, capsys: pytest.CaptureFixture[str]
):
    given = ["--kafka", kafka, "--redis", redis_url, "--json"]
    sizes = ["--events", "10000", "--repeats", "2", "--systems", "limit_store"]
    assert run_command(["bench", "throughput", *given, *sizes]) == Exit.DONE
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["bench"] == "throughput"
    assert {"processor", "cores", "versions", "load_1m"} <= document["machine"].keys()
    assert document["settings"]["repeats"] == 2
    assert len(document["rates"]["limit_store"]["values"]) == 2
    assert document["ratios"] == {}


def test_latency_of_a_quiet_worker_is_split_by_stage(
    kafka: str,
    redis_url: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    for name, value in (("PREFILL", 2_000), ("WARM_S", 1.0), ("PATIENCE_S", 3.0)):
        monkeypatch.setattr(f"agents.bench.latency.{name}", value)
    given = ["--kafka", kafka, "--redis", redis_url, "--json"]
    sizes = ["--rate", "50", "--seconds", "2", "--repeats", "1", "--probes", "1"]
    assert run_command(["bench", "latency", *given, *sizes]) == Exit.DONE
    document = msgspec.json.decode(capsys.readouterr().out)
    assert document["n_probes"] == 100
    assert document["n_missing"] == 0
    assert document["milliseconds"]["appended to readable"]["p50"]["median"] > 0
    assert len(document["milliseconds"]) == 6
