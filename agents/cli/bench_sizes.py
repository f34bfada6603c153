"""`foldstream bench score`, `memory`, `startup` and `scale`."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.bench.bed import made_bed
from agents.bench.memory import MemoryPlan, memory
from agents.bench.report import Report
from agents.bench.scale import DIMENSIONS, points, scale
from agents.bench.score import SYSTEMS, N, score
from agents.bench.score_kafka import score_kafka
from agents.bench.startup import startup
from agents.cli.bench_output import (
    PARTITIONS,
    CompareOption,
    KafkaBenchOption,
    RedisBenchOption,
    RepeatsOption,
    checked,
    counted,
    finish,
    quiet,
    stepped,
)
from agents.cli.common import JsonOption, Output
from agents.errors import UsageError
from profiles.shape import RECORD_FORMATS, RECORD_VERSION, ModelShape

MOST_ITEMS = 10_000_000
SCALE = {
    "users": "10000,1000000",
    "items": "100000,1000000",
    "history": "50",
    "partitions": "4,64",
    "workers": "2,4",
}


def register(group: typer.Typer) -> None:
    """Add the commands to the group."""
    group.command("score")(score_command)
    group.command("memory")(memory_command)
    group.command("startup")(startup_command)
    group.command("scale")(scale_command)


def score_command(
    items: Annotated[
        str, typer.Option(help="Sizes of the catalogue, with commas; a million takes 4 GiB.")
    ] = "3000,100000,1000000",
    seconds: Annotated[
        float, typer.Option(min=0.05, max=600, help="Of one system at one size in one round.")
    ] = 1.5,
    repeats: RepeatsOption = 3,
    rate: Annotated[
        float, typer.Option(min=0, max=100_000, help="Events folded a second meanwhile.")
    ] = 200,
    kafka_items: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Items of the run through Kafka; 0: none.")
    ] = 3_000,
    systems: Annotated[
        str | None, typer.Option(help=f"Some of {', '.join(s.name for s in SYSTEMS)}; default all.")
    ] = None,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists a second and their latency, one by one and in batches, while the items move.

    In this process, beside an exact product of vectors in numpy; and as a user sees it, requests
    and answers through Kafka.
    """
    output = Output(as_json)
    sizes = numbers("--items", items, MOST_ITEMS, least=N)
    if 0 < kafka_items < N:
        raise UsageError(f"--kafka-items {kafka_items}: 0, or {N} and more: a list has so many")
    earlier = checked(compare, "score")
    quiet()
    wanted = None if systems is None else {name.strip() for name in systems.split(",")}
    if wanted is not None and (unknown := wanted - {system.name for system in SYSTEMS}):
        known = ", ".join(system.name for system in SYSTEMS)
        raise UsageError(f"--systems {', '.join(sorted(unknown))}: not one of {known}")
    chosen = [system for system in SYSTEMS if wanted is None or system.name in wanted]
    with stepped(output) as on_step:
        tables, servers = {}, {}
        if kafka_items:
            with made_bed(kafka, redis, PARTITIONS, on_step) as bed:
                servers = bed.versions
                tables = score_kafka(bed, kafka_items, 2 * seconds, repeats, rate, on_step)
        report = score(sizes, seconds, repeats, rate, chosen, servers, on_step)
    whole = Report(
        report.bench, report.machine, report.settings, report.tables | tables, report.notes
    )
    finish(output, whole, earlier)


