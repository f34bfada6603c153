"""The demonstration: real events, a real broker and store, one shopper's list before and after.

Owns the story only; every step is what a user of foldstream would do: start the stack, start a
worker, ingest a file, ask for a list, produce events, ask again.
"""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agents.errors import AgentsError, UsageError
from agents.generations import read_settings
from agents.http.address import read_addresses
from agents.ingest import IngestPlan, IngestReport, ingest
from agents.requests import Requester
from agents.settings import Settings
from agents.store_access import store_of
from streams.bulk import BulkProducer
from streams.embedded.guard import Guarded
from streams.events import Event, ItemEvent, Recommendation, RecommendRequest
from streams.manual_reader import ManualReader
from streams.mappings.reader import EventFile, scan_file
from streams.producer import Producer

DATA = Path(__file__).parents[1] / "data" / "online-retail-2011"
"""The real purchases that the repository carries (UCI Online Retail, CC0)."""

STORY_LINES = 15_000
"""Lines behind them in which a shopper is looked for."""

BASKET = 8
"""Events of the shopper's next basket that are sent."""

READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Story:
    """A shopper with a past in the history, and what they really bought next."""

    user_id: str
    n_before: int
    next_events: list[ItemEvent]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One list and how long it took from the last event's append, as seen by a client."""

    answer: Recommendation
    waited_ms: float


def data_file(name: str) -> Path:
    """A file of the demonstration. Raises UsageError outside a checkout."""
    path = DATA / name
    if not path.exists():
        raise UsageError(f"{path} is missing: the demo runs from a checkout of the repository")
    return path


def find_story(path: Path, sha256: str, skip_lines: int) -> Story:
    """The first shopper with a middling past whose next basket in the file is large enough.

    Raises AgentsError when nobody fits.
    """
    past: Counter[str] = Counter()
    baskets: dict[tuple[str, int], list[ItemEvent]] = {}
    file = EventFile(path, sha256, "online-retail")
    for line, message in file.messages(limit=skip_lines + STORY_LINES):
        if not isinstance(message, ItemEvent):
            continue
        if line <= skip_lines:
            past[message.user_id] += 1
            continue
        basket = baskets.setdefault((message.user_id, message.ts), [])
        basket.append(message)
        if len(basket) == BASKET and 10 <= past[message.user_id] <= 200:
            return Story(message.user_id, past[message.user_id], basket)
    raise AgentsError(f"{path}: no shopper for the demonstration was found")


@asynccontextmanager
async def running_worker(settings: Settings, log: Path) -> AsyncIterator[Guarded]:
    """A worker process on the settings' stack, ready; ends with this block, or with us."""
    worker = await asyncio.to_thread(
        lambda: Guarded(
            "worker",
            [
                *(sys.executable, "-m", "agents", "worker"),
                *("--kafka", settings.kafka, "--redis", settings.redis),
                *("--data-dir", settings.data_dir.absolute()),
            ],
            log,
            grace_s=15.0,
        )
    )
    try:
        yield worker
    finally:
        await asyncio.to_thread(worker.stop)


async def dashboard_of(settings: Settings, worker: Guarded) -> str:
    """The address of the worker's dashboard, once it serves. Raises AgentsError if it died."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        if not worker.alive():
            raise AgentsError(f"the worker ended: {worker.log_tail()}")
        for entry in read_addresses(settings.data_dir):
            return entry.address
        await asyncio.sleep(0.1)
    raise AgentsError(f"the worker was not ready within {READY_S:.0f} s: {worker.log_tail()}")


async def fill(
    settings: Settings, name: str, limit: int | None, on_line: Callable[[int], None]
) -> IngestReport:
    """Ingest one of the demonstration's files, event times moved to now."""
    path = data_file(name)
    scan = await asyncio.to_thread(scan_file, path)
    topics = settings.topics()
    file = EventFile(path, scan.sha256)
    producer = BulkProducer(settings.kafka, "foldstream-demo")
    await producer.start()
    try:
        plan = IngestPlan(
            events_topic=topics.events.name,
            items_topic=topics.items.name,
            retime=True,
            limit=limit,
            restart=True,
        )
        state = settings.data_dir / "ingest" / f"{uuid.uuid4().hex}.json"
        state.parent.mkdir(parents=True, exist_ok=True)
        return await ingest(file, scan, producer, plan, state, on_line)
    finally:
        await producer.stop()


async def fold_everything(settings: Settings, on_folded: Callable[[int, int], None]) -> None:
    """Wait until all that is in the log is in the profiles."""
    async with store_of(settings) as first:
        settings = await read_settings(settings, first)
    store = store_of(settings)
    await store.start()
    reader = ManualReader(settings.kafka, settings.topics().events.name)
    await reader.start()
    try:
        ends = await reader.end_offsets(range(settings.partitions))
        while True:
            folded = 0
            for partition in ends:
                checkpoint = await store.read_checkpoint(partition)
                folded += checkpoint.next_offset if checkpoint else 0
            on_folded(folded, sum(ends.values()))
            if folded >= sum(ends.values()):
                return
            await asyncio.sleep(0.1)
    finally:
        await reader.stop()
        await store.close()


class Client:
    """What the shop's own service would be: produces events, asks for lists."""

    def __init__(self, settings: Settings, requester: Requester, producer: Producer) -> None:
        self._settings = settings
        self._requester = requester
        self._producer = producer

    async def ask(self, user_id: str, n: int, after_offset: int | None = None) -> Chapter:
        """A list that knows the event at `after_offset`."""
        async with asyncio.timeout(READY_S):
            while True:
                chapter = await self._ask_once(user_id, n, after_offset)
                if chapter.answer.items:
                    return chapter
                await asyncio.sleep(0.1)  # the scorer sees items a moment after their first event

    async def _ask_once(self, user_id: str, n: int, after_offset: int | None) -> Chapter:
        began = time.perf_counter()
        answer = await self._requester.ask(
            RecommendRequest(
                request_id=uuid.uuid4().hex,
                user_id=user_id,
                n=n,
                after_offset=after_offset,
                wait_ms=10_000,
            ),
            timeout_s=20.0,
        )
        return Chapter(answer, (time.perf_counter() - began) * 1_000)

    async def act(self, event: Event) -> int:
        """Produce one event as happening now; returns its offset."""
        now = msgspec.structs.replace(
            event, ts=time.time_ns() // 1_000_000, event_id=uuid.uuid4().hex
        )
        return int((await self._producer.send_event(now)).offset)


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[Client]:
    """A client on the settings' topics."""
    topics = settings.topics()
    async with (
        Requester(settings.kafka, topics) as requester,
        Producer(settings.kafka, topics, client_id="foldstream-demo") as producer,
    ):
        yield Client(settings, requester, producer)
