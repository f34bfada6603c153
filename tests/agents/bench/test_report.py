"""Two runs are compared figure by figure; a file that is no such report is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from agents.bench.figures import Figure, figure
from agents.bench.machine import this_machine
from agents.bench.report import Comparison, Report, Table, compare, figures_in, read_earlier
from agents.cli.bench_output import checked, finish
from agents.cli.common import Output
from agents.errors import UsageError


def a_report(*values: float, bench: str = "scale") -> Report:
    rows = {"ours": {"events/s": figure(values)}}
    return Report(bench, this_machine({}), {"events": 7}, {"rates": Table("rate", "", rows)})


def written(folder: Path, report: Report) -> Path:
    file = folder / "before.json"
    file.write_bytes(msgspec.json.encode(report))
    return file


def compared(folder: Path, before: Report, now: Report) -> Comparison:
    return compare(read_earlier(written(folder, before), now.bench), now)


def test_every_figure_of_both_runs_is_compared(tmp_path: Path):
    (change,) = compared(tmp_path, a_report(1.0, 2.0, 3.0), a_report(4.0, 5.0)).changes
    assert change.name == "rates / ours / events/s"
    assert (change.before, change.now, change.ratio) == (2.0, 4.5, 2.25)
    assert change.apart


def test_ranges_that_touch_are_not_apart(tmp_path: Path):
    (change,) = compared(tmp_path, a_report(1.0, 4.0), a_report(4.0, 5.0)).changes
    assert change.apart is False


@pytest.mark.parametrize(
    ("before", "now"), [([1.0], [4.0]), ([1.0], [4.0, 5.0]), ([1.0, 2.0], [4.0])]
)
def test_one_value_is_no_range_and_apart_from_nothing(
    tmp_path: Path, before: list[float], now: list[float]
):
    (change,) = compared(tmp_path, a_report(*before), a_report(*now)).changes
    assert change.apart is None


def test_a_figure_that_only_one_run_has_is_left_out_and_counted(tmp_path: Path):
    none = msgspec.structs.replace(a_report(1.0), tables={})
    without = compared(tmp_path, a_report(1.0), none)
    assert (without.changes, without.n_only_before, without.n_only_now) == ([], 1, 0)
    first = compared(tmp_path, none, a_report(1.0))
    assert (first.changes, first.n_only_before, first.n_only_now) == ([], 0, 1)


def test_settings_and_machine_that_differ_are_named(tmp_path: Path):
    before = a_report(1.0)
    machine = msgspec.structs.replace(
        before.machine, cores=99, versions=before.machine.versions | {"numba": "0.1"}
    )
    settings = {"events": 8, "sizes": {"300": 1}, "pair": (1, 2)}
    now = msgspec.structs.replace(before, machine=machine, settings=settings)
    differences = compared(tmp_path, before, now).differences
    assert {one.name: (one.before, one.now) for one in differences} == {
        "settings / events": (7, 8),
        "settings / sizes": (None, {"300": 1}),
        "settings / pair": (None, [1, 2]),
        "machine / cores": (before.machine.cores, 99),
        "machine / versions / numba": (before.machine.versions["numba"], "0.1"),
    }
    assert compared(tmp_path, now, now).differences == []


def test_nothing_to_divide_by_gives_no_ratio(tmp_path: Path):
    (change,) = compared(tmp_path, a_report(0.0), a_report(1.0)).changes
    assert change.ratio is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b'{"bench":"latency"}',
        b'{"bench":"scale","settings":[]}',
        b'{"bench":"scale","tables":{"median":1,"min":1,"max":null,"values":[1]}}',
    ],
)
def test_what_is_no_report_of_this_bench_is_refused_with_the_way_out(
    tmp_path: Path, content: bytes
):
    file = tmp_path / "before.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"--compare .*before.json: .*bench scale --json"):
        read_earlier(file, "scale")


def test_a_report_is_printed_though_it_replaces_the_one_it_is_compared_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = written(tmp_path, a_report(1.0))
    earlier = checked(file, "scale")
    file.write_bytes(b"")
    finish(Output(as_json=True), a_report(2.0), earlier)
    document = msgspec.json.decode(capsys.readouterr().out)
    assert [one["ratio"] for one in document["changes"]] == [2.0]
    assert (document["n_only_before"], document["n_only_now"]) == (0, 0)
    finish(Output(), a_report(2.0), earlier)
    assert "one value" in capsys.readouterr().out


def test_a_table_is_printed_in_full_however_narrow_the_terminal_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "30")
    earlier = checked(written(tmp_path, a_report(1.0, 2.0)), "scale")
    finish(Output(), a_report(4_000.0, 5_000.0), earlier)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "/ ours" in line]
    assert row.split() == [
        "rates",
        "/",
        "ours",
        "/",
        "events/s",
        "1.50",
        "4,500",
        "3000.00",
        "apart",
    ]


def test_people_are_told_what_else_differs_and_what_was_not_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    earlier = checked(written(tmp_path, a_report(1.0, 2.0)), "scale")
    now = msgspec.structs.replace(a_report(1.0), settings={"events": 8}, tables={})
    finish(Output(), now, earlier)
    told = capsys.readouterr().out
    assert "settings / events" in told
    assert "not compared: 1 figures" in told


def test_figures_are_found_wherever_a_report_has_them():
    document = msgspec.to_builtins(a_report(1.0))
    assert [found for _, found in figures_in(document)] == [Figure(1.0, 1.0, 1.0, [1.0])]
