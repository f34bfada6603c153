"""Recommendations end to end: pushed lists and answers to requests, from a worker process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import msgspec
import pytest_asyncio

from agents.requests import Requester
from streams.codec import decode_recommendation
from streams.events import (
    Event,
    Item,
    Recommendation,
    RecommendRequest,
    Request,
    RerankRequest,
)
from streams.partitioner import partition_of
from streams.producer import Producer
from tests.builders import (
    WorkerProcess,
    all_folded,
    announced,
    click,
    messages_of,
    purchase,
    put_events,
    until,
)
from tests.pipeline.conftest import Tool

RED, BLUE = [f"red-{n}" for n in range(12)], [f"blue-{n}" for n in range(12)]


def new_user() -> str:
    """An id that no other test uses: the shop is shared."""
    return f"user-{uuid.uuid4().hex[:8]}"


def taste(user_id: str, items: list[str], turns: int = 2) -> list[Event]:
    """A user who buys these items again and again."""
    return [purchase(user_id, item_id) for _ in range(turns) for item_id in items]


class Client:
    """What the shop's own service would be."""

    def __init__(self, shop: WorkerProcess, producer: Producer, requester: Requester) -> None:
        self.shop = shop
        self.producer = producer
        self._requester = requester

    async def act(self, *events: Event) -> int:
        """Append events; returns the last one's offset."""
        return int((await self.producer.send_events(events))[-1].offset)

    async def ask(self, request: Request) -> Recommendation:
        """A request's answer."""
        return await self._requester.ask(request, 30)

    async def recommend(self, user_id: str, **more: object) -> Recommendation:
        """A list for a user."""
        return await self.ask(
            msgspec.convert(
                {"type": "recommend", "request_id": uuid.uuid4().hex, "user_id": user_id, **more},
                RecommendRequest,
            )
        )


@pytest_asyncio.fixture
async def client(shop: WorkerProcess) -> AsyncIterator[Client]:
    """A client of the shared shop, in which shoppers keep red and blue items apart."""
    settings = shop.settings
    topics = settings.topics()
    async with (
        Producer(settings.kafka, topics) as producer,
        Requester(settings.kafka, topics) as requester,
    ):
        client = Client(shop, producer, requester)
        if not await client_knows_items(client):
            crowd = [taste(f"crowd-{n}", RED if n % 2 else BLUE, 3) for n in range(20)]
            await put_events(
                settings, [event for events in zip(*crowd, strict=True) for event in events]
            )
            await all_folded(settings)
        yield client


async def client_knows_items(client: Client) -> bool:
    """Whether an earlier test has filled the shop."""
    return len((await client.recommend(new_user(), n=100)).items) >= len(RED) + len(BLUE)


async def test_an_answer_knows_the_event_it_was_asked_to_wait_for(client: Client) -> None:
    user_id = new_user()
    at = await client.act(*taste(user_id, RED[:4]))
    answer = await client.recommend(user_id, n=5, after_offset=at, wait_ms=20_000)
    assert answer.error is None
    assert answer.profile_offset is not None
    assert answer.profile_offset >= at
    assert answer.kind == "recommend"
    assert [item.rank for item in answer.items] == [1, 2, 3, 4, 5]
    assert [item.score for item in answer.items] == sorted(
        (item.score for item in answer.items), reverse=True
    )
    assert all(item.item_id.startswith("red") for item in answer.items)


async def test_an_answer_says_when_the_event_did_not_come_in_time(client: Client) -> None:
    user_id = new_user()
    at = await client.act(click(user_id, RED[0]))
    answer = await client.recommend(user_id, after_offset=at + 1_000_000, wait_ms=50)
    assert answer.error == "older_profile"
    assert answer.items


async def test_reasons_are_the_users_own_past_events(client: Client) -> None:
    user_id = new_user()
    at = await client.act(*taste(user_id, BLUE[:3]), click(user_id, BLUE[3]))
    answer = await client.recommend(user_id, n=10, after_offset=at, wait_ms=20_000)
    past = {*BLUE[:4]}
    reasons = [reason for item in answer.items for reason in item.reasons]
    assert reasons
    assert {reason.item_id for reason in reasons} <= past
    assert {reason.kind for reason in reasons} <= {"purchase", "click"}
    assert all(0 < reason.share <= 1 for reason in reasons)


async def test_a_user_nobody_knows_gets_what_is_popular(client: Client) -> None:
    async def alike() -> bool:
        """Not at once: what other tests' shoppers did may still be on its way to the lists."""
        first, second = [await client.recommend(new_user(), n=6) for _ in range(2)]
        for answer in (first, second):
            assert len(answer.items) == 6
            assert answer.profile_offset is None
            assert not any(item.reasons for item in answer.items)
        return [i.item_id for i in first.items] == [i.item_id for i in second.items]

    await until(alike, "two users nobody knows get one list")


async def test_rerank_orders_the_candidates_and_nothing_else(client: Client) -> None:
    user_id = new_user()
    at = await client.act(*taste(user_id, RED[:4]))
    candidates = [BLUE[7], RED[7], "never-seen", BLUE[8], RED[8]]
    answer = await client.ask(
        RerankRequest(
            request_id=uuid.uuid4().hex,
            user_id=user_id,
            candidates=candidates,
            after_offset=at,
            wait_ms=20_000,
        )
    )
    ranked = [item.item_id for item in answer.items]
    assert sorted(ranked) == sorted(candidates)
    assert set(ranked[:2]) == {RED[7], RED[8]}
    assert ranked[-1] == "never-seen"
    assert answer.kind == "rerank"


