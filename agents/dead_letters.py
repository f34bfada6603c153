"""Dead letters for commands: found by filters, one for each source position, with their originals.

Owns selection and the way back to the original bytes; how a dead letter looks is
`streams.dead_letters`, sending one again is `agents.replay`. What stays true: nothing here writes
anything, and what is shown as the original has the SHA-256 that was noted when it was set aside.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from agents.errors import UsageError
from streams.batch import Message
from streams.dead_letters import DeadLetterInfo, Omitted, original_headers, read_info
from streams.manual_reader import ManualReader
from streams.tailing import TopicTail
from streams.topics import partition_counts

UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """Where a message stood before it was set aside."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str, prefix: str) -> Self:
        """From ``topic/partition/offset``, or ``partition/offset`` of the events topic.

        prefix: the topics' prefix; a topic may be named without it. Raises UsageError.

        >>> str(Position.parse("3/17", "shop")), str(Position.parse("events/3/17", "shop"))
        ('shop.events/3/17', 'shop.events/3/17')
        """
        topic, _, rest = text.rpartition("/")[0].rpartition("/")
        topic, partition, offset = topic or "events", rest, text.rpartition("/")[2]
        if not (partition.isascii() and partition.isdecimal() and offset.isdecimal()):
            raise UsageError(
                f"position {text!r}: write topic/partition/offset, such as events/3/17"
            )
        if "." not in topic:
            topic = f"{prefix}.{topic}"
        return cls(topic, int(partition), int(offset))


def position_of(info: DeadLetterInfo) -> Position:
    """The source position that a dead letter names."""
    return Position(info.topic, info.partition, info.offset)


@dataclass(frozen=True, slots=True)
class Letter:
    """One message set aside.

    key, value, headers: as they were sent; of what was left out for its size (`info.omitted`)
    value is a JSON object instead, the others are empty. set_aside_ms: since 1970.
    """

    info: DeadLetterInfo
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    set_aside_ms: int

    @property
    def position(self) -> Position:
        """Where it stood; tells dead letters apart."""
        return position_of(self.info)


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on one field of the message's JSON, or on ``key``."""

    field: str
    how: Literal["=", "!=", "~"]
    wanted: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From ``field=value``, ``field!=value`` or ``field~part``. Raises UsageError.

        >>> Where.parse("item_id!=i7")
        Where(field='item_id', how='!=', wanted='i7')
        """
        found = re.match(r"([A-Za-z_][\w.-]*)(!=|=|~)(.*)\Z", text, re.DOTALL)
        if found is None:
            raise UsageError(f"--where {text!r}: write field=value, field!=value or field~part")
        name, how, wanted = found.groups()
        return cls(name, how, wanted)  # type: ignore[arg-type]  # the pattern has these three

    def holds(self, key: bytes | None, document: Any) -> bool:
        """Whether a message fulfils it; a field that isn't there equals nothing."""
        if self.field == "key":
            found = None if key is None else key.decode(errors="backslashreplace")
        else:
            found = _text_of(document.get(self.field)) if isinstance(document, dict) else None
        if self.how == "!=":
            return found != self.wanted
        return found is not None and (
            found == self.wanted if self.how == "=" else self.wanted in found
        )


def _text_of(value: Any) -> str | None:
    """A JSON value as a person types it: strings bare, the rest as JSON."""
    if value is None or isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters; what is empty or None doesn't narrow it. Times: when set aside."""

    positions: Collection[Position] = ()
    codes: Collection[str] = ()
    topic: str | None = None
    partition: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    where: Sequence[Where] = ()

    def takes(self, letter: Letter) -> bool:
        """By everything but `where`, which needs the original."""
        info = letter.info
        return (
            (not self.positions or letter.position in self.positions)
            and (not self.codes or info.code in self.codes)
            and self.topic in (None, info.topic)
            and self.partition in (None, info.partition)
            and (self.since_ms is None or letter.set_aside_ms >= self.since_ms)
            and (self.until_ms is None or letter.set_aside_ms < self.until_ms)
        )

    def takes_content(self, key: bytes | None, value: bytes | None) -> bool:
        """By `where`."""
        if not self.where:
            return True
        document = json_of(value)
        return all(where.holds(key, document) for where in self.where)


def json_of(value: bytes | None) -> Any:
    """The value's JSON; None where it has none."""
    try:
        return None if value is None else msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def moment_ms(text: str, now_ms: int) -> int:
    """A moment from ``90s``, ``15m``, ``2h``, ``3d`` (ago), ISO 8601, or ms since 1970.

    Times without an offset are UTC. Raises UsageError.

    >>> moment_ms("2h", 10_000_000), moment_ms("1970-01-01T00:00:01", 0), moment_ms("250000", 0)
    (2800000, 1000, 250000)
    """
    if ago := re.fullmatch(r"(\d+)([smhd])", text):
        return now_ms - int(ago[1]) * UNITS_MS[ago[2]]
    if text.isascii() and text.isdecimal() and len(text) > 4:
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"time {text!r}: write 90s, 15m, 2h or 3d (ago), or 2026-05-01T10:00"
        ) from error
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1_000)