def memory_command(
    users: Annotated[
        int, typer.Option(min=4_000, help="Users who come once and never again.")
    ] = 400_000,
    cache: Annotated[
        int, typer.Option(min=1_000, help="Users in the worker's cache (`cache_users`).")
    ] = 50_000,
    items: Annotated[int, typer.Option(min=1_000, help="New items, an event each.")] = 100_000,
    store_users: Annotated[
        int, typer.Option(min=1_000, help="Users in the store, of each made-up shop.")
    ] = 200_000,
    record_format: Annotated[
        int, typer.Option(min=1, max=RECORD_VERSION, help=f"Of records: {RECORD_FORMATS}.")
    ] = RECORD_VERSION,
    own_items: Annotated[
        int, typer.Option(min=0, max=255, help="Items of a user's own table.")
    ] = ModelShape().own_items,
    repeats: RepeatsOption = 2,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a user and an item take, in the store and in a worker; and that a worker stops growing.

    A million users or items: `--users 1000000`, `--items 1000000`, `--store-users 1000000`.
    """
    output = Output(as_json)
    earlier = checked(compare, "memory")
    quiet()
    if users < 4 * cache:
        raise UsageError(f"--users {users}: at least four times --cache ({4 * cache}), or a slope")
    plan = MemoryPlan(users, cache, items, store_users, repeats, record_format, own_items)
    with stepped(output) as on_step, made_bed(kafka, redis, PARTITIONS, on_step) as bed:
        report = memory(bed, plan, on_step)
    finish(output, report, earlier)


def startup_command(
    events: Annotated[
        int, typer.Option(min=1_000, help="Folded between the first start and the next ones.")
    ] = 50_000,
    repeats: RepeatsOption = 5,
    cold: Annotated[
        bool, typer.Option("--cold", help="Also with an empty compile cache: minutes a round.")
    ] = False,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """From exec to ready: on an empty store, after a stop, after kill -9; by stage."""
    output = Output(as_json)
    earlier = checked(compare, "startup")
    quiet()
    with stepped(output) as on_step, made_bed(kafka, redis, PARTITIONS, on_step) as bed:
        report = startup(bed, events, repeats, cold, on_step)
    finish(output, report, earlier)


def scale_command(
    users: Annotated[str, typer.Option(help="Numbers of users with a profile.")] = SCALE["users"],
    items: Annotated[str, typer.Option(help="Numbers of items.")] = SCALE["items"],
    history: Annotated[str, typer.Option(help="Lengths of a history.")] = SCALE["history"],
    partitions: Annotated[str, typer.Option(help="Partitions.")] = SCALE["partitions"],
    workers: Annotated[str, typer.Option(help="Worker processes.")] = SCALE["workers"],
    only: Annotated[
        str | None, typer.Option(help=f"Some of {', '.join(DIMENSIONS)}; default all.")
    ] = None,
    events: Annotated[int, typer.Option(min=10_000, help="Events of one run.")] = 100_000,
    repeats: RepeatsOption = 2,
    kafka: KafkaBenchOption = None,
    redis: RedisBenchOption = None,
    compare: CompareOption = None,
    as_json: JsonOption = False,
) -> None:
    """The updater's rate with more users, items, history, partitions and workers.

    One size is changed at a time. Several workers run with and without the exchange of what they
    learn: the difference is what it costs.
    """
    output = Output(as_json)
    earlier = checked(compare, "scale")
    quiet()
    given = {
        "users": numbers("--users", users, 20_000_000),
        "items": numbers("--items", items, MOST_ITEMS),
        "history": numbers("--history", history, 200),
        "partitions": numbers("--partitions", partitions, 1_024),
        "workers": numbers("--workers", workers, 64),
    }
    wanted = DIMENSIONS if only is None else tuple(name.strip() for name in only.split(","))
    if unknown := set(wanted) - set(DIMENSIONS):
        raise UsageError(f"--only {', '.join(sorted(unknown))}: not one of {', '.join(DIMENSIONS)}")
    chosen = points({name: given[name] for name in wanted})
    with (
        counted(output) as on_progress,
        made_bed(kafka, redis, PARTITIONS, lambda step: on_progress(step, 0, 0)) as bed,
    ):
        report = scale(bed, chosen, events, repeats, on_progress)
    finish(output, report, earlier)


def numbers(option: str, text: str, most: int, least: int = 1) -> list[int]:
    """Whole numbers from `least` to `most`, between commas. Raises UsageError, naming the option.

    >>> numbers("--items", "3000, 100_000", 1_000_000)
    [3000, 100000]
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{option} {text}: whole numbers with commas between") from error
    if not all(least <= one <= most for one in found):
        raise UsageError(f"{option} {text}: each must be {least} to {most:,}")
    return found
