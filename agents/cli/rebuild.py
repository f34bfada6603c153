"""`foldstream rebuild --check`: are the live profiles what the log says they must be?"""

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


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("rebuild")
    def rebuild(
        check: Annotated[
            bool, typer.Option("--check", help="Fold beside the live profiles and compare.")
        ] = False,
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        generation: Annotated[
            str | None, typer.Option("--generation", help="Generation to compare with.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Fold the whole log anew into a throw-away generation; compare facts; drop it."""
        if not check:
            raise UsageError(
                "rebuild needs --check (building into a generation to keep is not there yet)"
            )
        settings = settings_for(
            config,
            data_dir=data_dir,
            kafka=kafka,
            redis=redis,
            topic_prefix=topic_prefix,
            generation=generation,
        ).settings
        output = Output(as_json)
        report = run(_check(settings, output))
        output.result({**msgspec.to_builtins(report), "agrees": report.agrees})
        output.say(f"{report.n_profiles} profiles, {report.n_events} events")
        output.say(f"live    {report.digest_live}")
        output.say(f"rebuilt {report.digest_rebuilt}")
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


async def _check(settings: Settings, output: Output) -> RebuildReport:
    from agents.rebuild import Rebuild  # compiled kernels: only when they are needed

    with output.progress() as progress:
        task = progress.add_task("folding anew", total=None, rate="")

        def on_progress(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        return await Rebuild(settings, on_progress).check()
