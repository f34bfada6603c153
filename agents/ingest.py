"""Sends a file's events and catalogue items to their topics; goes on where a killed run stopped.

The state file of an unfinished run says up to which line everything was acknowledged: it is
written behind the acknowledgements, so a run that goes on may send some lines again (their event
ids are the same: the fold drops them), and never leaves one out. A finished run removes it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from streams.bulk import BulkProducer, Checkpoint
from streams.codec import encode
from streams.errors import MappingError
from streams.events import Event, Item
from streams.mappings.reader import EventFile, FileScan, ReadCounts

CHECKPOINT_S = 1.0
"""Time between two state writes: what a kill makes the next run send again."""

YIELD_EVERY = 500
"""Messages between two turns of the event loop: about 5 ms, so the connection stays busy."""


class IngestPlan(Struct, frozen=True, kw_only=True):
    """What to do with a file.

    speed: multiple of the recorded pace; None: as fast as it goes.
    retime: move event times so that the last one is now (at full speed), or so that each is
    stamped when it is sent (at a pace). limit: lines to read. restart: forget an unfinished run.
    """

    events_topic: str
    items_topic: str
    speed: float | None = None
    retime: bool = False
    limit: int | None = None
    restart: bool = False


class IngestReport(Struct, frozen=True, kw_only=True):
    """What came of a file. Counts are of the whole file; `sent_*` of this run alone.

    resumed_at_line: the line after which this run went on; 0 for a run from the beginning.
    """

    file: str
    sha256: str
    mapping: str
    lines: int
    accepted: int
    events: int
    items: int
    repeated: int
    rejected: dict[str, int]
    rejected_items: dict[str, int]
    resumed_at_line: int
    sent_events: int
    sent_items: int
    seconds: float
    lines_per_s: float


class IngestState(Struct, kw_only=True):
    """An unfinished run, on disk. line: acknowledged up to it. shift_ms: added to event times."""

    line: int
    shift_ms: int


def state_path(folder: Path, file: EventFile, scan: FileScan, plan: IngestPlan) -> Path:
    """Where an unfinished run is remembered: one place per file, mapping and topic."""
    name = f"{scan.sha256[:16]}-{file.mapping_fingerprint}-{plan.events_topic}"
    return folder / f"{name}{'-retimed' if plan.retime else ''}.json"


async def ingest(
    file: EventFile,
    scan: FileScan,
    producer: BulkProducer,
    plan: IngestPlan,
    state_file: Path,
    on_line: Callable[[int], None] = lambda line: None,
) -> IngestReport:
    """Send a file; returns once the broker has acknowledged all of it.

    on_line: told the line reached, about every `YIELD_EVERY` messages.
    Raises MappingError (the file) and BrokerAway (run again: it goes on where this run stopped).
    """
    run = _Run(file, producer, plan, state_file)
    started = time.monotonic()
    await run.send(on_line)
    seconds = time.monotonic() - started
    counts = file.counts
    return IngestReport(
        file=str(file.path),
        sha256=scan.sha256,
        mapping=file.mapping_name,
        lines=counts.lines,
        accepted=counts.accepted,
        events=counts.events,
        items=counts.items,
        repeated=counts.repeated,
        rejected=dict(counts.rejected.most_common()),
        rejected_items=dict(counts.rejected_items.most_common()),
        resumed_at_line=run.resumed_at_line,
        sent_events=run.sent_events,
        sent_items=run.sent_items,
        seconds=round(seconds, 3),
        lines_per_s=round(counts.lines / max(seconds, 1e-9), 1),
    )


def count_file(file: EventFile, limit: int | None = None) -> tuple[ReadCounts, int | None]:
    """What a file holds, without sending it: its counts and the latest event time."""
    latest: int | None = None
    for _, message in file.messages(limit):
        if isinstance(message, Event) and (latest is None or message.ts > latest):
            latest = message.ts
    return file.counts, latest


class _Run:
    """One run over one file."""

    def __init__(
        self, file: EventFile, producer: BulkProducer, plan: IngestPlan, state_file: Path
    ) -> None:
        self._file = file
        self._producer = producer
        self._plan = plan
        self._state_file = state_file
        self._pending: asyncio.Task[None] | None = None
        self._checked_at = time.monotonic()
        self._pace = plan.speed and _Pace(plan.speed, retime=plan.retime)
        self.resumed_at_line = 0
        self.sent_events = 0
        self.sent_items = 0

    async def send(self, on_line: Callable[[int], None]) -> None:
        state = None if self._plan.restart else _read_state(self._state_file)
        if state is None:
            state = IngestState(line=0, shift_ms=await self._shift_ms())
        self.resumed_at_line = state.line
        try:
            for number, (line, message) in enumerate(self._file.messages(self._plan.limit)):
                if number % YIELD_EVERY == 0:
                    on_line(line)
                    await self._breathe(state)
                if line > self.resumed_at_line:
                    await self._send_one(message, state)
            await self._producer.flush()
        finally:
            if self._pending is not None:
                self._pending.cancel()
                await asyncio.gather(self._pending, return_exceptions=True)
        self._state_file.unlink(missing_ok=True)

    async def _send_one(self, message: Event | Item, state: IngestState) -> None:
        put = self._producer.put
        if isinstance(message, Item):
            await put(self._plan.items_topic, message.item_id.encode(), encode(message))
            self.sent_items += 1
            return
        if self._pace:
            wait_s, ts = self._pace.next(message.ts, time.time())
            if wait_s > 0:
                await self._producer.send_open()
                while wait_s > 0:  # in steps, so that state is written during long silences
                    await asyncio.sleep(min(wait_s, CHECKPOINT_S))
                    wait_s -= CHECKPOINT_S
                    await self._breathe(state)
            if ts != message.ts:
                message = msgspec.structs.replace(message, ts=ts)
        elif state.shift_ms:
            message = msgspec.structs.replace(message, ts=max(0, message.ts + state.shift_ms))
        await put(self._plan.events_topic, message.user_id.encode(), encode(message))
        self.sent_events += 1

    async def _breathe(self, state: IngestState) -> None:
        """Let the connection work; once a `CHECKPOINT_S` begin to acknowledge a line."""
        await asyncio.sleep(0)
        if self._pending is not None and self._pending.done():
            task, self._pending = self._pending, None
            task.result()
        if self._pending is None and time.monotonic() - self._checked_at >= CHECKPOINT_S:
            self._checked_at = time.monotonic()
            line = self._file.finished_line()
            if line > self.resumed_at_line:
                checkpoint = await self._producer.checkpoint()
                reached = IngestState(line=line, shift_ms=state.shift_ms)
                self._pending = asyncio.create_task(self._remember(checkpoint, reached))

    async def _remember(self, checkpoint: Checkpoint, reached: IngestState) -> None:
        await checkpoint.acknowledged()
        _write_state(self._state_file, reached)

    async def _shift_ms(self) -> int:
        """What full speed adds to event times with `retime`: the last event is now."""
        if not self._plan.retime or self._pace:
            return 0
        _, latest = await asyncio.to_thread(count_file, self._file, self._plan.limit)
        return 0 if latest is None else int(time.time() * 1_000) - latest


class _Pace:
    """When each event is due: recorded distances divided by the speed."""

    def __init__(self, speed: float, *, retime: bool) -> None:
        self._speed = speed
        self._retime = retime
        self._first: tuple[int, float] | None = None

    def next(self, ts: int, now_s: float) -> tuple[float, int]:
        """Seconds to wait, and the event time to send."""
        if self._first is None:
            self._first = (ts, now_s)
        first_ts, started_s = self._first
        due_s = started_s + (ts - first_ts) / 1_000 / self._speed
        return due_s - now_s, max(0, int(due_s * 1_000)) if self._retime else ts


def _read_state(path: Path) -> IngestState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=IngestState)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise MappingError(f"{path}: cannot be read ({error}); --restart begins anew") from error


def _write_state(path: Path, state: IngestState) -> None:
    """Replace the state in one step: a kill leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_bytes(msgspec.json.encode(state))
    os.replace(beside, path)
