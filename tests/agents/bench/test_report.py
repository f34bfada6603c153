"""Two runs are compared figure by figure; a file that is no such report is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agents.bench.figures import Figure, figure
from agents.bench.machine import this_machine
from agents.bench.report import Report, Table, changes, figures_in
from agents.errors import UsageError


def a_report(*values: float, bench: str = "scale") -> Report:
    rows = {"ours": {"events/s": figure(values)}}
    return Report(bench, this_machine({}), {"events": 7}, {"rates": Table("rate", "", rows)})


def written(folder: Path, report: Report) -> Path:
    file = folder / "before.json"
    file.write_bytes(msgspec.json.encode(report))
    return file


def test_every_figure_of_both_runs_is_compared(tmp_path: Path):
    (change,) = changes(written(tmp_path, a_report(1.0, 2.0, 3.0)), a_report(4.0, 5.0))
    assert change.name == "rates / ours / events/s"
    assert (change.before, change.now, change.ratio) == (2.0, 4.5, 2.25)
    assert change.apart


def test_ranges_that_touch_are_not_apart(tmp_path: Path):
    (change,) = changes(written(tmp_path, a_report(1.0, 4.0)), a_report(4.0, 5.0))
    assert not change.apart


def test_a_figure_that_only_one_run_has_is_left_out(tmp_path: Path):
    before = written(tmp_path, a_report(1.0))
    now = msgspec.structs.replace(a_report(1.0), tables={})
    assert changes(before, now) == []


def test_nothing_to_divide_by_gives_no_ratio(tmp_path: Path):
    (change,) = changes(written(tmp_path, a_report(0.0)), a_report(1.0))
    assert change.ratio is None


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"bench":"latency"}'])
def test_what_is_no_report_of_this_bench_is_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "before.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="--compare"):
        changes(file, a_report(1.0))


def test_figures_are_found_wherever_a_report_has_them():
    document = msgspec.to_builtins(a_report(1.0))
    assert [found for _, found in figures_in(document)] == [Figure(1.0, 1.0, 1.0, [1.0])]
