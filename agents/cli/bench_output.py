"""What the bench commands share: options, the progress display, tables, and `--compare`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table as RichTable

from agents.bench.figures import Figure
from agents.bench.report import Comparison, Earlier, Report, compare, read_earlier
from agents.cli.common import Output

PARTITIONS = 16
WIDEST = 1_000
"""Columns of a terminal: more than any table has."""

RANGES = {True: "apart", False: "overlap", None: "one value"}

KafkaBenchOption = Annotated[
    str | None, typer.Option("--kafka", help="Use this broker instead of starting one.")
]
RedisBenchOption = Annotated[
    str | None, typer.Option("--redis", help="Use this store instead of starting one.")
]
RepeatsOption = Annotated[
    int, typer.Option(min=1, max=100, help="Rounds; each system runs once in each.")
]
CompareOption = Annotated[
    Path | None,
    typer.Option("--compare", help="An earlier run's --json: print what has changed since."),
]


def quiet() -> None:
    """aiokafka tells of every retry on a topic that was made a moment ago."""
    logging.getLogger("aiokafka").setLevel(logging.ERROR)


@contextmanager
def counted(output: Output) -> Iterator[Callable[[str, int, int], None]]:
    """A bar; the function given takes what runs, how far it is, and of how many."""
    with output.progress() as progress:
        task = progress.add_task("starting", total=None, rate="")

        def on_progress(what: str, done: int, n: int) -> None:
            progress.update(task, description=what, completed=done, total=n or None)

        yield on_progress


@contextmanager
def stepped(output: Output) -> Iterator[Callable[[str], None]]:
    """A spinner; the function given takes what runs."""
    progress: Progress
    with output.progress(counted=False) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda step: progress.update(task, description=step)


def checked(file: Path | None, bench: str) -> Earlier | None:
    """What is compared with, read before minutes of measuring: nothing about the file can fail
    behind them, and the run may be written to it. Raises UsageError."""
    return None if file is None else read_earlier(file, bench)


def finish(output: Output, report: msgspec.Struct, earlier: Earlier | None) -> None:
    """Print the report for machines, and what has changed since an earlier one, for both."""
    found = None if earlier is None else compare(earlier, report)
    output.result(
        msgspec.to_builtins(report) | ({} if found is None else msgspec.to_builtins(found))
    )
    if isinstance(report, Report):
        show_report(output, report)
    if found is not None:
        show_comparison(output, found)


def show_comparison(output: Output, found: Comparison) -> None:
    """What has changed, what else differs between the runs, and what could not be compared."""
    output.say()
    show_table(output, _changes_table(found))
    if found.differences:
        table = plain_table("not the same in both runs", "before", "now")
        for one in found.differences:
            table.add_row(one.name, _plain(one.before), _plain(one.now))
        output.say()
        show_table(output, table)
    if found.n_only_before or found.n_only_now:
        output.say()
        output.say(
            f"not compared: {found.n_only_before} figures that only the earlier run has, "
            f"{found.n_only_now} that only this one has"
        )


def show_report(output: Output, report: Report) -> None:
    """Machine, settings, tables and notes for people."""
    for line in report.machine.lines():
        output.say(line)
    output.say(", ".join(f"{name} {_plain(value)}" for name, value in report.settings.items()))
    for table in report.tables.values():
        output.say()
        show_table(output, figures_table(f"{table.title}, {table.unit}".strip(", "), table.rows))
    for note in report.notes:
        output.say()
        output.say(note)


def show_table(output: Output, table: RichTable) -> None:
    """In full, however narrow the terminal is: half a figure is none."""
    if not output.as_json:
        # The output's own console would cut even what is printed at a larger width.
        wide = Console(file=output.console.file, highlight=False, width=WIDEST)
        wide.print(table)


def figures_table(title: str, rows: Mapping[str, Mapping[str, Figure]]) -> RichTable:
    """Median, and the range where there is one; a column for each that any row has."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    table = plain_table(title, *columns)
    for name, cells in rows.items():
        table.add_row(name, *(told(cells[c]) if c in cells else "" for c in columns))
    return table


def told(figure: Figure) -> str:
    """A figure for people.

    >>> told(Figure(12345.6, 12345.6, 12345.6, [12345.6])), told(Figure(1.5, 1.0, 2.0, [1.0, 2.0]))
    ('12,346', '1.50 (1.00-2.00)')
    """
    if len(figure.values) == 1:
        return number(figure.median)
    return f"{number(figure.median)} ({number(figure.min)}-{number(figure.max)})"


def number(value: float) -> str:
    """Three digits or more.

    >>> number(1234.5), number(56.78), number(0.01234), number(0.0)
    ('1,234', '56.8', '0.0123', '0')
    """
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:#.3g}"


def plain_table(first: str, *others: str) -> RichTable:
    """A table without lines; numbers stand to the right."""
    table = RichTable(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")  # a narrow screen folds names, and cuts no figure
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_plain(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def _changes_table(found: Comparison) -> RichTable:
    table = plain_table("compared with the earlier run", "before", "now", "ratio", "ranges")
    for change in found.changes:
        ratio = "" if change.ratio is None else f"{change.ratio:.2f}"
        ranges = RANGES[change.apart]
        table.add_row(change.name, number(change.before), number(change.now), ratio, ranges)
    return table
