"""Finished runs are written down, skipped the next time, and shown in the table as they were."""

from __future__ import annotations

import multiprocessing
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agents.chaos import results
from agents.chaos.guarantees import BEGIN, END, table, write_table
from agents.chaos.scenario import Figure, Outcome, Plan, Report, Scenario
from agents.errors import UsageError


def outcome(scenario: str = "kill", seed: int = 0, **changes: Any) -> Outcome:
    """A finished run."""
    values: dict[str, Any] = {
        "scenario": scenario,
        "seed": seed,
        "share": 1.0,
        "minutes": 1.0,
        "passed": True,
        "n_checks": 3,
        "figures": {"lost": Figure(0, "events")},
        "failures": [],
        "notes": [],
        "took_s": 5.0,
        "commit": "abc",
        "versions": {"kafka": "4.3.1"},
        "machine": "a machine, 2 cores, load before 0.1",
        "started": f"2026-01-01T00:00:0{seed}+00:00",
    }
    return Outcome(**(values | changes))


def add_many(path: Path, first: int, note: str) -> None:
    """Add twenty runs."""
    for seed in range(first, first + 20):
        results.append(path, outcome(seed=seed, notes=[note]))


async def no_run(*args: object) -> None:
    """Does nothing."""


def scenario(name: str = "kill", runs: int = 1) -> Scenario:
    """One that is never run."""
    return Scenario(name, "kills", "nothing lost", 1.0, no_run, default_runs=runs)


def test_what_was_appended_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "chaos.jsonl"
    for seed in (0, 1):
        results.append(path, outcome(seed=seed))
    assert results.read([path]) == [outcome(seed=0), outcome(seed=1)]


def test_a_line_that_a_kill_cut_off_is_left_out_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "chaos.jsonl"
    results.append(path, outcome())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert results.read([path]) == [outcome()]
    results.append(path, outcome(seed=1))
    assert results.read([path]) == [outcome(), outcome(seed=1)]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "chaos.jsonl"
    results.append(path, outcome())
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert results.read([path]) == [outcome()]
    results.append(path, outcome(seed=1))
    assert results.read([path]) == [outcome(), outcome(seed=1)]


def test_a_foreign_line_is_refused_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "chaos.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(UsageError, match="line 1"):
        results.read([path])


def test_only_what_passed_on_this_commit_in_this_size_is_finished() -> None:
    runs = [
        outcome(seed=0),
        outcome(seed=1, passed=False),
        outcome(seed=2, commit="older"),
        outcome(seed=3, share=0.1),
        outcome(seed=4, minutes=0.5),
    ]

    def finished(share: float, minutes: float) -> list[int]:
        plans = [Plan(seed, minutes, share) for seed in range(6)]
        return [p.seed for p in plans if results.is_finished(runs, "kill", p, "abc")]

    assert finished(1.0, 1.0) == [0]
    assert finished(0.1, 1.0) == [0, 3]
    assert finished(1.0, 0.5) == [0, 4]
    assert not results.is_finished(runs, "zombie", Plan(0, 1.0), "abc")


def test_a_timed_run_beside_others_counts_only_where_that_is_said() -> None:
    runs = [outcome(beside=True)]
    assert not results.is_finished(runs, "kill", Plan(0, 1.0), "abc")
    assert results.is_finished(runs, "kill", Plan(0, 1.0), "abc", beside=True)
    assert "| 1 of 1, 1 of them beside other runs |" in table([scenario()], runs, "abc")


def test_runs_of_changed_sources_never_count() -> None:
    for commit in ("abc+", "unknown"):
        runs = [outcome(commit=commit)]
        assert not results.is_finished(runs, "kill", Plan(0, 1.0), commit)


