"""`foldstream doctor`: are topics and store set up so that nothing is lost?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.markup import escape

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
from agents.errors import CheckFailed, NothingRuns
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.doctor.finding import Finding

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
ORDER = {"error": 0, "warning": 1, "ok": 2}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("doctor")
    def doctor(
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        verbose: Annotated[
            bool, typer.Option("--verbose", help="Show also what is in order.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Look for what would lose, misplace or delay data; exit code 4 where something must be
        mended, 3 where broker or store are not there."""
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, redis=redis, topic_prefix=topic_prefix
        ).settings
        output = Output(as_json)
        findings = run(_examine(settings, output))
        output.result([msgspec.to_builtins(finding) for finding in findings])
        for finding in sorted(findings, key=lambda one: ORDER[one.level]):
            colour = COLOURS[finding.level]
            if finding.level == "ok":
                if verbose:
                    output.say(f"[{colour}]ok[/{colour}]       {_line(finding)}", wrap=False)
                continue
            output.say(f"[{colour}]{finding.level:<8}[/{colour}] {_line(finding)}", wrap=False)
            for name, text in (("why", finding.why), ("remedy", finding.remedy)):
                if text:
                    output.say(f"         [dim]{name}[/dim] {escape(text)}", wrap=False)
        n_ok = sum(finding.level == "ok" for finding in findings)
        output.say(
            f"[dim]{n_ok} of {len(findings)} findings are in order"
            + ("" if verbose else "; --verbose lists them")
            + "[/dim]"
        )
        gone = [one for one in findings if one.check == "reach" and one.level == "error"]
        if gone:
            raise NothingRuns("; ".join(f"{one.thing}: {one.finding}" for one in gone))
        errors = sum(finding.level == "error" for finding in findings)
        if errors:
            raise CheckFailed(f"{errors} findings must be mended")


def _line(finding: Finding) -> str:
    return f"[bold]{escape(finding.thing)}[/bold]: {escape(finding.finding)}"


async def _examine(settings: Settings, output: Output) -> list[Finding]:
    from agents.doctor.examine import examine  # clients of broker and store: only when needed

    with output.progress(counted=False) as progress:
        progress.add_task("looking at broker, store and machine")
        return await examine(settings)
