"""`foldstream worker`: run agents in this process until Ctrl-C or SIGTERM."""

from __future__ import annotations

from typing import Annotated

import typer

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    KafkaOption,
    PrefixOption,
    RedisOption,
    settings_for,
)
from agents.settings import ROLES


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("worker")
    def worker(
        agents: Annotated[
            str | None, typer.Option("--agents", help=f"Some of {','.join(ROLES)}; default all.")
        ] = None,
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        generation: Annotated[
            str | None,
            typer.Option("--generation", help="What to name an empty store's first generation."),
        ] = None,
        host: Annotated[
            str | None, typer.Option("--host", help="Address of the dashboard; default loopback.")
        ] = None,
        port: Annotated[
            int | None, typer.Option("--port", help="Port of the dashboard; default a free one.")
        ] = None,
        worker_id: Annotated[
            str | None, typer.Option("--worker-id", help="Stable name of this worker.")
        ] = None,
        accept_gap: Annotated[
            bool | None,
            typer.Option(
                "--accept-gap", help="Go on where the log lost events that were not folded; count."
            ),
        ] = None,
        log_json: Annotated[bool | None, typer.Option("--log-json", help="Logs as JSON.")] = None,
    ) -> None:
        """Fold events into profiles, score, and serve the dashboard."""
        # Compiled kernels and Faust take a second to import; other commands don't need them.
        from agents.worker import run_worker

        settings = settings_for(
            config,
            agents=[role.strip() for role in agents.split(",")] if agents else None,
            data_dir=data_dir,
            kafka=kafka,
            redis=redis,
            topic_prefix=topic_prefix,
            generation=generation,
            host=host,
            port=port,
            worker_id=worker_id,
            accept_gap=accept_gap,
            log_json=log_json,
        ).settings
        run_worker(settings)
