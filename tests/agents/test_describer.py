"""The item table hears what the catalogue says: before anything is folded, and at each change."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from mode import Service

from agents.catalogue import Catalogue
from agents.describe import description_of
from agents.describer import Describer
from agents.metrics import Metrics
from agents.model import Model
from profiles.shape import FoldConfig, ModelShape
from profiles.store import ProfileStore, StoreConfig
from streams.events import Item
from streams.producer import Producer
from streams.topics import TopicSet
from tests.builders import until

CONFIG = FoldConfig(shape=ModelShape(n_factors=4))

LAMP = Item(item_id="lamp", title="Red lamp", category=["home", "lamps"], price=20.0)
RUG = Item(item_id="rug", title="Red rug", category=["home", "rugs"])


@pytest_asyncio.fixture
async def store(redis_url: str, generation: str) -> AsyncIterator[ProfileStore]:
    async with ProfileStore(StoreConfig(redis_url, generation, 2)) as store:
        yield store


@pytest_asyncio.fixture
async def producer(kafka: str, topics: TopicSet) -> AsyncIterator[Producer]:
    async with Producer(kafka, topics) as producer:
        yield producer


@pytest_asyncio.fixture
async def model(
    kafka: str, topics: TopicSet, producer: Producer, store: ProfileStore
) -> AsyncIterator[Model]:
    """A table that follows a catalogue with a lamp."""
    await producer.send_item(LAMP)
    catalogue = Catalogue(kafka, topics.items.name, Metrics())
    model = Model(CONFIG, store, Metrics())
    services: list[Service] = [catalogue, model, Describer(catalogue, model)]
    for service in services:
        await service.start()
    yield model
    for service in reversed(services):
        await service.stop()


def said(model: Model) -> dict[str, object]:
    return dict(model.items.descriptions())


async def test_what_was_said_before_the_start_is_told_at_the_start(model: Model) -> None:
    assert said(model) == {"lamp": description_of(LAMP)}
    await until(lambda: len(model.view) == 1, "readers have heard of it")


async def test_each_change_is_told(model: Model, producer: Producer) -> None:
    await producer.send_item(RUG)
    await producer.send_item(Item(item_id="lamp", title="Blue lamp"))
    expected = {
        "lamp": description_of(Item(item_id="lamp", title="Blue lamp")),
        "rug": description_of(RUG),
    }
    await until(lambda: said(model) == expected, "both are told")
    await producer.delete_item("lamp")
    await until(lambda: set(said(model)) == {"rug"}, "the lamp is gone")


async def test_what_a_snapshot_tells_of_deleted_entries_is_forgotten(
    kafka: str, topics: TopicSet, model: Model
) -> None:
    catalogue = Catalogue(kafka, topics.items.name, Metrics())
    await catalogue.start()
    try:
        await model.run(lambda: model.items.describe({"rug": description_of(RUG)}))
        model.note_news()
        await until(lambda: len(model.view) == 2, "readers have heard of the rug")
        describer = Describer(catalogue, model)
        await describer.start()
        assert set(said(model)) == {"lamp"}
        await until(lambda: model.view.rankable.sum() == 1, "and that it is gone")
        await describer.stop()
    finally:
        await catalogue.stop()


async def test_a_table_that_goes_back_to_a_snapshot_has_been_told(model: Model) -> None:
    before = model.items
    await model.run(lambda: model.items.describe({"rug": description_of(RUG), "lamp": None}))
    await model.run(lambda: model.items.describe({"rug": None, "lamp": description_of(LAMP)}))
    model.tainted = True
    await model.take_back(dict)
    assert model.items is not before
    assert said(model) == {"lamp": description_of(LAMP)}
