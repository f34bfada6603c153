"""The replay ledger: which dead letters were sent again, so that none is sent twice by accident.

Owns the topic `<prefix>.replays`: one partition, so all runs of all operators stand in one order. A
run writes that it *begins* a group of positions before it sends them, and that it has *done* them
afterwards. A group that was begun and never done belonged to a run that was killed; its messages
are looked for in their topics (each carries `__foldstream.replayed-from`) from where those ended
when it began. What stays true: a position is free only if the ledger, read up to the run's own
entry, and the topics say that nobody has sent it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from aiokafka.structs import RecordMetadata

from agents.dead_letters import Position
from agents.errors import AgentsError
from streams.dead_letters import REPLAYED_FROM
from streams.delivery import Delivery, OutMessage
from streams.manual_reader import ManualReader
from streams.tailing import TopicTail
from streams.topics import Topic, partition_counts

LEASE_S = 15.0
"""A group is sent within milliseconds; one that was begun so long ago and isn't done is nobody's
any more. Its run gives up by itself after half of that."""


class ReplayBusy(AgentsError):
    """Another replay runs at the same time: try again when it has ended."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of the ledger.

    group: of both entries of one group. ends: by topic, the end of each partition when the group
    was begun. positions: with ``begun`` those to be sent, with ``done`` those that were.
    """

    state: Literal["begun", "done"]
    run: str
    group: str
    positions: list[tuple[str, int, int]]
    ends: dict[str, dict[int, int]] = {}


@dataclass(slots=True)
class _Open:
    """A group begun and not done; begun_ms: by the broker's clock."""

    entry: Entry
    begun_ms: int


@dataclass(slots=True)
class LedgerState:
    """What a ledger says. sent: position -> when, ms since 1970."""

    sent: dict[Position, int] = field(default_factory=dict)
    open: dict[str, _Open] = field(default_factory=dict)
    next_offset: int = 0

    def take(self, value: bytes | None, offset: int, appended_ms: int) -> None:
        """One message in; what is no entry is passed over."""
        self.next_offset = offset + 1
        try:
            entry = msgspec.json.decode(value or b"", type=Entry)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return
        if entry.state == "begun":
            self.open[entry.group] = _Open(entry, appended_ms)
            return
        self.open.pop(entry.group, None)
        for position in entry.positions:
            self.sent[Position(*position)] = appended_ms


