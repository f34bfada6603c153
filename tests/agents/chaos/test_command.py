"""`foldstream chaos` runs what it is asked for, goes on where it was, and says what failed."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agents import __main__ as program
from agents.chaos import catalogue, guarantees, results
from agents.chaos.bed import Bed
from agents.chaos.room import Room
from agents.chaos.scenario import Outcome, Plan, Report, Scenario
from agents.cli import chaos as command
from tests.agents.chaos.test_results import outcome


async def check_the_seed(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Passes for even seeds; the bed has a broker and a store that answer, and restart."""
    await bed.store.kill()
    report.check(not bed.store.alive(), "a killed store is gone")
    await bed.store.start()
    report.figure("drawn", draw.randrange(1_000))
    report.check(plan.seed % 2 == 0, "the seed is even", str(plan.seed))


async def check_nothing(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    """Passes without a look at the bed."""
    if plan.seed == 3:
        raise RuntimeError("something of its own")


@asynccontextmanager
async def no_servers(folder: Path, **_: object) -> AsyncIterator[Any]:
    yield SimpleNamespace(versions={})


@pytest.fixture
def without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run, what is done with its end: `check_the_seed` has shown that it has servers."""
    monkeypatch.setattr("agents.chaos.runner.made_bed", no_servers)
    one = Scenario("even", "t", "p", 0.1, check_nothing, default_runs=2, timed=False)
    monkeypatch.setattr(catalogue, "SCENARIOS", (one,))


@pytest.fixture(autouse=True)
def only_one_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scenario of the tests' own."""
    scenarios = (Scenario("even", "t", "p", 0.1, check_the_seed, default_runs=2, timed=False),)
    monkeypatch.setattr(catalogue, "SCENARIOS", scenarios)
    monkeypatch.setattr(results, "commit_of_sources", lambda: "c1")


def test_runs_are_kept_and_skipped_and_a_failure_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "chaos.jsonl")
    words = ["chaos", "even", "--resume", file, "--json"]
    assert program.run_command([*words, "--jobs", "2"]) == 1
    first = {run["seed"]: run for run in json.loads(capsys.readouterr().out)}
    assert [first[seed]["passed"] for seed in (0, 1)] == [True, False]
    assert first[1]["failures"] == ["the seed is even: 1"]
    assert first[0]["versions"]["kafka"]
    assert first[0]["figures"]["drawn"]["value"] == random.Random(0).randrange(1_000)
    # Again: what passed is skipped, what failed is tried anew.
    assert program.run_command(words) == 1
    assert [run["seed"] for run in json.loads(capsys.readouterr().out)] == [1]
    assert len(Path(file).read_text().splitlines()) == 3


def test_a_timed_run_is_alone_unless_it_is_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = (Scenario("even", "t", "p", 0.1, check_the_seed),)
    monkeypatch.setattr(catalogue, "SCENARIOS", timed)

    async def run_one(order: command.Order, commit: str, *_: object, keep: bool) -> Outcome:
        return outcome("even", order.plan.seed, commit=commit)

    monkeypatch.setattr(command, "_run_one", run_one)
    asked = []

    @asynccontextmanager
    async def held(self: Room, what: str, *, alone: bool, say: object) -> AsyncIterator[None]:
        asked.append((what, alone))
        yield

    monkeypatch.setattr(Room, "held", held)
    path = tmp_path / "chaos.jsonl"
    words = ["chaos", "even", "--resume", str(path)]
    assert program.run_command([*words, "--beside"]) == 0
    assert program.run_command([*words, "--beside"]) == 0  # finished
    assert program.run_command(words) == 0  # and not for whoever wants it alone
    assert program.run_command([*words, "--beside"]) == 0
    assert asked == [("even 0", False), ("even 0", True)]
    assert [run.beside for run in results.read([path])] == [True, False]


@pytest.mark.usefixtures("without_servers")
def test_what_goes_wrong_in_a_run_is_its_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run_command(["chaos", "even", "--seed", "3", "--runs", "1", "--json"]) == 1
    (run,) = json.loads(capsys.readouterr().out)
    assert any("something of its own" in failure for failure in run["failures"])


def test_an_unknown_scenario_is_wrong_usage() -> None:
    assert program.run_command(["chaos", "nosuch"]) == 2
    assert program.run_command(["chaos"]) == 2
    assert program.run_command(["chaos", "--write-table"]) == 2


def test_the_list_names_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.run_command(["chaos", "--list"]) == 0
    assert "even" in capsys.readouterr().out


def test_the_table_is_written_from_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "guarantees.md"
    page.write_text(f"{guarantees.BEGIN}\n{guarantees.END}\n")
    monkeypatch.setattr(command, "PAGE", page)
    path = tmp_path / "chaos.jsonl"
    assert program.run_command(["chaos", "--write-table", "--resume", str(path)]) == 0
    assert "missing: `even`" in page.read_text()


@pytest.mark.usefixtures("without_servers")
def test_writing_a_failure_down_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "guarantees.md"
    page.write_text(f"{guarantees.BEGIN}\n{guarantees.END}\n")
    monkeypatch.setattr(command, "PAGE", page)
    file = str(tmp_path / "chaos.jsonl")
    assert program.run_command(["chaos", "even", "--seed", "3", "--resume", file]) == 1
    assert program.run_command(["chaos", "--write-table", "--resume", file]) == 0
    assert "- `even`, seed 3, on c1:" in page.read_text()


@pytest.mark.usefixtures("without_servers")
def test_a_run_under_which_the_sources_changed_stands_on_no_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = iter(["c1", "c2"])
    monkeypatch.setattr(results, "commit_of_sources", lambda: next(commits))
    path = tmp_path / "chaos.jsonl"
    assert program.run_command(["chaos", "even", "--runs", "1", "--resume", str(path)]) == 0
    (run,) = results.read([path])
    assert run.passed
    assert run.commit == "c1+"
