"""`foldstream bench`: how fast it is on this machine, beside references in the same run."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.bench.bed import made_bed
from agents.bench.figures import Figure
from agents.bench.latency import QUANTILES, LatencyPlan, LatencyReport, latency
from agents.bench.throughput import SYSTEMS, System, ThroughputReport, throughput
from agents.cli import bench_sizes
from agents.cli.bench_output import (
    PARTITIONS,
    CompareOption,
    KafkaBenchOption,
    RedisBenchOption,
    RepeatsOption,
    checked,
    counted,
    finish,
    plain_table,
    quiet,
    stepped,
)
from agents.cli.common import JsonOption, Output
from agents.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        name="bench",
        help="Measure speed here, on a broker and a store of its own, beside references.",
        no_args_is_help=True,
    )
    group.command("throughput")(throughput_command)
    group.command("latency")(latency_command)
    bench_sizes.register(group)
    app.add_typer(group)


def throughput_command(
    events: Annotated[
        int, typer.Option(min=10_000, help="Events for ours; slow references get a share.")
    ] = 400_000,
    repeats: RepeatsOption = 3,
    systems: Annotated[
        str | None,
        typer.Option(help=f"Some of {', '.join(s.name for s in SYSTEMS)}; default all."),
    ] = None,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """Sustained events/s of the updater beside two Faust agents and the limits of its parts.

    The references stand in tests/bench, so this runs from a checkout.
    """
    output = Output(as_json)
    earlier = checked(compare, "throughput")
    quiet()
    chosen = choose(systems)
    with (
        counted(output) as on_progress,
        made_bed(kafka, redis, PARTITIONS, lambda step: on_progress(step, 0, 0)) as bed,
    ):
        report = throughput(bed, chosen, events, repeats, on_progress)
    if not as_json:
        _show_throughput(output, report)
    finish(output, report, earlier)


def latency_command(
    rate: Annotated[float, typer.Option(min=1, max=100_000, help="Events per second.")] = 1_000,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Of one round.")] = 20,
    repeats: RepeatsOption = 3,
    probes: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the users whose lists are timed.")
    ] = 0.1,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """From an event's append to the moment its recommendation can be read.

    Events come at a fixed rate, whether or not the worker keeps up. A probe user whose list was
    skipped for a newer one counts as late.
    """
    output = Output(as_json)
    earlier = checked(compare, "latency")
    quiet()
    plan = LatencyPlan(rate_per_s=rate, seconds=seconds, repeats=repeats, probe_share=probes)
    with stepped(output) as on_step, made_bed(kafka, redis, PARTITIONS, on_step) as bed:
        report = latency(bed, plan, on_step)
    if not as_json:
        _show_latency(output, report)
    finish(output, report, earlier)


def choose(names: str | None) -> tuple[System, ...]:
    """The systems of a comma-separated list, in the order of the run. Raises UsageError.

    >>> [system.name for system in choose("faust_take,foldstream_small")]
    ['foldstream_small', 'faust_take']
    """
    if names is None:
        return SYSTEMS
    wanted = {name.strip() for name in names.split(",")}
    unknown = wanted - {system.name for system in SYSTEMS}
    if unknown:
        known = ", ".join(system.name for system in SYSTEMS)
        raise UsageError(f"--systems {', '.join(sorted(unknown))}: not one of {known}")
    return tuple(system for system in SYSTEMS if system.name in wanted)


def _show_throughput(output: Output, report: ThroughputReport) -> None:
    for line in report.machine.lines():
        output.say(line)
    settings = report.settings
    output.say(
        f"{settings['users']:,} users, {settings['items']:,} items (Zipf {settings['zipf']}), "
        f"{settings['partitions']} partitions, k = {settings['n_factors']}, "
        f"{settings['repeats']} repeats, agents {settings['agents']}\n"
    )
    table = plain_table("events/s", "median", "min", "max", "events")
    for name, rate in report.rates.items():
        table.add_row(
            report.about[name],
            *(f"{value:,.0f}" for value in (rate.median, rate.min, rate.max)),
            f"{settings['events'][name]:,}",
        )
    output.show(table)
    output.say()
    processes = sorted({process for cpu in report.cpu_us.values() for process in cpu}, reverse=True)
    if processes:
        table = plain_table("processor, us an event", *processes)
        for name, cpu in report.cpu_us.items():
            cells = (f"{cpu[process]:.1f}" if process in cpu else "" for process in processes)
            table.add_row(report.about[name], *cells)
        output.show(table)
    output.say()
    ratios = plain_table("ratio within a repeat", "median", "min", "max")
    for name, figure in report.ratios.items():
        ratios.add_row(name, *(f"{value:.2f}" for value in (figure.median, figure.min, figure.max)))
    output.show(ratios)


def _show_latency(output: Output, report: LatencyReport) -> None:
    for line in report.machine.lines():
        output.say(line)
    settings = report.settings
    output.say(
        f"{settings['rate_per_s']:,.0f} events/s for {settings['seconds']:g} s, "
        f"{settings['repeats']} repeats, {settings['probe_users']:,} probe users of "
        f"{settings['users']:,}\n"
    )
    table = plain_table("ms", *QUANTILES)
    for name, quantiles in report.milliseconds.items():
        table.add_row(name, *(_ms(quantiles[q]) for q in QUANTILES))
    output.show(table)
    output.say()
    output.say(
        f"{report.n_probes:,} probes: {report.n_skipped:,} skipped for a newer list, "
        f"{report.n_missing:,} without one; both count as late ({report.late_share:.2%})"
    )
    output.say(f"the load was at most {report.load_behind_ms:.0f} ms behind its schedule")


def _ms(figure: Figure | None) -> str:
    if figure is None:
        return "late"
    return f"{figure.median:.0f} ({figure.min:.0f}-{figure.max:.0f})"
