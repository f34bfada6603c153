"""`foldstream dead-letters`: what was set aside, the bytes of one, and the way back."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    KafkaOption,
    Output,
    PrefixOption,
    run,
    settings_for,
)
from agents.dashboard.dead_letters import readable
from agents.dead_letters import (
    DeadLetters,
    Letter,
    Original,
    Position,
    Selection,
    Where,
    count,
    json_of,
    moment_ms,
)
from agents.errors import CheckFailed, UsageError
from agents.replay_ledger import read_ledger
from agents.settings import Settings

if TYPE_CHECKING:
    from agents.replay import Edits, ReplayReport

CodeOption = Annotated[
    list[str] | None, typer.Option("--code", help="Only with this reason code; may be repeated.")
]
TopicOption = Annotated[str | None, typer.Option("--topic", help="Only from this topic.")]
PartitionOption = Annotated[
    int | None, typer.Option("--partition", min=0, help="Only from this partition of it.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Set aside since: 90s, 15m, 2h, 3d ago, or ISO 8601.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Set aside before; as --since.")]
WhereOption = Annotated[
    list[str] | None,
    typer.Option("--where", help="field=value, field!=value or field~part; may be repeated."),
]

HEX_WIDTH = 16


def register(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(help="Messages that were set aside.", no_args_is_help=True)

    @group.command("list")
    def list_them(
        code: CodeOption = None,
        topic: TopicOption = None,
        partition: PartitionOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        where: WhereOption = None,
        limit: Annotated[int, typer.Option(min=0, help="Show so many, the newest.")] = 20,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Count what was set aside, by reason, and show the newest; each message once."""
        settings = _settings(config, data_dir, kafka, topic_prefix)
        selection = _selection(settings, (), code, topic, partition, since, until, where)
        run(_list(settings, selection, limit, Output(as_json)))

    @group.command("show")
    def show(
        position: Annotated[str, typer.Argument(help="topic/partition/offset of the original.")],
        as_hex: Annotated[bool, typer.Option("--hex", help="Show the bytes as numbers.")] = False,
        save: Annotated[
            Path | None, typer.Option("--save", help="Write the original bytes to this file.")
        ] = None,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show one: reason, headers, original bytes (fetched where they were too large)."""
        settings = _settings(config, data_dir, kafka, topic_prefix)
        place = Position.parse(position, settings.topic_prefix)
        run(_show(settings, place, Output(as_json), as_hex, save))

    @group.command("replay")
    def replay(
        positions: Annotated[
            list[str] | None, typer.Argument(help="topic/partition/offset of originals.")
        ] = None,
        everything: Annotated[
            bool, typer.Option("--all", help="All there are, where nothing else selects.")
        ] = False,
        code: CodeOption = None,
        topic: TopicOption = None,
        partition: PartitionOption = None,
        since: SinceOption = None,
        until: UntilOption = None,
        where: WhereOption = None,
        set_to: Annotated[
            list[str] | None,
            typer.Option("--set", help="field=value: put it into each message; JSON, or text."),
        ] = None,
        renamed: Annotated[
            list[str] | None, typer.Option("--rename", help="old=new: rename a field.")
        ] = None,
        removed: Annotated[
            list[str] | None, typer.Option("--remove", help="Take a field out.")
        ] = None,
        rekey: Annotated[
            bool, typer.Option("--rekey", help="Make the event's user_id its key.")
        ] = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would be sent; send nothing.")
        ] = False,
        force: Annotated[
            bool, typer.Option("--force", help="Send also what would be refused again.")
        ] = False,
        again: Annotated[
            bool, typer.Option("--again", help="Send also what was replayed before.")
        ] = False,
        yes: Annotated[bool, typer.Option("--yes", help="Don't ask before sending.")] = False,
        kafka: KafkaOption = None,
        data_dir: DataDirOption = None,
        topic_prefix: PrefixOption = None,
        config: ConfigOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Send messages again, to their topic and key; none twice, and none to be refused again."""
        from agents.replay import Edits

        settings = _settings(config, data_dir, kafka, topic_prefix)
        places = [Position.parse(text, settings.topic_prefix) for text in positions or ()]
        selection = _selection(settings, places, code, topic, partition, since, until, where)
        if selection == Selection() and not everything:
            raise UsageError("replay what? Name positions or filters, or --all")
        edits = Edits.parse(renamed or (), removed or (), set_to or (), rekey)
        output = Output(as_json)
        options = {"force": force, "again": again}
        if not dry_run and not yes:
            if as_json or not sys.stdin.isatty():
                raise UsageError("nobody to ask: add --yes, or --dry-run to see what would be sent")
            report = run(_replay(settings, selection, edits, output, dry_run=True, **options))
            _tell(report, output)
            typer.confirm(f"Send {report.accepted + report.forced} messages?", abort=True)
        report = run(_replay(settings, selection, edits, output, dry_run=dry_run, **options))
        output.result({**msgspec.to_builtins(report), "n_refused": report.n_refused})
        _tell(report, output)
        if report.n_refused:
            raise CheckFailed(
                f"{report.n_refused} would be refused again and were not sent: edit them (--set, "
                "--rename, --remove, --rekey), or --force"
            )

    app.add_typer(group, name="dead-letters")


def _settings(
    config: Path | None, data_dir: Path | None, kafka: str | None, topic_prefix: str | None
) -> Settings:
    return settings_for(config, data_dir=data_dir, kafka=kafka, topic_prefix=topic_prefix).settings


def _selection(
    settings: Settings,
    positions: list[Position] | tuple[()],
    codes: list[str] | None,
    topic: str | None,
    partition: int | None,
    since: str | None,
    until: str | None,
    where: list[str] | None,
) -> Selection:
    now_ms = time.time_ns() // 1_000_000
    if topic is not None and "." not in topic:
        topic = f"{settings.topic_prefix}.{topic}"
    return Selection(
        positions=frozenset(positions) if positions else (),
        codes=frozenset(codes) if codes else (),
        topic=topic,
        partition=partition,
        since_ms=None if since is None else moment_ms(since, now_ms),
        until_ms=None if until is None else moment_ms(until, now_ms),
        where=tuple(Where.parse(text) for text in where or ()),
    )


# list ----------------------------------------------------------------------------------------


async def _list(settings: Settings, selection: Selection, limit: int, output: Output) -> None:
    topics = settings.topics()
    newest: deque[Letter] = deque(maxlen=limit)
    with output.progress(counted=False) as progress:
        progress.add_task("reading dead letters")
        counts = await count(settings.kafka, topics.dead_letters.name, selection, newest.append)
        sent = (await read_ledger(settings.kafka, topics.replays)).sent
    shown = sorted(newest, key=lambda letter: letter.set_aside_ms)
    output.result(
        {
            "total": counts.n,
            "codes": dict(counts.by_code.most_common()),
            "places": [
                {"topic": topic, "partition": partition, "count": n}
                for (topic, partition), n in sorted(counts.by_place.items())
            ],
            "letters": [
                {
                    "position": str(letter.position),
                    **msgspec.to_builtins(letter.info),
                    "set_aside_ms": letter.set_aside_ms,
                    "key": _text(letter.key),
                    "replayed_ms": sent.get(letter.position),
                }
                for letter in shown
            ],
        }
    )
    if not counts.n:
        output.say("no dead letters" + (" like that" if selection != Selection() else ""))
        return
    reasons = Table("reason", "messages", box=None)
    for reason, n in counts.by_code.most_common():
        reasons.add_row(escape(reason), f"{n:,}")
    output.show(reasons)
    output.say()
    for letter in shown:
        replayed = sent.get(letter.position)
        output.say(
            f"[dim]{_clock(letter.set_aside_ms)}[/dim] {letter.position}  "
            f"[yellow]{escape(letter.info.code)}[/yellow] "
            f"{escape(readable(letter.info.detail.encode(), 120))}  "
            f"[dim]key[/dim] {escape(readable(letter.key, 40))}"
            + ("" if replayed is None else f"  [green]replayed {_clock(replayed)}[/green]"),
            wrap=False,
        )
    if counts.n > len(shown):
        output.say(f"[dim]the newest {len(shown)} of {counts.n:,}; --limit shows more[/dim]")


# show ----------------------------------------------------------------------------------------


async def _show(
    settings: Settings, place: Position, output: Output, as_hex: bool, save: Path | None
) -> None:
    topics = settings.topics()
    with output.progress(counted=False) as progress:
        progress.add_task(f"looking for {place}")
        async with DeadLetters(settings.kafka, topics.dead_letters.name) as letters:
            found = [one async for one in letters.select(Selection(positions={place}))]
            if not found:
                raise UsageError(f"{place}: no dead letter of that position is on its topic")
            letter = found[0]
            original = await letters.original(letter)
        replayed = (await read_ledger(settings.kafka, topics.replays)).sent.get(place)
    if save is not None:
        await asyncio.to_thread(save.write_bytes, original.value or b"")
    document = json_of(original.value)
    output.result(
        {
            "position": str(place),
            **msgspec.to_builtins(letter.info),
            "set_aside_ms": letter.set_aside_ms,
            "replayed_ms": replayed,
            "key": _text(original.key),
            "headers": {name: _text(content) for name, content in original.headers},
            "fetched": original.fetched,
            "fault": original.fault,
            "bytes": len(original.value or b""),
            "value": document,
            "hex": (original.value or b"").hex() if as_hex or document is None else None,
        }
    )
    _print_letter(letter, original, replayed, output, as_hex)
    if original.fault is not None:
        raise CheckFailed(original.fault)


def _print_letter(
    letter: Letter, original: Original, replayed_ms: int | None, output: Output, as_hex: bool
) -> None:
    info = letter.info
    table = Table(show_header=False, box=None)
    for name, text in (
        ("position", str(letter.position)),
        ("reason", f"{info.code}: {info.detail}"),
        ("appended", _clock(info.appended_ms)),
        ("set aside", _clock(letter.set_aside_ms)),
        ("replayed", "no" if replayed_ms is None else _clock(replayed_ms)),
        ("key", readable(original.key, 256)),
        *((f"header {name}", readable(content, 256)) for name, content in original.headers),
        ("bytes", f"{len(original.value or b''):,}" + (" (fetched)" if original.fetched else "")),
    ):
        table.add_row(f"[dim]{escape(name)}[/dim]", escape(text))
    output.show(table)
    output.say()
    if original.value is None:
        output.say("[dim]no value[/dim]")
    elif as_hex:
        output.say(escape(hex_lines(original.value)), wrap=False)
    elif (document := json_of(original.value)) is not None:
        pretty = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
        output.say(escape(readable_lines(pretty)), wrap=False)
    else:
        output.say(escape(readable(original.value, 20_000)), wrap=False)


def readable_lines(text: str) -> str:
    r"""Lines of text with what can't be printed shown by its number.

    >>> readable_lines("a\n\u202eb")
    'a\n\\u202eb'
    """
    return "\n".join(readable(line.encode(), len(line) + 1) for line in text.split("\n"))


def hex_lines(data: bytes) -> str:
    """Offsets, bytes in hexadecimal, and what of them is printable ASCII.

    >>> hex_lines(b"ab\\x00")
    '00000000  61 62 00                                         ab.'
    """
    lines = []
    for at in range(0, len(data), HEX_WIDTH):
        part = data[at : at + HEX_WIDTH]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{at:08x}  {part.hex(' '):<{3 * HEX_WIDTH - 1}}  {text}")
    return "\n".join(lines)


# replay --------------------------------------------------------------------------------------


async def _replay(
    settings: Settings, selection: Selection, edits: Edits, output: Output, **options: Any
) -> ReplayReport:
    from agents.replay import Replay

    with output.progress() as progress:
        task = progress.add_task("counting", total=None, rate="")
        topic = settings.topics().dead_letters.name
        total = (await count(settings.kafka, topic, selection)).n
        verb = "looking at" if options["dry_run"] else "replaying"
        progress.update(task, description=verb, total=total)

        def on_progress(report: ReplayReport) -> None:
            progress.update(task, completed=report.selected, rate=f"{report.sent:,} sent")

        return await Replay(settings, selection, edits, on_progress=on_progress, **options).run()


def _tell(report: ReplayReport, output: Output) -> None:
    for line in report.settled:
        output.say(f"[yellow]{escape(line)}[/yellow]")
    output.say(f"{report.selected:,} dead letters selected")
    if report.sent_before:
        output.say(f"{report.sent_before:,} replayed before: passed over (--again sends them)")
    output.say(f"{report.accepted:,} are events now")
    if report.forced:
        output.say(f"[yellow]{report.forced:,} are not, and go all the same[/yellow]")
    for code, n in sorted(report.refused.items()):
        output.say(f"[yellow]{n:,} would be refused again: {escape(code)}[/yellow]")
    for left in report.left[:5]:
        output.say(
            f"  [dim]{left.position}  {escape(left.code)}: {escape(left.detail)}[/dim]", wrap=False
        )
    if not report.dry_run:
        output.say(f"[green]{report.sent:,} sent[/green]")
        if report.without_id:
            output.say(
                f"[dim]{report.without_id:,} of them have no event_id: only the replay ledger "
                "keeps them from being folded twice[/dim]"
            )


def _clock(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _text(raw: bytes | None) -> str | None:
    return None if raw is None else raw.decode(errors="backslashreplace")
