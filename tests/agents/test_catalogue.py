"""The catalogue follows its topic: upserts, deletions, and what is no item."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from agents.catalogue import Catalogue
from agents.metrics import Metrics
from streams.codec import encode
from streams.events import Item
from streams.producer import Producer
from streams.topics import TopicSet
from tests.builders import until


@pytest_asyncio.fixture
async def producer(kafka: str, topics: TopicSet) -> AsyncIterator[Producer]:
    async with Producer(kafka, topics) as producer:
        yield producer


async def test_what_was_said_before_the_start_is_known_at_the_start(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    await producer.send_item(Item(item_id="a", title="Lamp"))
    await producer.send_item(Item(item_id="b", in_stock=False))
    await producer.send_item(Item(item_id="a", title="Red lamp"))
    await producer.send_item(Item(item_id="c"))
    await producer.delete_item("c")
    catalogue = Catalogue(kafka, topics.items.name, Metrics())
    await catalogue.start()
    try:
        assert len(catalogue) == 2
        assert catalogue.titles() == {"a": "Red lamp"}
        assert (catalogue.title("a"), catalogue.title("b")) == ("Red lamp", "b")
        assert catalogue.out_of_stock == {"b"}
        assert catalogue.get("c") is None
    finally:
        await catalogue.stop()


async def test_changes_are_followed_and_nonsense_is_counted_and_passed_over(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    metrics = Metrics()
    catalogue = Catalogue(kafka, topics.items.name, metrics)
    await catalogue.start()
    try:
        await producer.send_item(Item(item_id="a", in_stock=False))
        await until(lambda: catalogue.out_of_stock == {"a"}, "a is out of stock")
        version = catalogue.version
        await producer.send_raw(topics.items.name, b"{", b"a")
        await producer.send_item(Item(item_id="a"))
        await until(lambda: catalogue.out_of_stock == set(), "a is back")
        assert catalogue.version > version
        bad = metrics.registry.get_sample_value(
            "foldstream_messages_unreadable_total", {"topic": "items", "code": "invalid_json"}
        )
        assert bad == 1
        await producer.send_raw(topics.items.name, encode(Item(item_id="x")), b"y")
        await producer.send_item(Item(item_id="b", in_stock=False))
        await producer.delete_item("b")
        for partition in range(4):  # each is read in its own order
            await producer.send_raw(
                topics.items.name, encode(Item(item_id=f"p{partition}")), b"p%d" % partition,
                partition=partition,
            )  # fmt: skip
        await until(lambda: all(catalogue.get(f"p{n}") for n in range(4)), "all four are read")
        assert catalogue.get("x") is None  # under another key it could not be deleted
        refused = metrics.registry.get_sample_value(
            "foldstream_messages_unreadable_total", {"topic": "items", "code": "key_mismatch"}
        )
        assert refused == 1  # without a key, the broker itself refuses it: the topic is compacted
        await producer.send_item(Item(item_id="end"))
        await until(lambda: catalogue.get("end") is not None, "all was read")
        assert catalogue.out_of_stock == set()
    finally:
        await catalogue.stop()


async def test_what_was_there_at_the_start_is_told_by_id(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    ids = [f"i{number:02}" for number in range(20)]
    for item_id in reversed(ids):
        await producer.send_item(Item(item_id=item_id))
    catalogue = Catalogue(kafka, topics.items.name, Metrics())
    await catalogue.start()
    try:
        assert [*catalogue.take_news(7), *catalogue.take_news(99)] == ids
    finally:
        await catalogue.stop()


async def test_news_are_what_an_entry_says_but_for_its_stock(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    await producer.send_item(Item(item_id="b", title="Lamp"))
    await producer.send_item(Item(item_id="a"))
    catalogue = Catalogue(kafka, topics.items.name, Metrics())
    await catalogue.start()
    try:
        first, second = catalogue.take_news(1), catalogue.take_news(9)
        assert len(first) == 1
        assert first | second == {"a": Item(item_id="a"), "b": Item(item_id="b", title="Lamp")}
        assert not catalogue.has_news.is_set()
        await producer.send_item(Item(item_id="b", title="Lamp", in_stock=False))
        await until(lambda: catalogue.out_of_stock == {"b"}, "b is out of stock")
        assert not catalogue.has_news.is_set()
        await producer.delete_item("b")
        await until(catalogue.has_news.is_set, "something else is said")
        assert catalogue.take_news(9) == {"b": None}
    finally:
        await catalogue.stop()
