"""Sends dead letters again, to their original topic under their original key.

Owns the edits on the way and the verdict before it: a message that the codec would refuse again
is not sent (unless forced), one that was sent before neither (unless asked for). The event's id
stays, so the updater drops what it has folded already; what has no id is kept from being sent twice
by `agents.replay_ledger` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import msgspec

from agents.dead_letters import DeadLetters, Letter, Position, Selection, json_of
from agents.errors import UsageError
from agents.replay_ledger import LEASE_S, LedgerState, ReplayLedger, read_ledger
from agents.settings import Settings
from streams.codec import EventCodec
from streams.dead_letters import REPLAYED_FROM
from streams.delivery import Delivery, OutMessage
from streams.errors import DecodeError, MessageTooLarge, StreamsError
from streams.manual_reader import ManualReader
from streams.topics import ensure_topics, partition_counts

GROUP_MESSAGES = 500
GROUP_BYTES = 4 * 1024 * 1024
"""Bounds of what is begun, sent and done at once: what a killed run must look for."""

MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class Edits:
    """Changes of the message's JSON object, in this order: renamed, removed, set; then the key.

    rekey: the key becomes the event's ``user_id`` (for what came without a key, or with another).
    """

    renamed: Sequence[tuple[str, str]] = ()
    removed: Sequence[str] = ()
    set_to: Sequence[tuple[str, Any]] = ()
    rekey: bool = False

    @classmethod
    def parse(
        cls,
        renamed: Sequence[str] = (),
        removed: Sequence[str] = (),
        set_to: Sequence[str] = (),
        rekey: bool = False,
    ) -> Self:
        """From ``old=new`` and ``field=value``; a value is JSON, or else text. Raises UsageError.

        >>> Edits.parse(set_to=["price=1.5", "type=click"]).set_to
        [('price', 1.5), ('type', 'click')]
        """
        return cls(
            [_pair(text, "--rename", "old=new") for text in renamed],
            list(removed),
            [
                (name, _json_or_text(value))
                for name, value in (_pair(text, "--set", "field=value") for text in set_to)
            ],
            rekey,
        )

    def __bool__(self) -> bool:
        return bool(self.renamed or self.removed or self.set_to or self.rekey)

    def apply(self, key: bytes | None, value: bytes | None) -> tuple[bytes | None, bytes | None]:
        """Key and value as they are to be sent. Raises DecodeError for what is no JSON object."""
        if not self:
            return key, value
        document = json_of(value)
        if not isinstance(document, dict):
            raise DecodeError("invalid_json", "not a JSON object: there is nothing to edit")
        for old, new in self.renamed:
            if old in document:
                document[new] = document.pop(old)
        for name in self.removed:
            document.pop(name, None)
        document.update(self.set_to)
        user_id = document.get("user_id")
        if self.rekey and isinstance(user_id, str):
            key = user_id.encode()
        return key, msgspec.json.encode(document)


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise UsageError(f"{option} {text!r}: write {form}")
    return name, value


def _json_or_text(value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


class Left(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter that was not sent, and why."""

    position: str
    code: str
    detail: str


class ReplayReport(msgspec.Struct, kw_only=True):
    """What a replay did, or would do (dry_run).

    selected: distinct dead letters. sent_before: passed over, the ledger has them. accepted: the
    codec takes them now; forced: it doesn't, and they go all the same. sent: acknowledged. refused,
    by code: not sent, see `left` for some. without_id: of the sent ones, those with no event_id.
    """

    dry_run: bool
    selected: int = 0
    sent_before: int = 0
    accepted: int = 0
    forced: int = 0
    sent: int = 0
    without_id: int = 0
    refused: dict[str, int] = {}
    left: list[Left] = []
    settled: list[str] = []

    @property
    def n_refused(self) -> int:
        """Selected, not sent before, and not sent now."""
        return sum(self.refused.values())


@dataclass(frozen=True, slots=True)
class _Ready:
    """One message to send."""

    position: Position
    message: OutMessage
    has_id: bool


