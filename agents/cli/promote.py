"""`foldstream generations`, `promote`, `drop`, `upgrade`: which profiles are live, and how."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

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
from agents.errors import AgentsError, UsageError
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.promotion import Followed, GenerationState

NameArgument = Annotated[str, typer.Argument(help="Of the generation.")]


def register(app: typer.Typer) -> None:
    """Add the four commands."""
    app.command("generations")(generations)
    app.command("promote")(promote)
    app.command("drop")(drop)
    app.command("upgrade")(upgrade)


def generations(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    topic_prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the generations of profiles: which is live, how far each is, who folds into it."""
    from agents.promotion import list_generations

    output = Output(as_json)
    settings = _settings(config, data_dir, kafka, redis, topic_prefix)
    states = run(list_generations(settings))
    output.result([msgspec.to_builtins(state) for state in states])
    if not states:
        output.say("no worker has used this store yet")
        return
    output.show(_table(states))


def promote(
    name: NameArgument,
    most_behind: Annotated[
        int | None, typer.Option("--most-behind", min=0, help="Events it may lack; default 20000.")
    ] = None,
    unannounced: Annotated[
        bool,
        typer.Option(
            "--unannounced",
            help="Switch even if the live one lacks events of it: their changes are told nobody.",
        ),
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    topic_prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a generation the live one; workers go on in it within seconds.

    The one before stays as it is: `promote` with its name is the way back.
    """
    settings = _settings(config, data_dir, kafka, redis, topic_prefix)
    promote_and_show(settings, name, Output(as_json), most_behind, unannounced=unannounced)


def promote_and_show(
    settings: Settings,
    name: str,
    output: Output,
    most_behind: int | None = None,
    *,
    unannounced: bool = False,
) -> None:
    """Promote, wait for the workers, tell how it went."""
    from agents.promotion import MOST_BEHIND, promote

    with output.progress(counted=False) as progress:
        on_wait = _waiting(progress.add_task("promoting"), progress.update)
        limit = MOST_BEHIND if most_behind is None else most_behind
        followed = run(
            promote(settings, name, most_behind=limit, unannounced=unannounced, on_wait=on_wait)
        )
    _show(followed, output, f"generation {followed.now} is live; {followed.before} stays as it is")


def upgrade(
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Record format; default the newest known.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    topic_prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """After every worker has been upgraded: write profiles in the newest record format.

    Refused, by name, while a worker runs that could not read it. Old records are read for ever, and
    written anew when their user comes back.
    """
    from agents.promotion import upgrade

    output = Output(as_json)
    settings = _settings(config, data_dir, kafka, redis, topic_prefix)
    with output.progress(counted=False) as progress:
        on_wait = _waiting(progress.add_task("upgrading"), progress.update)
        followed = run(upgrade(settings, to, on_wait=on_wait))
    if followed.before == followed.now:
        output.result(followed)
        output.say(f"records are written in format {followed.now} already")
        return
    _show(followed, output, f"records are written in format {followed.now}, not {followed.before}")


def drop(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for the name again.")] = False,
    keys_per_s: Annotated[
        int, typer.Option("--keys-per-s", min=1, help="Remove no faster: the store serves others.")
    ] = 20_000,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    kafka: KafkaOption = None,
    redis: RedisOption = None,
    topic_prefix: PrefixOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a generation that is not live, with all its profiles: there is no way back."""
    from agents.promotion import check_drop
    from agents.promotion import drop as remove

    output = Output(as_json)
    settings = _settings(config, data_dir, kafka, redis, topic_prefix)
    run(check_drop(settings, name))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"nobody to ask: foldstream drop {name} --yes")
        if typer.prompt(f"Type {name} to remove all its profiles") != name:
            raise UsageError("not the same name: nothing was removed")
    with output.progress() as progress:
        task = progress.add_task(f"removing {name}", total=None, rate="keys")
        n_removed = run(
            remove(settings, name, keys_per_s, lambda n: progress.update(task, completed=n))
        )
    output.result({"generation": name, "n_keys": n_removed})
    output.say(f"{n_removed} keys removed")


def _settings(
    config: ConfigOption,
    data_dir: DataDirOption,
    kafka: KafkaOption,
    redis: RedisOption,
    topic_prefix: PrefixOption,
) -> Settings:
    return settings_for(
        config, data_dir=data_dir, kafka=kafka, redis=redis, topic_prefix=topic_prefix
    ).settings


def _waiting(task: int, update: Callable[..., None]) -> Callable[[int, int], None]:
    def on_wait(done: int, total: int) -> None:
        update(task, description=f"{done} of {total} workers have followed")

    return on_wait


def _show(followed: Followed, output: Output, what: str) -> None:
    output.result(followed)
    output.say(what)
    if not followed.workers:
        output.say("no worker runs; the next one begins there")
    elif not followed.waiting:
        workers = ", ".join(followed.workers)
        output.say(f"{workers} followed within {followed.took_s:.1f} s")
    else:
        raise AgentsError(
            f"{', '.join(followed.waiting)} have not followed within {followed.took_s:.0f} s: see "
            "their logs; nothing is lost, they go on there when they are started"
        )


def _table(states: list[GenerationState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("generation", "", "format", "behind", "gaps", "made", "settings", "workers"):
        table.add_column(heading, no_wrap=heading != "settings")
    for state in states:
        made = datetime.fromtimestamp(state.created_ms / 1_000, UTC)
        shape = ", ".join(f"{k} {v}" for k, v in state.settings.items() if k != "kinds" and v)
        lost = f", {state.lost} of them lost" if state.lost else ""
        table.add_row(
            state.name,
            "[green]live[/green]" if state.live else state.state,
            str(state.record_format),
            f"{state.behind}{lost}",
            str(state.accepted),
            f"{made:%Y-%m-%d %H:%M}",
            shape,
            ", ".join(state.workers) or "-",
        )
    return table
