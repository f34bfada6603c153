"""`foldstream backup` and `restore`: keep the store's own snapshot, and go on from one."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    KafkaOption,
    Output,
    RedisOption,
    run,
    settings_for,
)
from agents.errors import UsageError

FolderArgument = Annotated[Path, typer.Argument(help="Folder of the back-up.")]


def register(app: typer.Typer) -> None:
    """Add the two commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    folder: FolderArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep a snapshot of the store, with every partition's profiles and checkpoint as of one
    moment. Workers go on meanwhile. The log is Kafka's to keep: events after it must stay there.
    """
    from agents.backup import back_up

    output = Output(as_json)
    settings = settings_for(config, data_dir=data_dir, kafka=kafka, redis=redis).settings
    with output.progress(counted=False) as progress:
        progress.add_task("the store writes its snapshot")
        made = run(back_up(settings, folder))
    output.result(made)
    n_events = sum(made.positions.values())
    output.say(
        f"generation {made.generation}, at least the first {n_events} offsets of {made.topic}"
    )
    for file in made.files:
        if file.file:
            output.say(f"{folder / file.file}  {file.n_bytes:,} bytes, of {file.node}")
        else:
            output.say(
                f"[yellow]copy {file.source} from {file.node} yourself[/yellow]: it lies on that "
                "machine; its snapshot has just been written"
            )


def restore(
    folder: FolderArgument,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
    redis: RedisOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put a back-up in place of the embedded store's data; the stack must be down.

    What was there is moved aside. Then `foldstream up` and a worker, which folds what followed. For
    a store of your own it says what to do.
    """
    from agents.backup import by_hand, moved_aside, read_backup
    from agents.backup import restore as put_back

    output = Output(as_json)
    loaded = settings_for(config, data_dir=data_dir, redis=redis)
    source = loaded.sources["redis"]
    if source != "default" and not source.endswith("stack.json"):
        raise UsageError(
            f"the store is your own (redis, from {source}): {by_hand(read_backup(folder), folder)}"
        )
    made, aside = put_back(folder, loaded.settings.data_dir)
    older = [path for path in moved_aside(loaded.settings.data_dir) if path != aside]
    output.result({"restored": made, "moved_aside": aside, "moved_aside_before": older})
    when = datetime.fromtimestamp(made.made_ms / 1_000, UTC)
    output.say(f"the store is as of {when:%Y-%m-%d %H:%M:%S} UTC, generation {made.generation}")
    if aside is not None:
        output.say(f"what was there is in {aside}; once you are content: {_removal([aside])}")
    if older:
        output.say(
            "left by earlier restores; the oldest holds what ran before the first of them: once you"
            f" are content, {_removal(older)}"
        )
    output.say("next: foldstream up, then foldstream worker: it folds what the log holds since")


def _removal(folders: Sequence[Path]) -> str:
    """The command that removes them."""
    return shlex.join(["rm", "-r", *map(str, folders)])