class Replay:
    """One run over a selection."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        edits: Edits,
        *,
        dry_run: bool = False,
        force: bool = False,
        again: bool = False,
        on_progress: Callable[[ReplayReport], None] = lambda report: None,
        lease_s: float = LEASE_S,
    ) -> None:
        """force: also what would be refused again. again: also what was sent before."""
        self._settings = settings
        self._topics = settings.topics()
        self._selection = selection
        self._edits = edits
        self._force = force
        self._again = again
        self._on_progress = on_progress
        self._lease_s = lease_s
        self._codec = EventCodec([kind.name for kind in settings.kinds])
        self._refused: Counter[str] = Counter()
        self._readers: dict[str, tuple[ManualReader, int]] = {}
        self.report = ReplayReport(dry_run=dry_run)

    async def run(self) -> ReplayReport:
        """Send, or only look. Raises BrokerAway, TopicMissing, ReplayBusy; run again then: what
        was sent is not sent twice."""
        settings = self._settings
        if self.report.dry_run:
            ledger = await read_ledger(settings.kafka, self._topics.replays)
            await self._go_through(ledger, None)
            return self.report
        await ensure_topics(settings.kafka, [self._topics.replays], settings.replication)
        delivery = Delivery(
            settings.kafka,
            [*self._topics.all(), self._topics.replays],
            "foldstream-replay",
            "zstd",
        )
        await delivery.start()
        try:
            keeper = ReplayLedger(settings.kafka, self._topics.replays, delivery)
            self.report.settled = await keeper.open(self._lease_s)
            await self._go_through(keeper.state, _Sender(keeper, delivery, self))
        finally:
            for reader, _ in self._readers.values():
                await reader.stop()
            await delivery.stop()
        return self.report

    async def _go_through(self, ledger: LedgerState, sender: _Sender | None) -> None:
        settings, report = self._settings, self.report
        async with DeadLetters(settings.kafka, self._topics.dead_letters.name) as letters:
            async for letter in letters.select(self._selection):
                report.selected += 1
                if letter.position in ledger.sent and not self._again:
                    report.sent_before += 1
                else:
                    ready = await self._judge(letters, letter)
                    if ready is not None and sender is not None:
                        await sender.add(ready)
                self._on_progress(report)
        if sender is not None:
            await sender.flush()

    async def _judge(self, letters: DeadLetters, letter: Letter) -> _Ready | None:
        """The message to send, or None with the reason counted."""
        original = await letters.original(letter)
        if original.fault is not None:
            self.leave(letter.position, "original_gone", original.fault)
            return None
        headers = [pair for pair in original.headers if pair[0] != REPLAYED_FROM]
        headers.append((REPLAYED_FROM, str(letter.position).encode()))
        has_id = False
        try:
            key, value = self._edits.apply(original.key, original.value)
            if letter.position.topic == self._topics.events.name:
                has_id = self._codec.decode(value, key, headers).repeat_hash != 0
        except DecodeError as error:
            if not self._force:
                self.leave(letter.position, error.code, error.detail)
                return None
            self.report.forced += 1
            if self._edits and json_of(original.value) is None:
                key, value = original.key, original.value
        else:
            self.report.accepted += 1
        topic = letter.position.topic
        return _Ready(letter.position, OutMessage(topic, value, key, headers), has_id)

    def leave(self, position: Position, code: str, detail: str) -> None:
        """Count one that is not sent."""
        self._refused[code] += 1
        self.report.refused = dict(self._refused)
        if len(self.report.left) < MOST_EXAMPLES:
            self.report.left.append(Left(position=str(position), code=code, detail=detail))

    async def ends_of(self, topics: set[str]) -> dict[str, dict[int, int]]:
        """Where the partitions of these topics end now."""
        found = {}
        for topic in topics:
            if topic not in self._readers:
                reader = ManualReader(self._settings.kafka, topic)
                await reader.start()
                counts = await partition_counts(self._settings.kafka, [topic])
                self._readers[topic] = reader, counts[topic]
            reader, n_partitions = self._readers[topic]
            found[topic] = await reader.end_offsets(range(n_partitions))
        return found


class _Sender:
    """Gathers messages into groups, and sends each between its two entries of the ledger."""

    def __init__(self, ledger: ReplayLedger, delivery: Delivery, replay: Replay) -> None:
        self._ledger = ledger
        self._delivery = delivery
        self._replay = replay
        self._group: list[_Ready] = []
        self._n_bytes = 0

    async def add(self, ready: _Ready) -> None:
        """Send it with its group, now or later."""
        self._group.append(ready)
        self._n_bytes += len(ready.message.value or b"")
        if len(self._group) >= GROUP_MESSAGES or self._n_bytes >= GROUP_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Send what is left."""
        group, self._group, self._n_bytes = self._group, [], 0
        if not group:
            return
        replay, report = self._replay, self._replay.report
        ends = await replay.ends_of({ready.position.topic for ready in group})
        name = await self._ledger.begin([ready.position for ready in group], ends)
        results = await self._delivery.deliver_each([ready.message for ready in group])
        sent, failure = [], None
        for ready, result in zip(group, results, strict=True):
            if isinstance(result, MessageTooLarge):
                replay.leave(ready.position, "too_large", str(result))
            elif isinstance(result, StreamsError):
                failure = result
            else:
                sent.append(ready)
        if failure is not None:
            raise failure  # not done: the next run looks for what has arrived all the same
        await self._ledger.done(name, [ready.position for ready in sent])
        report.sent += len(sent)
        report.without_id += sum(not ready.has_id for ready in sent)
        replay._on_progress(report)