async def read_ledger(bootstrap: str, topic: Topic) -> LedgerState:
    """What the ledger says now; empty where nobody has replayed yet. Raises BrokerAway."""
    state = LedgerState()
    if topic.name not in await partition_counts(bootstrap, [topic.name]):
        return state
    async with TopicTail(bootstrap, topic.name, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            for record in records:
                state.take(record.value, record.offset, record.timestamp)
    return state


class ReplayLedger:
    """One run's hold on the ledger. The topic is there (`streams.topics.ensure_topics`)."""

    def __init__(self, bootstrap: str, topic: Topic, delivery: Delivery) -> None:
        """delivery: started."""
        self.run = uuid.uuid4().hex[:12]
        self.state = LedgerState()
        self._bootstrap = bootstrap
        self._topic = topic
        self._delivery = delivery
        self._begun_s = 0.0

    async def open(self, lease_s: float = LEASE_S, patience_s: float = 2 * LEASE_S) -> list[str]:
        """Read the ledger, and settle what a killed run has left; returns what was settled, for
        people.

        Raises ReplayBusy when another run is at work for longer than patience_s.
        """
        deadline = time.monotonic() + patience_s
        while True:
            self.state = await read_ledger(self._bootstrap, self._topic)
            now_ms = time.time_ns() // 1_000_000
            young = [
                group
                for group in self.state.open.values()
                if now_ms - group.begun_ms < lease_s * 1_000
            ]
            if not young:
                break
            if time.monotonic() > deadline:
                raise self._busy(young[0].entry)
            await asyncio.sleep(min(1.0, lease_s / 4))
        settled = []
        for group in list(self.state.open.values()):
            entry = group.entry
            sent = await self._look_for(entry)
            await self._write(msgspec.structs.replace(entry, state="done", positions=sent, ends={}))
            self.state.open.pop(entry.group, None)
            for position in sent:
                self.state.sent[Position(*position)] = group.begun_ms
            settled.append(
                f"a replay was cut off: {len(sent)} of a group of {len(entry.positions)} had left"
            )
        return settled

    async def begin(
        self, positions: Collection[Position], ends: Mapping[str, Mapping[int, int]]
    ) -> str:
        """Say that these are about to be sent; returns the group's name for `done`.

        ends: where the target topics' partitions end now. Raises ReplayBusy when another run was
        quicker: nothing may be sent then.
        """
        self._begun_s = time.monotonic()
        group = uuid.uuid4().hex[:12]
        entry = Entry(
            state="begun",
            run=self.run,
            group=group,
            positions=[(p.topic, p.partition, p.offset) for p in positions],
            ends={topic: dict(by_partition) for topic, by_partition in ends.items()},
        )
        mine = await self._write(entry)
        for other in await self._entries(self.state.next_offset, mine.offset):
            if other.run != self.run and other.state == "begun":
                await self.done(group, [])
                raise self._busy(other)
        self.state.next_offset = mine.offset + 1
        if time.monotonic() - self._begun_s > LEASE_S / 2:
            await self.done(group, [])
            raise ReplayBusy("the broker is too slow to be sure that no other replay runs")
        return group

    async def done(self, group: str, positions: Collection[Position]) -> None:
        """Say that these of the group are acknowledged, and that the rest is free again."""
        listed = [(p.topic, p.partition, p.offset) for p in positions]
        await self._write(Entry(state="done", run=self.run, group=group, positions=listed))
        now_ms = time.time_ns() // 1_000_000
        self.state.sent.update(dict.fromkeys(positions, now_ms))

    async def _write(self, entry: Entry) -> RecordMetadata:
        message = OutMessage(
            self._topic.name, msgspec.json.encode(entry), entry.run.encode(), (), 0
        )
        (written,) = await self._delivery.deliver([message])
        return written

    async def _entries(self, start: int, end: int) -> list[Entry]:
        """The entries in [start, end): mostly none but our own."""
        if start >= end:
            return []
        found = []
        reader = ManualReader(self._bootstrap, self._topic.name)
        await reader.start()
        try:
            reader.assign({0: start})
            at = start
            while at < end:
                batch = await reader.next_batch(0, 1_000)
                at = batch.end
                for record in batch.records:
                    if record.offset < end:
                        found.append(msgspec.json.decode(record.value or b"", type=Entry))
        finally:
            await reader.stop()
        return found

    async def _look_for(self, entry: Entry) -> list[tuple[str, int, int]]:
        """Which positions of a group that was cut off have arrived in their topics."""
        wanted = {str(Position(*position)).encode(): position for position in entry.positions}
        found: list[tuple[str, int, int]] = []
        for topic, starts in entry.ends.items():
            reader = ManualReader(self._bootstrap, topic)
            await reader.start()
            try:
                ends = await reader.end_offsets(starts)
                begins = await reader.begin_offsets(starts)
                unread = {p: max(s, begins[p]) for p, s in starts.items() if s < ends[p]}
                reader.assign(unread)
                for partition, at in unread.items():
                    while at < ends[partition]:
                        batch = await reader.next_batch(partition, 5_000)
                        at = batch.end
                        for record in batch.records:
                            origin = _origin(record.headers)
                            if origin is not None and origin in wanted:
                                found.append(wanted.pop(origin))
            finally:
                await reader.stop()
        return found

    def _busy(self, entry: Entry) -> ReplayBusy:
        return ReplayBusy(
            f"another replay (run {entry.run}) is sending right now; nothing more was sent by this "
            "one. Try again when it has ended"
        )


def _origin(headers: Sequence[tuple[str, bytes]]) -> bytes | None:
    for name, content in headers:
        if name == REPLAYED_FROM:
            return content
    return None