def test_the_commit_is_that_of_the_sources_and_no_later_one() -> None:
    here = Path(results.__file__).parents[2]
    if not (here / ".git").exists():
        pytest.skip("no checkout")
    wanted = subprocess.run(
        ["git", "log", "-1", "--format=%H", "--",
         "agents", "streams", "profiles", "pyproject.toml",
         ":(exclude)agents/bench", ":(exclude)agents/cli/bench*.py"],
        cwd=here, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert wanted.startswith(results.commit_of_sources().rstrip("+"))


def test_a_seed_that_failed_at_first_is_not_shown_as_whole() -> None:
    runs = [
        outcome(started="1", passed=False, failures=["no event is lost: 3 are"]),
        outcome(started="2"),
    ]
    text = table([scenario()], runs, "abc")
    assert "| 1 of 1, 1 of them not at the first try |" in text
    assert "- `kill`, seed 0, on abc: no event is lost: 3 are" in text
    mended = [outcome(started="1", passed=False, failures=["x"], commit="older"), runs[1]]
    assert "| 1 of 1 |" in table([scenario()], mended, "abc")


def test_a_shorter_run_is_shown_as_shorter() -> None:
    assert "| 1 of 1, some in 0.5 minutes |" in table([scenario()], [outcome(minutes=0.5)], "abc")


def test_the_table_says_what_is_missing_and_what_failed() -> None:
    runs = [outcome(seed=0), outcome(seed=1, passed=False, failures=["no event is lost: 3 are"])]
    text = table([scenario(runs=3), scenario("zombie")], runs, "abc")
    assert "| 1 of 2 (3 wanted) | 0-1 |" in text
    assert "not run yet" in text
    assert "0 of 2 scenarios were run there in full; missing: `kill` (seeds 2), `zombie`." in text
    assert "- `kill`, seed 1, on abc: no event is lost: 3 are" in text
    assert "kafka 4.3.1" in text


def test_a_row_counts_only_on_the_commit_of_the_sources() -> None:
    rows = [scenario(), scenario("zombie"), scenario("soak")]
    runs = [
        outcome("kill", commit="abc"),
        outcome("zombie", commit="older", figures={"lost": Figure(7, "events")}),
        outcome("soak", commit="abc+"),
    ]
    text = table(rows, runs, "abc")
    assert "All rows are of commit `abc`" in text
    assert "1 of 3 scenarios were run there in full; missing: `zombie`, `soak`." in text
    assert "| 1 of 1 | 0 | lost 0 events | abc |" in text
    assert "| not run on this commit; on others 1 of 1 |  |  | older |" in text
    assert "7 events" not in text
    assert "missing" not in table(rows[:1], runs, "abc")


def test_until_all_is_run_again_the_table_is_of_the_last_commit_that_was_whole() -> None:
    rows = [scenario(), scenario("zombie")]
    runs = [
        outcome("kill", commit="first", started="1"),
        outcome("zombie", commit="first", started="1"),
        outcome("kill", commit="second", started="2"),
        outcome("zombie", commit="second", started="2"),
        outcome("kill", commit="now", started="3"),
    ]
    text = table(rows, runs, "now", lambda commit: [f"what came after {commit}"])
    assert "All rows are of commit `second`" in text
    assert "What runs has changed since, up to `now`" in text
    assert "- what came after second" in text
    assert text.count("| 1 of 1 | 0 | lost 0 events | second |") == 2
    failing = outcome("zombie", commit="now", started="4", passed=False, share=0.1, failures=["x"])
    assert "- `zombie`, seed 0, on now: x" in table(rows, [*runs, failing], "now")
    runs.append(outcome("zombie", commit="now", started="4"))
    text = table(rows, runs, "now", lambda commit: ["never asked for"])
    assert "All rows are of commit `now`" in text
    assert "changed since" not in text


def test_what_changed_the_sources_is_named() -> None:
    now = results.commit_of_sources().rstrip("+")
    assert results.changes_since(now) == []
    (told,) = results.changes_since("no-such-commit")
    assert told.startswith("not known")


def test_sources_that_stand_on_no_commit_have_no_rows() -> None:
    text = table([scenario()], [outcome(commit="abc+")], "abc+")
    assert "stand on no commit (abc+): no run counts" in text
    assert "| 1 of 1 |" not in text


def test_a_small_run_leaves_its_seed_missing() -> None:
    assert "missing: `kill`." in table([scenario()], [outcome(share=0.1)], "abc")


def test_several_processes_add_to_one_file_and_every_line_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "chaos.jsonl"
    long = "x" * 100_000  # more than one write of a buffer
    context = multiprocessing.get_context("spawn")
    adders = [context.Process(target=add_many, args=(path, first, long)) for first in (0, 100)]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert [adder.exitcode for adder in adders] == [0, 0]
    seeds = [run.seed for run in results.read([path])]
    assert sorted(seeds) == [*range(20), *range(100, 120)]


def test_of_one_seed_the_newest_run_counts() -> None:
    runs = [outcome(started="2"), outcome(started="1", passed=False, failures=["x"])]
    assert "1 of 1" in table([scenario()], runs, "abc")


def test_the_table_goes_between_the_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "guarantees.md"
    page.write_text(f"before\n{BEGIN}\nOLD ROW\n{END}\nbehind\n")
    write_table(page, [scenario()], [outcome()], "abc", lambda commit: [])
    once = page.read_text()
    assert once.startswith("before\n")
    assert once.endswith("behind\n")
    assert "OLD ROW" not in once
    write_table(page, [scenario()], [outcome()], "abc", lambda commit: [])
    assert page.read_text() == once
    page.write_text("no markers")
    with pytest.raises(UsageError, match="markers"):
        write_table(page, [scenario()], [outcome()], "abc", lambda commit: [])


def test_a_failed_check_is_kept_and_the_run_goes_on() -> None:
    said: list[str] = []
    report = Report(said.append)
    assert not report.check(False, "no event is lost", "3 are")
    assert report.check(True, "no event is folded twice")
    report.figure("lost", 3, "events")
    assert report.failures == ["no event is lost: 3 are"]
    assert report.n_checks == 2
    assert said == ["NOT SO: no event is lost: 3 are", "lost: 3 events"]


def test_a_share_makes_a_run_smaller_but_never_empty() -> None:
    assert Plan(0, 1.0, 0.001).scaled(20) == 1
