"""`foldstream warmup`: compile once what folding and ranking need."""

from __future__ import annotations

import time

import typer

from agents.cli.common import JsonOption, Output


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("warmup")
    def command(as_json: JsonOption = False) -> None:
        """Compile the kernels and keep them, so that the next worker starts within seconds.

        A minute or two after an installation or an upgrade, about a second when it was done before.
        """
        from agents import list_json
        from profiles.warmup import warmup
        from streams import event_columns

        output = Output(as_json)
        began = time.monotonic()
        with output.progress(counted=False) as progress:
            progress.add_task("compiling")
            warmup()
            event_columns.warmup()
            list_json.warmup()
        took_s = round(time.monotonic() - began, 1)
        output.result({"took_s": took_s})
        output.say(f"compiled and kept, {took_s:.0f} s")
