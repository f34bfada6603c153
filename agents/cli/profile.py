"""`foldstream profile USER`: what is kept of one user, read from the store."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

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
from agents.errors import UsageError
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.lookup import Lookup
    from profiles.profile import Profile


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("profile")
    def profile(
        user: Annotated[str, typer.Argument(help="The user's id.")],
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show a user's profile: counts, history, times, and where it came from."""
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, redis=redis, topic_prefix=topic_prefix
        ).settings
        run(_show(settings, user, Output(as_json)))


async def _show(settings: Settings, user: str, output: Output) -> None:
    from agents.lookup import Lookup  # compiled kernels: only when they are needed

    async with Lookup(settings) as lookup:
        found = await lookup.profile(user)
        if found is None:
            raise UsageError(
                f"user {user!r} has no profile in generation {lookup.settings.generation!r}: no "
                "event of theirs has been folded (is a worker running? does the id match the "
                "events' key?)"
            )
        titles = await lookup.titles()
        document = describe(found, lookup, titles)
        document["user_id"] = user
        document["partition"] = lookup.partition(user)
    output.result(document)
    output.say(
        f"[bold]{user}[/bold]  partition {document['partition']}, "
        f"newest event folded at offset {found.last_offset}"
    )
    output.say(f"first event {document['first_event']}, last {document['last_event']}")
    output.say("  ".join(f"{kind} {n}" for kind, n in document["counts"].items()))
    table = Table("time", "kind", "item", "title", title="history, newest first", box=None)
    for entry in document["history"]:
        table.add_row(entry["time"], entry["kind"], entry["item_id"], entry["title"])
    output.show(table)


def describe(profile: Profile, lookup: Lookup, titles: dict[str, str]) -> dict[str, Any]:
    """A profile as plain data for people and machines."""
    long_term = profile.long_term
    return {
        "counts": {lookup.kinds.name(k): n for k, n in sorted(profile.n_by_kind.items())},
        "n_events": profile.n_events,
        "first_event": when(profile.first_ms),
        "last_event": when(profile.last_ms),
        "profile_offset": profile.last_offset,
        "history": [
            {
                "item_id": (item_id := lookup.item_id(entry.item_hash)),
                "title": titles.get(item_id, ""),
                "kind": lookup.kinds.name(entry.kind),
                "time": when(entry.time_ms),
                "weight": entry.weight,
            }
            for entry in profile.history
        ],
        "own_items": len(profile.own),
        "sessions": profile.n_sessions,
        "long_term": long_term if long_term is None else [round(float(x), 5) for x in long_term],
        "model_stamp": profile.stamp,
    }


def when(time_ms: int) -> str:
    """A time for people, UTC, to the second."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")
