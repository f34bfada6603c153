"""`foldstream doctor`: are topics and store set up so that nothing is lost?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import typer
from rich.table import Table

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
from agents.errors import CheckFailed
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.doctor import Finding

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("doctor")
    def doctor(
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Check the settings of topics and store; exit code 4 where something must be mended."""
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, redis=redis, topic_prefix=topic_prefix
        ).settings
        output = Output(as_json)
        findings = run(_examine(settings, output))
        output.result([msgspec.to_builtins(finding) for finding in findings])
        table = Table("", "what", "finding", "remedy", box=None)
        for finding in findings:
            colour = COLOURS[finding.level]
            table.add_row(
                f"[{colour}]{finding.level}[/{colour}]",
                finding.thing,
                finding.finding,
                finding.remedy,
            )
        output.show(table)
        errors = sum(finding.level == "error" for finding in findings)
        if errors:
            raise CheckFailed(f"{errors} findings must be mended")


async def _examine(settings: Settings, output: Output) -> list[Finding]:
    from agents.doctor import examine  # compiled kernels: only when they are needed

    with output.progress(counted=False) as progress:
        progress.add_task("looking at broker and store")
        return await examine(settings)
