"""`foldstream ingest`: a file of events becomes messages on the topics."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    KafkaOption,
    Output,
    PrefixOption,
    run,
    settings_for,
)
from agents.errors import UsageError
from agents.ingest import IngestPlan, IngestReport, ingest, state_path
from agents.settings import Settings
from streams.bulk import BulkProducer
from streams.mappings.mapping import ready_mappings
from streams.mappings.reader import READY_FORMATS, EventFile, FileScan, own_kinds, scan_file
from streams.topics import TopicSet, admin_client, ensure_topics


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("ingest")
    def command(
        file: Annotated[Path, typer.Argument(help="CSV or JSON lines; gzip is seen.")],
        mapping: Annotated[
            str | None,
            typer.Option(
                help="Ready mapping, or a .toml file of your own. Default: by the first line."
            ),
        ] = None,
        speed: Annotated[
            str, typer.Option(help="Multiple of the recorded pace (1, 60, ...), or max.")
        ] = "max",
        retime: Annotated[
            bool, typer.Option("--retime", help="Move event times so that they end now.")
        ] = False,
        limit: Annotated[int | None, typer.Option(min=1, help="Read this many lines.")] = None,
        restart: Annotated[
            bool, typer.Option("--restart", help="From the first line, also after a kill.")
        ] = False,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Send a file's events (and its catalogue) to Kafka; goes on after a kill.

        Lines that cannot be events are counted by reason. Event ids are the file's hash and the
        line, so the same file sent again changes nothing.
        """
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, topic_prefix=topic_prefix
        ).settings
        topics = TopicSet(settings.topic_prefix, settings.partitions)
        plan = IngestPlan(
            events_topic=topics.events.name,
            items_topic=topics.items.name,
            speed=parse_speed(speed),
            retime=retime,
            limit=limit,
            restart=restart,
        )
        output = Output(as_json)
        report = run(_ingest(file, mapping, plan, settings, topics, output))
        output.result(report)
        output.show(report_table(report))

    about = inspect.cleandoc(command.__doc__ or "")
    command.__doc__ = f"{about}\n\nReady mappings: {', '.join(mapping_names())}."


def mapping_names() -> list[str]:
    """What --mapping takes besides a file."""
    return [*ready_mappings(), *READY_FORMATS]


def parse_speed(speed: str) -> float | None:
    """``max`` is None, a number a multiple. Raises UsageError.

    >>> parse_speed("max"), parse_speed("60")
    (None, 60.0)
    """
    if speed == "max":
        return None
    try:
        multiple = float(speed)
    except ValueError:
        multiple = 0.0
    if not 0 < multiple < 1e12:
        raise UsageError(f"--speed {speed}: give a number above 0 (1 is as recorded), or max")
    return multiple


def report_table(report: IngestReport) -> Table:
    """The report for people."""
    table = Table(box=None, show_header=False)
    table.add_row("file", f"{report.file} (mapping {report.mapping})")
    table.add_row("lines", f"{report.lines:,} read, {report.accepted:,} accepted")
    for reason, count in report.rejected.items():
        table.add_row("", f"{count:,} rejected: {reason}")
    table.add_row("events", f"{report.sent_events:,} sent of {report.events:,}")
    if report.repeated:
        table.add_row("", f"{report.repeated:,} left out: counted on an earlier line")
    table.add_row("items", f"{report.sent_items:,} sent of {report.items:,}")
    for reason, count in report.rejected_items.items():
        table.add_row("", f"{count:,} catalogue entries rejected: {reason}")
    if report.resumed_at_line:
        table.add_row("resumed", f"after line {report.resumed_at_line:,} of an earlier run")
    table.add_row("time", f"{report.seconds:.1f} s, {report.lines_per_s:,.0f} lines/s")
    return table


async def _ingest(
    path: Path,
    mapping: str | None,
    plan: IngestPlan,
    settings: Settings,
    topics: TopicSet,
    output: Output,
) -> IngestReport:
    scan = _scan(path, output)
    file = EventFile(path, scan.sha256, mapping, own_kinds([kind.name for kind in settings.kinds]))
    await ensure_topics(settings.kafka, topics.all(), settings.replication)
    async with admin_client(settings.kafka) as admin:
        cluster_id = str((await admin.describe_cluster())["cluster_id"])
    producer = BulkProducer(settings.kafka, "foldstream-ingest")
    await producer.start()
    try:
        n_lines = min(scan.n_lines, plan.limit or scan.n_lines)
        with output.progress() as progress:
            task = progress.add_task(path.name, total=n_lines, rate="")
            started = time.monotonic()

            def on_line(line: int) -> None:
                rate = line / max(time.monotonic() - started, 1e-3)
                progress.update(task, completed=line, rate=f"{rate:,.0f} lines/s")

            # A new broker knows nothing of what was acknowledged by the last one.
            state_dir = settings.data_dir / "ingest" / cluster_id
            state_file = state_path(state_dir, file, scan, plan)
            return await ingest(file, scan, producer, plan, state_file, on_line)
    finally:
        await producer.stop()


def _scan(path: Path, output: Output) -> FileScan:
    with output.progress(counted=False) as progress:
        task = progress.add_task(f"reading {path.name}", total=None)
        return scan_file(
            path, lambda n: progress.update(task, description=f"{path.name}: {n >> 20:,} MB")
        )
