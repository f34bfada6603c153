"""`foldstream rebuild`: fold the log anew, to compare with the live profiles or to replace them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    KafkaOption,
    Output,
    PrefixOption,
    RedisOption,
    run,
    settings_for,
)
from agents.errors import CheckFailed, UsageError
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.rebuild import RebuildReport
    from agents.rebuild_into import IntoReport


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("rebuild")
    def rebuild(
        check: Annotated[
            bool, typer.Option("--check", help="Fold beside the live profiles and compare.")
        ] = False,
        into: Annotated[
            str | None,
            typer.Option("--into", help="Fold into this generation, which is kept; resumes."),
        ] = None,
        promote: Annotated[
            bool, typer.Option("--promote", help="With --into: make it live when it is ready.")
        ] = False,
        n_factors: Annotated[
            int | None, typer.Option("--n-factors", help="With --into: length of its vectors.")
        ] = None,
        history: Annotated[
            int | None, typer.Option("--history", help="With --into: events kept per user.")
        ] = None,
        own_items: Annotated[
            int | None, typer.Option("--own-items", help="With --into: items of an own table.")
        ] = None,
        seen_window: Annotated[
            int | None, typer.Option("--seen-window", help="With --into: offsets, for repeats.")
        ] = None,
        accept_gap: Annotated[
            bool, typer.Option("--accept-gap", help="With --into: begin where the log begins.")
        ] = False,
        events_per_s: Annotated[
            int | None, typer.Option("--events-per-s", min=1, help="With --into: not faster.")
        ] = None,
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        generation: Annotated[
            str | None, typer.Option("--generation", help="With --check: compare with this one.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Fold the whole log anew, beside the live profiles.

        --check: into a throw-away generation; compare all facts; drop it. --into NAME: into a
        generation to keep, until it has caught up; then `foldstream promote NAME`.
        """
        if check == (into is not None):
            raise UsageError("rebuild needs either --check or --into NAME")
        sizes = (n_factors, history, own_items, seen_window)
        if check and (promote or accept_gap or events_per_s or any(s is not None for s in sizes)):
            raise UsageError("only --into takes --promote, --accept-gap, --events-per-s and sizes")
        settings = settings_for(
            config,
            data_dir=data_dir,
            kafka=kafka,
            redis=redis,
            topic_prefix=topic_prefix,
            generation=generation,
            n_factors=n_factors,
            history=history,
            own_items=own_items,
            seen_window=seen_window,
        ).settings
        output = Output(as_json)
        if into is None:
            _show_check(run(_check(settings, output)), output)
            return
        report = run(_into(settings, into, accept_gap, events_per_s, output))
        _show_into(report, output, promote)
        if promote and not report.promoted:
            from agents.cli.promote import promote_and_show

            promote_and_show(settings, into, output)


def _show_check(report: RebuildReport, output: Output) -> None:
    output.result({**msgspec.to_builtins(report, str_keys=True), "agrees": report.agrees})
    output.say(f"{report.n_profiles} profiles, {report.n_events} events")
    output.say(f"live    {report.digest_live}")
    output.say(f"rebuilt {report.digest_rebuilt}")
    for partition, gaps in report.gaps.items():
        for first, upto in gaps:
            output.say(
                f"  partition {partition}: offsets {first} to {upto} are an accepted gap; what the "
                "profiles hold of them the log can't confirm"
            )
    for difference in report.differences:
        output.say(
            f"  partition {difference.partition}  user {difference.user_id}: {difference.what}"
        )
    if report.n_differences:
        raise CheckFailed(f"{report.n_differences} profiles differ from what the log says")
    if report.moving:
        raise CheckFailed(
            f"partitions {report.moving} kept moving and were not compared; run it again at a "
            "quieter moment"
        )
    output.say("[green]facts agree[/green]")


def _show_into(report: IntoReport, output: Output, promoting: bool) -> None:
    rate = report.n_folded / max(report.took_s, 1e-9)
    if not promoting:
        output.result({**msgspec.to_builtins(report, str_keys=True), "events_per_s": round(rate)})
    shape = ", ".join(
        f"{key} {value}" for key, value in report.settings.items() if value and key != "kinds"
    )
    output.say(
        f"{report.n_folded} events in {report.took_s:.1f} s ({rate:,.0f}/s)"
        f"{', gone on from before' if report.resumed else ''}; record format {report.record_format}"
    )
    output.say(f"generation {report.generation}: {shape}", wrap=False)
    for partition, gaps in report.gaps.items():
        output.say(f"  partition {partition}: accepted gaps {gaps}")
    if report.promoted:
        output.say("it was promoted meanwhile: workers have taken over")
    elif not promoting:
        output.say(f"{report.behind} events behind; next: foldstream promote {report.generation}")


async def _check(settings: Settings, output: Output) -> RebuildReport:
    from agents.generations import read_settings
    from agents.rebuild import Rebuild
    from agents.store_access import store_of

    async with store_of(settings) as store:
        settings = await read_settings(settings, store)
    with output.progress() as progress:
        task = progress.add_task("folding anew", total=None, rate="")

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return await Rebuild(settings, on_progress).check()


async def _into(
    settings: Settings, name: str, accept_gap: bool, events_per_s: int | None, output: Output
) -> IntoReport:
    from agents.rebuild_into import RebuildInto

    with output.progress() as progress:
        task = progress.add_task(f"folding into {name}", total=None, rate="")

        def on_progress(done: int, total: int, rate: float) -> None:
            progress.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

        return await RebuildInto(
            settings, name, on_progress, accept_gap=accept_gap, events_per_s=events_per_s
        ).run()