class DeadLetters:
    """Reads the dead-letter topic as it is now; an async context manager.

    n_repeats: copies passed over (a crash between a dead letter and its commit sends it again).
    n_foreign: messages on the topic that are no dead letters.
    """

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.n_repeats = 0
        self.n_foreign = 0
        self._bootstrap = bootstrap
        self._topic = topic
        self._readers: dict[str, tuple[ManualReader, int] | None] = {}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    async def select(self, selection: Selection) -> AsyncIterator[Letter]:
        """The dead letters of a selection, the first copy of each, up to what is there now.

        Within a partition of the topic in the order in which they were set aside. Remembers the
        positions it has seen: about 150 bytes each. Raises BrokerAway, TopicMissing.
        """
        self.n_repeats = self.n_foreign = 0
        seen: set[Position] = set()
        tail = TopicTail(
            self._bootstrap,
            self._topic,
            from_beginning=True,
            from_ms=selection.since_ms,
            follow=False,
        )
        async with tail:
            async for records in tail.records():
                for record in records:
                    letter = letter_of(record)
                    if letter is None:
                        self.n_foreign += 1
                    elif letter.position in seen:
                        self.n_repeats += 1
                    elif selection.takes(letter):
                        seen.add(letter.position)
                        if selection.where and not await self._content(letter, selection):
                            continue
                        yield letter
                        if len(seen) == len(selection.positions) > 0:
                            return

    async def _content(self, letter: Letter, selection: Selection) -> bool:
        original = await self.original(letter)
        return original.fault is None and selection.takes_content(original.key, original.value)

    async def original(self, letter: Letter) -> Original:
        """The message as it was sent; what was left out is fetched from its topic.

        Raises BrokerAway; what is not to be had any more is in `Original.fault`.
        """
        omitted = letter.info.omitted
        if not omitted:
            return Original(letter.key, letter.value, letter.headers)
        info, found = letter.info, None
        source = await self._source(info.topic)
        if source is not None and info.partition < source[1]:
            found = await source[0].read_one(info.partition, info.offset)
        if found is None:
            return Original(
                letter.key,
                letter.value,
                letter.headers,
                fault=f"{letter.position} is not there any more: retention has taken the original",
            )
        fault = None
        if "value" in omitted and (told := _told(letter.value)) is not None:
            digest = hashlib.sha256(found.value or b"").hexdigest()
            if digest != told.sha256:
                fault = (
                    f"{letter.position} holds other bytes (SHA-256 {digest[:12]}..., noted was "
                    f"{told.sha256[:12]}...): the topic was made anew since"
                )
        return Original(found.key, found.value, list(found.headers), fetched=True, fault=fault)

    async def _source(self, topic: str) -> tuple[ManualReader, int] | None:
        """A reader of a topic and its partition count; None for a topic that is gone."""
        if topic not in self._readers:
            count = (await partition_counts(self._bootstrap, [topic])).get(topic)
            if count is None:
                self._readers[topic] = None
            else:
                reader = ManualReader(self._bootstrap, topic, client_id="foldstream-dead-letters")
                await reader.start()
                self._open.push_async_callback(reader.stop)
                self._readers[topic] = reader, count
        return self._readers[topic]


@dataclass(frozen=True, slots=True)
class Original:
    """A message as it was sent. fetched: from its own topic. fault: why it is not (surely) that
    message; None for one to rely on."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]
    fetched: bool = False
    fault: str | None = None


def letter_of(record: Message) -> Letter | None:
    """A message of the dead-letter topic; None for one without (all) the reason headers."""
    headers = [(name, content or b"") for name, content in record.headers]
    info = read_info(headers)
    if info is None:
        return None
    return Letter(info, record.key, record.value, original_headers(headers), record.timestamp)


def _told(value: bytes | None) -> Omitted | None:
    try:
        return msgspec.json.decode(value or b"", type=Omitted)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


@dataclass(slots=True)
class Counts:
    """How many of what kind."""

    n: int = 0
    by_code: Counter[str] = field(default_factory=Counter)
    by_place: Counter[tuple[str, int]] = field(default_factory=Counter)

    def add(self, letter: Letter) -> None:
        """Count one."""
        self.n += 1
        self.by_code[letter.info.code] += 1
        self.by_place[letter.info.topic, letter.info.partition] += 1


async def count(
    bootstrap: str,
    topic: str,
    selection: Selection,
    each: Callable[[Letter], None] = lambda letter: None,
) -> Counts:
    """Count a selection's dead letters. each: told of every one."""
    counts = Counts()
    async with DeadLetters(bootstrap, topic) as letters:
        async for letter in letters.select(selection):
            counts.add(letter)
            each(letter)
    return counts
