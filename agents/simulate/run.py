"""Sends a shop's stream to the topics, at a pace or as fast as it goes, and answers its lists."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from msgspec import Struct

from agents.simulate.shop import Chunk, Shop, Totals
from streams.bulk import BulkProducer
from streams.codec import decode_recommendation, encode
from streams.errors import DecodeError
from streams.events import Click, Impression, Item, Recommendation
from streams.tailing import TopicTail
from streams.topics import TopicSet

TICK_S = 0.01
"""Messages leave in groups this far apart: their event times are off by less than that."""

YIELD_EVERY = 500
"""Messages between two turns of the event loop at full speed."""


class Source(Protocol):
    """A shop of any kind."""

    totals: Totals

    def items(self) -> list[Item]:
        """The catalogue."""

    def stream(self, n_events: int | None = None) -> Iterator[Chunk]:
        """The next n_events events; None: without end."""


class SimulationPlan(Struct, frozen=True, kw_only=True):
    """What to send.

    n_events: new events, or None: without end. rate: messages a second; None: no pause.
    answer_share: share of the lists pushed to shoppers that a shopper really looks at (each
    click makes another list, so a share of 1 would feed itself); 0: none is read.
    """

    n_events: int | None = None
    rate: float | None = None
    answer_share: float = 0.0
    with_catalogue: bool = True


@dataclass(slots=True)
class SimulationReport:
    """What was sent so far; `seen` is the shop's own account of its stream."""

    messages: int = 0
    events: int = 0
    items: int = 0
    impressions: int = 0
    answer_clicks: int = 0
    seconds: float = 0.0
    seen: Totals = field(default_factory=Totals)

    def document(self) -> dict[str, Any]:
        """The report as JSON takes it."""
        rate = self.messages / self.seconds if self.seconds else 0.0
        seen = asdict(self.seen) | {"kinds": dict(self.seen.kinds)}
        return asdict(self) | {"seen": seen, "messages_per_s": round(rate, 1)}


async def simulate(
    shop: Source,
    producer: BulkProducer,
    topics: TopicSet,
    plan: SimulationPlan,
    report: SimulationReport,
    tail: TopicTail | None = None,
    on_message: Callable[[], None] = lambda: None,
) -> None:
    """Send the stream and wait for its acknowledgement; `report` is kept up to date.

    tail: of the recommendations, opened; needed when lists are to be answered, as only a `Shop`
    can.
    Raises BrokerAway. Cancelled, it still waits for what was sent.
    """
    report.seen = shop.totals
    if plan.with_catalogue:
        for item in shop.items():
            await producer.put(topics.items.name, item.item_id.encode(), encode(item))
            report.items += 1
        await producer.flush()
    answering = (
        asyncio.create_task(_answer(shop, producer, topics, plan.answer_share, tail, report))
        if tail is not None and plan.answer_share > 0 and isinstance(shop, Shop)
        else None
    )
    started = time.monotonic()
    try:
        for chunk in shop.stream(plan.n_events):
            await _send(chunk, producer, topics.events.name, plan.rate, report, started, on_message)
            report.events += chunk.n_events
            if answering is not None and answering.done():
                answering.result()
    finally:
        if answering is not None:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        await producer.flush()
        report.seconds = time.monotonic() - started


async def _send(
    chunk: Chunk,
    producer: BulkProducer,
    topic: str,
    rate: float | None,
    report: SimulationReport,
    started: float,
    on_message: Callable[[], None],
) -> None:
    put = producer.put
    for key, value in zip(chunk.keys, chunk.values, strict=True):
        if rate is not None:
            early_s = report.messages / rate - (time.monotonic() - started)
            if early_s > TICK_S:
                await producer.send_open()
                report.seconds = time.monotonic() - started
                on_message()
                await asyncio.sleep(early_s)
        elif report.messages % YIELD_EVERY == 0:
            report.seconds = time.monotonic() - started
            on_message()
            await asyncio.sleep(0)
        await put(topic, key, value)
        report.messages += 1


async def _answer(
    shop: Shop,
    producer: BulkProducer,
    topics: TopicSet,
    share: float,
    tail: TopicTail,
    report: SimulationReport,
) -> None:
    """Show pushed lists to their shoppers: an impression each, and the clicks on it."""
    async for records in tail.records():
        for record in records:
            try:
                listed = decode_recommendation(record.value)
            except DecodeError:
                continue  # not ours to judge: another program may write here too
            if listed.kind != "push" or not shop.has_user(listed.user_id):
                continue
            now_ms = int(time.time() * 1_000)
            shown = answer_list(shop, listed, now_ms, share)
            if shown is None:
                continue
            impression, clicks = shown
            key = listed.user_id.encode()
            await producer.put(topics.impressions.name, key, encode(impression))
            for click in clicks:
                await producer.put(topics.events.name, key, encode(click))
            report.impressions += 1
            report.answer_clicks += len(clicks)
        await producer.send_open()


def answer_list(
    shop: Shop, listed: Recommendation, now_ms: int, share: float
) -> tuple[Impression, list[Click]] | None:
    """What a shopper does with a list: None when it is not looked at.

    share: how many of the lists are looked at, 0 to 1; which ones follows from the list's id.
    """
    list_id = listed.recommendation_id
    if not shop.is_looked_at(list_id, share):
        return None
    item_ids = [item.item_id for item in listed.items]
    impression = Impression(
        user_id=listed.user_id,
        ts=now_ms,
        event_id=f"shown:{list_id}"[:256],
        recommendation_id=list_id,
        item_ids=item_ids,
        placement=listed.placement,
    )
    clicks = [
        Click(
            user_id=listed.user_id,
            ts=now_ms + 1 + number,
            event_id=f"answer:{place}:{list_id}"[:256],
            item_id=item_ids[place],
            request_id=list_id[:256],
            position=place,
        )
        for number, place in enumerate(shop.answer(listed.user_id, item_ids, now_ms, list_id))
    ]
    return impression, clicks
