"""`foldstream demo`: everything at once, on real data, in about half a minute."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from agents.cli.common import JsonOption, Output, run
from agents.settings import load_settings
from streams.embedded.stack import Stack


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("demo")
    def demo(
        stay: Annotated[
            bool | None,
            typer.Option("--stay/--no-stay", help="Keep the dashboard up; default: on a terminal."),
        ] = None,
        lines: Annotated[
            int, typer.Option("--lines", min=5_000, help="Purchase lines folded first.")
        ] = 60_000,
        as_json: JsonOption = False,
    ) -> None:
        """Start a broker, a store and a worker; replay real purchases; show a list change."""
        from agents.cli.demo_story import tell  # compiled kernels: only when they are needed

        output = Output(as_json)
        stays = sys.stdin.isatty() and not as_json if stay is None else stay
        with tempfile.TemporaryDirectory(prefix="foldstream-demo-") as folder:
            data_dir = Path(folder)
            with output.progress(counted=False) as progress:
                task = progress.add_task("starting broker and store")
                stack = Stack(
                    data_dir,
                    ephemeral=True,
                    on_step=lambda step: progress.update(task, description=step),
                )
                stack.start()
            try:
                settings = load_settings(
                    {"kafka": stack.kafka, "redis": stack.redis, "data_dir": data_dir},
                    environment={},
                ).settings
                run(tell(settings, lines, stays, output))
            finally:
                stack.stop()