async def test_what_is_out_of_stock_or_deleted_is_left_out_until_it_is_back(client: Client) -> None:
    user_id = new_user()
    at = await client.act(*taste(user_id, RED[:4]))

    async def shown() -> bool:
        answer = await client.recommend(user_id, n=100, after_offset=at, wait_ms=20_000)
        return RED[5] in {item.item_id for item in answer.items}

    async def gone() -> bool:
        return not await shown()

    assert await shown()
    await client.producer.send_item(Item(item_id=RED[5], in_stock=False))
    await until(gone, "the item is left out")
    await client.producer.send_item(Item(item_id=RED[5], in_stock=True))
    await until(shown, "the item is back")
    await client.producer.delete_item(RED[5])
    await until(gone, "whoever had it, what the catalogue has lost is left out")
    at = await client.act(click(user_id, RED[5]), click(user_id, RED[4]))
    assert await gone()
    await client.producer.send_item(Item(item_id=RED[5]))
    await until(shown, "it has an entry again")


async def test_the_item_looked_at_last_is_not_recommended(client: Client) -> None:
    user_id = new_user()
    at = await client.act(*taste(user_id, RED[:3]), click(user_id, RED[4]))
    answer = await client.recommend(user_id, n=100, after_offset=at, wait_ms=20_000)
    listed = {item.item_id for item in answer.items}
    assert RED[4] not in listed
    assert RED[0] in listed  # bought ones stay: shops live on repeats


async def test_each_change_brings_a_list_that_knows_it(client: Client) -> None:
    user_id = new_user()
    at = await client.act(click(user_id, RED[0]), click(user_id, RED[1]))
    topics = client.shop.settings.topics()
    partition = partition_of(user_id, topics.partitions)
    wanted = f"{partition}/{at}/home"
    pushed: list[Recommendation] = []

    async def there() -> bool:
        lists = await messages_of(client.shop.settings, topics.recommendations.name)
        found = [decode_recommendation(record.value) for record in lists]
        pushed[:] = [one for one in found if one.recommendation_id == wanted]
        return bool(pushed)

    await until(there, f"list {wanted}")
    stamps = pushed[0].stamps
    assert pushed[0].kind == "push"
    assert pushed[0].profile_offset == at
    assert None not in (stamps.event_ms, stamps.appended_ms, stamps.folded_ms)
    assert (stamps.appended_ms or 0) <= stamps.emitted_ms
    assert (stamps.folded_ms or 0) <= stamps.scored_ms <= stamps.emitted_ms


async def test_changes_overtaken_by_newer_ones_are_skipped_and_counted(client: Client) -> None:
    user_id = new_user()
    events = [click(user_id, RED[n % 12]) for n in range(3_000)]
    skipped = await client.shop.metric("foldstream_scoring_skipped_total")
    for start in range(0, len(events), 50):  # many commits of one user
        at = await client.act(*events[start : start + 50])
    topics = client.shop.settings.topics()
    wanted = f"{partition_of(user_id, topics.partitions)}/{at}/home"
    lists: list[Recommendation] = []

    async def accounted_for() -> bool:
        records = await messages_of(client.shop.settings, topics.recommendations.name)
        lists[:] = [
            one for r in records if (one := decode_recommendation(r.value)).user_id == user_id
        ]
        n_skipped = await client.shop.metric("foldstream_scoring_skipped_total") - skipped
        n_changes = len((await announced(client.shop.settings))[user_id])
        folded = bool(lists) and lists[-1].recommendation_id == wanted  # all of them
        return folded and len(lists) + n_skipped == n_changes

    await until(accounted_for, "each change has its list or was overtaken")
    assert len(lists) < 60


async def test_kafkas_console_consumer_reads_the_lists(client: Client, kafka_tool: Tool) -> None:
    user_id = new_user()
    answer = await client.recommend(user_id, n=3)
    printed = await asyncio.to_thread(
        kafka_tool,
        "consumer.ConsoleConsumer",
        *("--topic", client.shop.settings.topics().recommendations.name, "--from-beginning"),
        *("--timeout-ms", "5000", "--formatter-property", "print.key=true"),
    )
    rows = dict(line.split("\t", 1) for line in printed.splitlines() if "\t" in line)
    assert decode_recommendation(rows[user_id].encode()) == answer


async def test_a_bad_request_is_counted_and_holds_nobody_up(client: Client) -> None:
    before = await client.shop.metric("foldstream_requests_failed_total")
    topic = client.shop.settings.topics().requests.name
    for value in (b"{", b"\xff", b'{"type":"dance"}', None):
        await client.producer.send_raw(topic, value, b"u")
    assert (await client.recommend(new_user(), n=3)).items

    async def counted() -> bool:
        now = await client.shop.metric("foldstream_requests_failed_total")
        return now - before >= 3

    await until(counted, "bad requests are counted")
    assert (await client.recommend(new_user(), n=3)).items
