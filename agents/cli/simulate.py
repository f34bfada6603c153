"""`foldstream simulate`: a made-up shop sends events."""

from __future__ import annotations

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
from agents.settings import Settings
from agents.simulate.files import write_stream
from agents.simulate.kinds import KINDS_OF_SHOPS, kind_of_shop
from agents.simulate.run import SimulationPlan, SimulationReport, Source, simulate
from agents.simulate.shop import Shop, ShopConfig
from agents.simulate.visits import Timing, VisitedShop
from streams.bulk import BulkProducer
from streams.tailing import TopicTail
from streams.topics import TopicSet, ensure_topics

MIXED = "mixed"
"""The shop with searches, carts, returns and reviews, in which tastes, popularity and categories
all count; the only one that answers lists and sends faults."""


RATE = "50"
ANSWER_SHARE = 0.1


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("simulate")
    def command(
        rate: Annotated[
            str | None, typer.Option(help=f"Messages a second, or max. Default: {RATE}.")
        ] = None,
        events: Annotated[
            int | None, typer.Option(min=1, help="End after so many. Default: Ctrl-C.")
        ] = None,
        shop: Annotated[
            str, typer.Option(help=f"What decides there: {MIXED}, {', '.join(KINDS_OF_SHOPS)}.")
        ] = MIXED,
        users: Annotated[
            int | None,
            typer.Option(min=1, help="Shoppers, u0, u1, ... Default: 1000, or as the shop has."),
        ] = None,
        items: Annotated[
            int | None,
            typer.Option(min=1, help="Items, i0, i1, ... Default: 1000, or as the shop has."),
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Another seed, another shop.")] = 0,
        late: Annotated[float, typer.Option(help="Share of events that leave late.")] = 0.0,
        repeat: Annotated[float, typer.Option(help="Share of events sent twice.")] = 0.0,
        malformed: Annotated[float, typer.Option(help="Messages that are no events, an event.")] = (
            0.0
        ),
        fill: Annotated[
            bool, typer.Option("--fill", help="The same as --rate max: for benchmarks.")
        ] = False,
        shop_rate: Annotated[
            float, typer.Option(help="Events a second of event time, at --rate max.")
        ] = 1_000.0,
        start_ms: Annotated[
            int | None, typer.Option(min=0, help="Event time of the first event. Default: now.")
        ] = None,
        answer: Annotated[
            bool, typer.Option("--answer", help="Shoppers look at their lists and click.")
        ] = False,
        answer_share: Annotated[
            float | None,
            typer.Option(min=0, max=1, help="Share of the lists that are looked at. Default: 0.1."),
        ] = None,
        catalogue: Annotated[bool, typer.Option(help="Send the catalogue first.")] = True,
        to: Annotated[
            Path | None,
            typer.Option(help="Write events.jsonl and items.jsonl to this folder, send nothing."),
        ] = None,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Send the events of a made-up shop: sessions, searches, carts, purchases, returns.

        Equal options with an equal --start-ms give equal messages. Other kinds of shops have
        visits of clicks (a grocery: baskets) alone.
        """
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, topic_prefix=topic_prefix
        ).settings
        if to is not None and (answer or rate is not None):
            raise UsageError(f"--to sends nothing: leave out {'--answer' if answer else '--rate'}")
        if fill and rate is not None:
            raise UsageError("--fill and --rate: choose one")
        if answer_share is not None and not answer:
            raise UsageError("--answer-share goes with --answer")
        pace = None if fill or to is not None else parse_rate(RATE if rate is None else rate)
        if pace is None and events is None:
            raise UsageError("--rate max without --events would fill the disk; give --events N")
        event_pace = shop_rate if pace is None else pace
        if not event_pace > 0:
            raise UsageError(f"--shop-rate {shop_rate}: give a number above 0")
        if start_ms is None:
            start_ms = (
                Timing().start_ms  # equal options, equal files
                if to is not None
                else _start_ms(events, event_pace, live=pace is not None)
            )
        source: Source
        if shop == MIXED:
            source = Shop(
                ShopConfig(
                    n_users=users or 1_000,
                    n_items=items or 1_000,
                    seed=seed,
                    events_per_s=event_pace,
                    start_ms=start_ms,
                    late=late,
                    repeat=repeat,
                    malformed=malformed,
                )
            )
        elif answer or late or repeat or malformed:
            raise UsageError(
                f"--shop {shop}: only {MIXED} has --answer, --late, --repeat, --malformed"
            )
        else:
            kind = kind_of_shop(shop, users, items, seed)
            source = VisitedShop(kind, seed, Timing(event_pace, start_ms))
        share_answered = (ANSWER_SHARE if answer_share is None else answer_share) if answer else 0.0
        plan = SimulationPlan(
            n_events=events,
            rate=pace,
            answer_share=share_answered,
            with_catalogue=catalogue,
        )
        output, report = Output(as_json), SimulationReport()
        try:
            if to is not None:
                assert events is not None  # --to has no --rate
                write_stream(source, events, to, report, with_catalogue=catalogue)
            else:
                run(_simulate(source, plan, settings, report, output))
        finally:  # an endless run ends by Ctrl-C, and its totals are wanted all the same
            if report.messages:
                output.result(report.document())
                output.show(report_table(report))


def parse_rate(rate: str) -> float | None:
    """``max`` is None, a number messages a second. Raises UsageError.

    >>> parse_rate("max"), parse_rate("2.5")
    (None, 2.5)
    """
    if rate == "max":
        return None
    try:
        number = float(rate)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise UsageError(f"--rate {rate}: give messages a second, above 0, or max")
    return number


def report_table(report: SimulationReport) -> Table:
    """The report for people."""
    table = Table(box=None, show_header=False)
    table.add_row("messages", f"{report.messages:,}")
    for kind, count in report.seen.kinds.most_common():
        table.add_row("", f"{count:,} {kind}")
    for name in ("late", "repeated", "malformed"):
        table.add_row(name, f"{getattr(report.seen, name):,}")
    table.add_row("items", f"{report.items:,}")
    if report.impressions:
        table.add_row("lists seen", f"{report.impressions:,}, {report.answer_clicks:,} clicks")
    rate = report.messages / max(report.seconds, 1e-3)
    table.add_row("time", f"{report.seconds:.1f} s, {rate:,.0f} messages/s")
    return table


def _start_ms(n_events: int | None, event_pace: float, *, live: bool) -> int:
    """Live events begin now; at full speed the last one is now."""
    now_ms = int(time.time() * 1_000)
    return now_ms if live or n_events is None else now_ms - int(n_events * 1_000 / event_pace)


async def _simulate(
    shop: Source,
    plan: SimulationPlan,
    settings: Settings,
    report: SimulationReport,
    output: Output,
) -> None:
    topics = TopicSet(settings.topic_prefix, settings.partitions)
    await ensure_topics(settings.kafka, topics.all(), settings.replication)
    producer = BulkProducer(settings.kafka, "foldstream-simulate")
    await producer.start()
    try:
        with output.progress(counted=plan.n_events is not None) as progress:
            task = progress.add_task("events", total=plan.n_events, rate="")

            def on_message() -> None:
                rate = report.messages / max(report.seconds, 1e-3)
                progress.update(
                    task,
                    completed=report.messages,
                    description=f"{report.messages:,} messages",
                    rate=f"{rate:,.0f}/s",
                )

            if plan.answer_share > 0:
                async with TopicTail(settings.kafka, topics.recommendations.name) as tail:
                    await simulate(shop, producer, topics, plan, report, tail, on_message)
            else:
                await simulate(shop, producer, topics, plan, report, None, on_message)
    finally:
        await producer.stop()
