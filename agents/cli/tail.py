"""`foldstream tail`: watch the messages of a topic."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    KafkaOption,
    Output,
    PrefixOption,
    run,
    settings_for,
)
from agents.errors import UsageError
from streams.tailing import TopicTail
from streams.topics import TopicSet


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("tail")
    def command(
        topic: Annotated[
            str, typer.Argument(help="events, items, recommendations, ... or a full name.")
        ],
        from_beginning: Annotated[
            bool, typer.Option("--from-beginning", help="Start with the oldest message.")
        ] = False,
        follow: Annotated[
            bool, typer.Option(help="Go on for ever, or end at what is there now.")
        ] = True,
        user: Annotated[
            str | None, typer.Option(help="Only messages of this user (the message's key).")
        ] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="End after this many.")] = None,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: Annotated[
            bool, typer.Option("--json", help="One JSON object a line, with key and offset.")
        ] = False,
    ) -> None:
        """Print messages as they arrive; leaves no trace in the broker."""
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, topic_prefix=topic_prefix
        ).settings
        name = full_name(topic, TopicSet(settings.topic_prefix, settings.partitions))
        tail = TopicTail(settings.kafka, name, from_beginning=from_beginning, follow=follow)
        output = Output(as_json)

        def show(record: Any) -> None:
            if as_json:
                output.line(as_document(record))
            else:
                output.console.print(one_line(record), soft_wrap=True)

        try:
            run(_tail(tail, user, limit, show))
        except BrokenPipeError:  # `foldstream tail events | head`: the reader has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def full_name(topic: str, topics: TopicSet) -> str:
    """A topic's full name from the part after the dot. Raises UsageError.

    >>> full_name("events", TopicSet("shop"))
    'shop.events'
    """
    names = [known.name for known in topics.all()]
    if topic in names:
        return topic
    if f"{topics.prefix}.{topic}" in names:
        return f"{topics.prefix}.{topic}"
    short = ", ".join(name.removeprefix(f"{topics.prefix}.") for name in names)
    raise UsageError(f"topic {topic!r}: no such topic; there are {short}")


def as_document(record: Any) -> dict[str, Any]:
    """A record for machines: ``value`` is its JSON, or None where it has none; ``raw`` then."""
    value, raw = _value(record.value)
    document = {
        "partition": record.partition,
        "offset": record.offset,
        "appended_ms": record.timestamp,
        "key": _text(record.key),
        "value": value,
    }
    if raw is not None:
        document["raw"] = raw
    if record.headers:
        document["headers"] = {name: _text(content) for name, content in record.headers}
    return document


def one_line(record: Any) -> str:
    """A record for people, in rich's markup: time, place, key, and the fields that are set."""
    appended = datetime.fromtimestamp(record.timestamp / 1_000, UTC).strftime("%H:%M:%S.%f")[:-3]
    value, raw = _value(record.value)
    if isinstance(value, dict):
        body = _fields(value)
    elif record.value is None:
        body = "[red]deleted[/red]"
    else:
        body = escape(raw if raw is not None else str(value))
    code = dict(record.headers or ()).get("__foldstream.errors.code")
    if code is not None:
        body = f"[red]{escape(_text(code) or '')}[/red] {body}"
    key = escape(_text(record.key) or "-")
    return f"[dim]{appended} {record.partition}/{record.offset}[/dim] [cyan]{key}[/cyan] {body}"


def _fields(value: dict[str, Any]) -> str:
    """A JSON object on one line; a ranked list is shown as its item ids."""
    parts = [f"[bold]{escape(str(value['type']))}[/bold]"] if "type" in value else []
    for name, content in value.items():
        if name == "type" or content is None:
            continue
        if name == "items" and isinstance(content, list):
            ids = [item.get("item_id") if isinstance(item, dict) else item for item in content]
            content = " ".join(str(item_id) for item_id in ids)
        elif isinstance(content, dict | list):
            content = msgspec.json.encode(content).decode()
        parts.append(f"[dim]{escape(name)}[/dim] {escape(str(content))}")
    return "  ".join(parts)


def _value(raw: bytes | None) -> tuple[Any, str | None]:
    """The decoded JSON, or None and the text of what is no JSON."""
    if raw is None:
        return None, None
    try:
        return msgspec.json.decode(raw), None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, _text(raw)


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")


async def _tail(
    tail: TopicTail, user: str | None, limit: int | None, show: Callable[[Any], None]
) -> None:
    key = None if user is None else user.encode()
    n_shown = 0
    async with tail:
        async for records in tail.records():
            for record in records:
                if key is not None and record.key != key:
                    continue
                show(record)
                n_shown += 1
                if limit is not None and n_shown >= limit:
                    return
