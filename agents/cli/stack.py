"""`foldstream up`, `down` and `status`: the embedded broker and store."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    Exit,
    JsonOption,
    KafkaOption,
    Output,
    RedisOption,
    settings_for,
)
from streams.addresses import without_passwords
from streams.embedded.ports import reachable
from streams.embedded.stack import Stack, StackInfo, lock_is_held, read_stack
from streams.errors import EmbeddedError

STOP_TIMEOUT_S = 30.0  # the servers' grace period is 10 s
WATCH_S = 0.5  # how often `up` looks whether its servers are alive

EphemeralOption = Annotated[
    bool, typer.Option("--ephemeral", help="Throw-away data: deleted when the stack ends.")
]
KafkaPortOption = Annotated[
    int | None, typer.Option("--kafka-port", min=1, max=65_535, help="Default: any free port.")
]
RedisPortOption = Annotated[
    int | None, typer.Option("--redis-port", min=1, max=65_535, help="Default: any free port.")
]


def register(app: typer.Typer) -> None:
    """Add the three commands."""
    app.command("up")(up)
    app.command("down")(down)
    app.command("status")(status)


def up(
    data_dir: DataDirOption = None,
    ephemeral: EphemeralOption = False,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    kafka_port: KafkaPortOption = None,
    redis_port: RedisPortOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start a broker and a store here; stay until Ctrl-C or `foldstream down`.

    Needs neither Docker nor Java nor a Redis. With --kafka or --redis (or their settings) that one
    is used instead and only the other is started.
    """
    output = Output(as_json)
    loaded = settings_for(config, data_dir=data_dir, kafka=kafka, redis=redis)
    given = {
        key: getattr(loaded.settings, key) if _is_given(loaded.sources[key]) else None
        for key in ("kafka", "redis")
    }
    _stop_on_signals()
    started = time.monotonic()
    with output.progress(counted=False) as progress:
        task = progress.add_task("starting")

        def on_step(step: str) -> None:
            progress.update(task, description=step)
            if progress.disable and not as_json:
                output.errors.print(step, soft_wrap=True)

        stack = Stack(
            loaded.settings.data_dir,
            ephemeral,
            given["kafka"],
            given["redis"],
            kafka_port=kafka_port,
            redis_port=redis_port,
            on_step=on_step,
        )
        stack.start()
    try:
        if as_json:
            output.line(stack.info)
        output.say(f"ready in {time.monotonic() - started:.1f} s; Ctrl-C or `foldstream down` ends")
        output.show(_table(stack.info))
        while True:
            time.sleep(WATCH_S)
            if dead := stack.dead_server():
                raise EmbeddedError(f"{dead}; the rest was stopped")
    except KeyboardInterrupt:
        pass  # Ctrl-C is how this command is meant to end
    finally:
        with output.progress(counted=False) as progress:
            progress.add_task("stopping")
            stack.stop()
    output.say("stopped")


def down(
    data_dir: DataDirOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Stop the running stack; fine when there is none."""
    output = Output(as_json)
    folder = settings_for(config, data_dir=data_dir).settings.data_dir
    info = read_stack(folder)
    if info is not None:
        os.kill(info.pid, signal.SIGTERM)
    if info is None and not lock_is_held(folder):
        output.say(f"nothing runs in {folder}")
        output.result({"stopped": False})
        return
    with output.progress(counted=False) as progress:
        progress.add_task("stopping")
        # Without `info` a starting stack or the servers of a dead one hold the folder.
        _wait_until_free(folder, info)
    output.say("stopped")
    output.result({"stopped": True})


def status(
    data_dir: DataDirOption = None, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """What runs: addresses, versions, processes, up-time. Exit code 3 when nothing does."""
    output = Output(as_json)
    folder = settings_for(config, data_dir=data_dir).settings.data_dir
    info = read_stack(folder)
    if info is None:
        output.say(f"nothing runs in {folder}: start it with `foldstream up`")
        output.result({"running": False, "data_dir": str(folder.absolute())})
        raise typer.Exit(Exit.NOT_THERE)
    document: dict[str, Any] = {
        "running": True,
        "data_dir": str(folder.absolute()),
        **msgspec.to_builtins(info),
        "up_s": int(_up_time(info).total_seconds()),
        "answers": {"kafka": reachable(info.kafka, 9092), "redis": reachable(info.redis, 6379)},
    }
    output.result(document)
    output.show(_table(info, document["answers"]))
    kind = "throw-away data" if info.ephemeral else f"data in {folder}"
    output.say(f"process {info.pid}, up {_up_time(info)}, {kind}")
    if not all(document["answers"].values()):
        raise typer.Exit(Exit.FAILED)


def _is_given(source: str) -> bool:
    """Whether a person set it; an old `stack.json` and the default are no wish."""
    return source != "default" and not source.endswith("stack.json")


def _stop_on_signals() -> None:
    """`down` sends SIGTERM, a closed terminal SIGHUP: both end us in order, as Ctrl-C does.

    No lock may be taken by a handler: what it interrupts may hold that very lock, as a wait for a
    `threading.Event` does, and would never go on.
    """
    asked: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        # As an exception, so that it ends a start that is under way, too; once, for the stop that
        # follows must not be broken off.
        asked.append(number)
        if len(asked) == 1:
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _wait_until_free(folder: Path, info: StackInfo | None) -> None:
    give_up = time.monotonic() + STOP_TIMEOUT_S
    while lock_is_held(folder):
        if time.monotonic() > give_up:
            who = f"process {info.pid}" if info else "whoever holds its lock"
            raise EmbeddedError(
                f"{who} still holds {folder} after {STOP_TIMEOUT_S:.0f} s: end it with kill -9, "
                "the servers die with it"
            )
        time.sleep(0.05)


def _up_time(info: StackInfo) -> timedelta:
    return timedelta(
        seconds=int((datetime.now(UTC) - datetime.fromisoformat(info.started)).total_seconds())
    )


def _table(info: StackInfo, answers: dict[str, bool] | None = None) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "address", "version", "process"):
        table.add_column(heading)
    for name, address in (("kafka", info.kafka), ("redis", info.redis)):
        row = [
            without_passwords(address),
            info.versions.get(name, "yours"),
            str(info.pids.get(name, "-")),
        ]
        if answers is not None and not answers[name]:
            row[0] += "  [red]does not answer[/red]"
        table.add_row(name, *row)
    return table
