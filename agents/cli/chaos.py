"""`foldstream chaos`: seeded faults against real processes, and an independent verifier."""

from __future__ import annotations

import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from agents.chaos import results
from agents.chaos.guarantees import write_table
from agents.chaos.room import Room
from agents.chaos.scenario import Outcome, Plan, Scenario
from agents.cli.common import JsonOption, Output, run
from agents.errors import AgentsError, UsageError

PAGE = Path(__file__).parents[2] / "docs" / "guarantees.md"


class ChaosFailed(AgentsError):
    """A run did not hold what was promised; the message names scenarios and seeds."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run that is wanted."""

    scenario: Scenario
    plan: Plan

    def __str__(self) -> str:
        return f"{self.scenario.name} {self.plan.seed}"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("chaos")
    def chaos(
        scenarios: Annotated[
            list[str] | None, typer.Argument(help="Names of scenarios, or all.", metavar="SCENARIO")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Of the first run.")] = 0,
        runs: Annotated[
            int | None, typer.Option(min=1, help="Seeds from there. Default: a whole row's.")
        ] = None,
        minutes: Annotated[
            float | None, typer.Option(min=0.05, help="Of an endless scenario. Default: its own.")
        ] = None,
        share: Annotated[
            float, typer.Option(min=0.001, max=1_000, help="Size; 1 is that of the guarantees.")
        ] = 1.0,
        jobs: Annotated[
            int,
            typer.Option(min=1, max=64, help="Runs at once of scenarios that measure no time."),
        ] = 1,
        resume: Annotated[
            Path | None,
            typer.Option(help="Add each finished run to this file; skip those that are in it."),
        ] = None,
        beside: Annotated[
            bool,
            typer.Option(
                "--beside", help="Let others of --resume run beside a timed run; the table says so."
            ),
        ] = False,
        write_table_: Annotated[
            bool, typer.Option("--write-table", help="Write docs/guarantees.md from --resume.")
        ] = False,
        list_: Annotated[bool, typer.Option("--list", help="List the scenarios.")] = False,
        keep: Annotated[
            bool, typer.Option("--keep", help="Keep the folders: logs and data.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Break workers, broker, store and links by a seeded schedule, and verify what is left.

        Each run starts a broker, a store and workers of its own. A seed that fails replays the
        same schedule. Runs of several processes that add to one file wait while one of them
        measures times.
        """
        from agents.chaos import catalogue  # the whole worker: not for the help of other commands

        output = Output(as_json)
        if list_:
            _show_list(catalogue.SCENARIOS, output)
            return
        if not scenarios and not write_table_:
            raise UsageError("name a scenario, or all; --list shows them")
        if write_table_ and resume is None:
            raise UsageError("--write-table needs --resume FILE: the runs to write down")
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # brokers die here all the time
        outcomes: list[Outcome] = []
        if scenarios:
            orders = _orders(catalogue.chosen(scenarios), seed, runs, minutes, share)
            outcomes = run(_run_all(orders, jobs, resume, output, keep=keep, beside=beside))
        if write_table_ and resume is not None:
            commit = results.commit_of_sources()
            known = results.read([resume])
            write_table(PAGE, catalogue.SCENARIOS, known, commit, results.changes_since)
        output.result(outcomes)
        failed = [f"{o.scenario} (seed {o.seed})" for o in outcomes if not o.passed]
        if failed:
            raise ChaosFailed(f"{len(failed)} of {len(outcomes)} runs failed: {', '.join(failed)}")


def _orders(
    scenarios: Sequence[Scenario],
    seed: int,
    runs: int | None,
    minutes: float | None,
    share: float,
) -> list[Order]:
    return [
        Order(scenario, Plan(number, minutes or scenario.default_minutes, share))
        for scenario in scenarios
        for number in range(seed, seed + (runs or scenario.default_runs))
    ]


async def _run_all(
    orders: Sequence[Order],
    jobs: int,
    resume: Path | None,
    output: Output,
    *,
    keep: bool,
    beside: bool,
) -> list[Outcome]:
    """Untimed runs `jobs` at a time, then the timed ones alone, one by one."""
    from profiles.warmup import warmup

    commit = results.commit_of_sources()
    # Once, here: else every worker of the first run compiles for itself, and its times say that.
    await asyncio.to_thread(warmup)
    if resume is not None:
        there, n_wanted = results.read([resume]), len(orders)
        orders = _left(orders, there, commit, beside=beside)
        _say_what_counts(there, n_wanted - len(orders), commit, output)
    outcomes: list[Outcome] = []
    room = asyncio.Semaphore(jobs)

    async def one(order: Order) -> None:
        timed = order.scenario.timed
        async with room, _place(order, resume, output, alone=timed and not beside):
            if resume is not None and not _left(
                [order], results.read([resume]), commit, beside=beside
            ):
                return  # another process has finished it meanwhile
            outcome = await _run_one(order, commit, output, keep=keep)
        if timed and beside:
            outcome = msgspec.structs.replace(outcome, beside=True)
        if results.commit_of_sources() != commit:  # edited, or another checkout, under the run
            outcome = msgspec.structs.replace(outcome, commit=f"{commit.rstrip('+')}+")
        outcomes.append(outcome)
        if resume is not None:
            results.append(resume, outcome)

    side_by_side = [order for order in orders if jobs > 1 and not order.scenario.timed]
    async with asyncio.TaskGroup() as group:
        for order in side_by_side:
            group.create_task(one(order))
    for order in orders:
        if order not in side_by_side:
            await one(order)
    return outcomes


@asynccontextmanager
async def _place(
    order: Order, resume: Path | None, output: Output, *, alone: bool
) -> AsyncIterator[None]:
    """Room among the processes that add to the same file; without a file, whoever comes runs."""
    if resume is None:
        yield
        return
    async with Room(resume).held(str(order), alone=alone, say=output.say):
        yield


def _left(
    orders: Sequence[Order], there: Sequence[Outcome], commit: str, *, beside: bool
) -> list[Order]:
    """What is not finished yet. beside: timed runs that had others beside them do."""
    return [
        order
        for order in orders
        if not results.is_finished(there, order.scenario.name, order.plan, commit, beside=beside)
    ]


def _say_what_counts(there: Sequence[Outcome], n_skipped: int, commit: str, output: Output) -> None:
    """Which runs of the file are not run again, and which don't count."""
    if n_skipped:
        output.say(f"skipped {n_skipped} runs that passed on commit {commit}")
    if results.stands_on_no_commit(commit):
        output.say(f"sources stand on no commit ({commit}): these runs won't be skipped next time")
    others = {outcome.commit for outcome in there} - {commit}
    if others:
        output.say(f"runs on other commits ({', '.join(sorted(others))}) don't count; this is "
                   f"{commit}")  # fmt: skip


async def _run_one(order: Order, commit: str, output: Output, *, keep: bool) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix=f"foldstream-chaos-{order.scenario.name}-"))
    began = time.monotonic()

    def on_line(line: str) -> None:
        if not output.as_json and output.errors.is_terminal:
            output.errors.print(
                f"[dim]{time.monotonic() - began:6.1f} s  {order}: {line}[/dim]",
                soft_wrap=True,
            )

    from agents.chaos.runner import run_scenario

    outcome = await run_scenario(order.scenario, order.plan, folder, commit, on_line, keep=keep)
    word = "[green]pass[/green]" if outcome.passed else "[red]FAIL[/red]"
    output.say(f"{word}  {order}  {outcome.took_s:.0f} s  " + _in_short(outcome))
    for failure in outcome.failures:
        output.say(f"      {failure}")
    for note in outcome.notes:
        output.say(f"      {note}")
    if keep:
        print(f"      kept {folder}", file=sys.stderr)
    return outcome


def _in_short(outcome: Outcome) -> str:
    figures = outcome.figures.items()
    return ", ".join(f"{name} {f.value}{' ' + f.unit if f.unit else ''}" for name, f in figures)


def _show_list(scenarios: Sequence[Scenario], output: Output) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("scenario", "runs", "minutes", "what"):
        table.add_column(heading)
    for scenario in scenarios:
        table.add_row(
            scenario.name,
            str(scenario.default_runs),
            f"{scenario.default_minutes:g}",
            scenario.title,
        )
    output.show(table)
    output.result(
        [
            {
                "scenario": scenario.name,
                "title": scenario.title,
                "promise": scenario.promise,
                "runs": scenario.default_runs,
                "minutes": scenario.default_minutes,
                "timed": scenario.timed,
            }
            for scenario in scenarios
        ]
    )
