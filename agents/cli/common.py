"""What all commands share: options, output for people or machines, exit codes.

Exit codes: 0 done; 1 failed; 2 wrong usage or settings; 3 broker, store or stack not there; 4 a
check found a difference; 130 ended by Ctrl-C.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agents.settings import LoadedSettings, Settings, load_settings

Result = TypeVar("Result")


class Exit(IntEnum):
    """What a command's exit code says."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NOT_THERE = 3
    DIFFERENCE = 4
    INTERRUPTED = 130


KafkaOption = Annotated[
    str | None, typer.Option("--kafka", help="Broker, host:port. Default: the running stack's.")
]
RedisOption = Annotated[
    str | None, typer.Option("--redis", help="Store, redis://host:port/0. Default: the stack's.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", help="Where the stack lives. Default: .foldstream")
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="Configuration file. Default: foldstream.toml")
]
PrefixOption = Annotated[
    str | None, typer.Option("--topic-prefix", help="First part of every topic's name.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document for machines.")]


class Output:
    """Prints for people (stdout, progress on stderr) or one JSON document for machines."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.console = Console(highlight=False)
        self.errors = Console(stderr=True, highlight=False)

    def say(self, text: str = "", *, wrap: bool = True) -> None:
        """A line for people; nothing with --json. wrap: False for what people copy."""
        if not self.as_json:
            self.console.print(text, soft_wrap=not wrap)

    def show(self, renderable: Any) -> None:
        """A table or tree of rich for people; nothing with --json."""
        if not self.as_json:
            self.console.print(renderable)

    def result(self, document: Mapping[str, Any] | list[Any] | msgspec.Struct) -> None:
        """The result for machines; nothing without --json."""
        if self.as_json:
            plain = msgspec.to_builtins(
                document, enc_hook=str, str_keys=True
            )  # partitions are keys
            print(msgspec.json.encode(plain, order="deterministic").decode())

    def line(self, document: Any) -> None:
        """One JSON line, whatever the mode: for commands whose output is a stream."""
        print(msgspec.json.encode(document, enc_hook=str).decode(), flush=True)

    def progress(self, *, counted: bool = True) -> Progress:
        """A progress display on stderr: a counted bar with an estimate, or a spinner."""
        columns: list[Any] = [SpinnerColumn(), TextColumn("{task.description}")]
        if counted:
            columns += [BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
        columns += [TimeElapsedColumn()] + ([TimeRemainingColumn()] if counted else [])
        quiet = self.as_json or not self.errors.is_terminal
        return Progress(*columns, console=self.errors, transient=True, disable=quiet)


def settings_for(
    config: Path | None = None, flags: Mapping[str, Any] | None = None, **more: Any
) -> LoadedSettings:
    """Settings with a command's flags on top; flags that are None count as not given."""
    return load_settings({**(flags or {}), **more}, config)


def stack_addresses(
    data_dir: Path | None, kafka: str | None, redis: str | None, config: Path | None = None
) -> Settings:
    """Settings of a command that needs only addresses and names."""
    return settings_for(config, data_dir=data_dir, kafka=kafka, redis=redis).settings


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run one coroutine on uvloop; Ctrl-C cancels it and ends the command with 130."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)
