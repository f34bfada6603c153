"""One batch, one commit: what leaves when, and what is kept when a neighbour does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio

from agents.flood import FloodRule
from agents.generations import RecordFormat
from agents.metrics import Metrics
from agents.model import Model
from agents.partition_fold import Limits, PartitionFold
from agents.translate import Translator
from profiles.errors import Fenced
from profiles.interactions import Kinds
from profiles.record import decode_profile, facts_of
from profiles.shape import RECORD_VERSION, FoldConfig, ModelShape
from profiles.store import LogPosition, ProfileStore, StoreConfig
from streams.batch import RawBatch, Reject
from streams.codec import EventCodec, decode_change, encode
from streams.errors import BrokerAway
from tests.builders import click, until

SHAPE = ModelShape(n_factors=4, own_items=0)  # as one begun in format 1
CONFIG = FoldConfig(shape=SHAPE, n_seen_slots=1_024)
LOG = LogPosition("cluster", "events", 4)


class Broker:
    """Where announcements go: answers while it is `up`, fails while it is `failing`."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.failing = False
        self.told: list[bytes] = []
        self.letters: list[Reject] = []

    async def announce(self, partition: int, messages: Sequence[bytes]) -> None:
        await self._answer()
        self.told += messages

    async def set_aside(self, rejects: Sequence[Reject]) -> None:
        await self._answer()
        self.letters += rejects

    async def _answer(self) -> None:
        if self.failing:
            raise BrokerAway("for a moment")
        await self.up.wait()

    def users(self) -> list[str]:
        return [user.user_id for value in self.told for user in decode_change(value).users]


class Bench:
    """Makes folds of partition 0 on a real store."""

    def __init__(self, store: ProfileStore, model: Model) -> None:
        self.store = store
        self.model = model
        self.broker = Broker()
        self.record_format = RecordFormat(writes=RECORD_VERSION)
        self._n = 0

    async def fold(self, warm: PartitionFold | None = None) -> PartitionFold:
        self._n += 1
        return PartitionFold(
            await self.store.acquire(0, bytes([self._n]) * 16, LOG),
            LOG,
            model=self.model,
            store=self.store,
            codec=EventCodec(),
            translator=Translator(Kinds(), SHAPE.n_tokens),
            kinds=Kinds(),
            announcer=self.broker,
            metrics=Metrics(),
            limits=Limits(batch_events=100, cache_profiles=100, flood=FloodRule()),
            record_format=self.record_format,
            now_ms=lambda: 1,
            warm=warm,
        )

    async def position(self) -> int:
        checkpoint = await self.store.read_checkpoint(0)
        return checkpoint.next_offset if checkpoint else 0

    async def n_events(self, user_id: str) -> int:
        (record,) = await self.store.read_many(0, [user_id])
        return 0 if record is None else decode_profile(record, SHAPE).n_events


@pytest_asyncio.fixture
async def bench(redis_url: str, generation: str) -> AsyncIterator[Bench]:
    async with ProfileStore(StoreConfig(redis_url, generation, 4)) as store:
        model = Model(CONFIG, store, Metrics())
        await model.start()
        yield Bench(store, model)
        await model.stop()


def batch(start: int, *values: bytes, end: int | None = None) -> RawBatch:
    """Messages at consecutive offsets under the key ``u``."""
    records: list[Any] = [
        SimpleNamespace(
            topic="events",
            partition=0,
            offset=start + number,
            timestamp=2_000_000_000_000,
            key=b"u",
            value=value,
            headers=(),
        )
        for number, value in enumerate(values)
    ]
    return RawBatch(0, start, start + len(values) if end is None else end, records)


CLICK = encode(click("u", "i"))


async def test_a_batch_is_committed_and_then_announced(bench: Bench) -> None:
    fold = await bench.fold()
    await fold.step(batch(0, CLICK, CLICK))
    await fold.finish()
    assert (await bench.position(), fold.next_offset) == (2, 2)
    assert await bench.n_events("u") == 2
    assert bench.broker.users() == ["u"]
    assert not fold.pending


async def test_the_next_commit_waits_until_the_last_one_is_announced(bench: Bench) -> None:
    fold = await bench.fold()
    bench.broker.up.clear()
    await fold.step(batch(0, CLICK))
    second = asyncio.create_task(fold.step(batch(1, CLICK)))
    await asyncio.sleep(0.1)
    assert not second.done()
    assert await bench.position() == 1
    bench.broker.up.set()
    await second
    assert await bench.position() == 2


async def test_an_announcement_is_repeated_until_the_broker_has_it(bench: Bench) -> None:
    fold = await bench.fold()
    bench.broker.failing = True
    await fold.step(batch(0, CLICK))
    await asyncio.sleep(0.05)
    assert not bench.broker.told
    bench.broker.failing = False
    await fold.finish()
    assert bench.broker.users() == ["u"]


async def test_what_was_not_announced_is_announced_by_the_next_owner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.partition_fold.LAST_WORD_S", 0.05)
    fold = await bench.fold()
    bench.broker.up.clear()
    await fold.step(batch(0, CLICK))
    fold.give_up.set()
    with pytest.raises(BrokerAway):
        await fold.finish()
    bench.broker.up.set()
    heir = await bench.fold()
    await heir.finish()
    assert bench.broker.users() == ["u"]


async def test_nothing_is_committed_over_what_was_not_announced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agents.partition_fold.LAST_WORD_S", 0.05)
    fold = await bench.fold()
    bench.broker.up.clear()
    await fold.step(batch(0, CLICK))
    fold.give_up.set()
    with pytest.raises(BrokerAway):
        await fold.step(batch(1, CLICK))
    assert await bench.position() == 1  # the outbox still holds the first announcement
    bench.broker.up.set()
    heir = await bench.fold()
    await heir.step(batch(1, CLICK))
    await heir.finish()
    assert await bench.n_events("u") == 2
    assert len(bench.broker.told) == 2


async def test_dead_letters_are_out_before_their_commit(bench: Bench) -> None:
    fold = await bench.fold()
    bench.broker.up.clear()
    step = asyncio.create_task(fold.step(batch(0, CLICK, b"{")))
    await asyncio.sleep(0.1)
    assert await bench.position() == 0
    bench.broker.up.set()
    await step
    assert await bench.position() == 2
    assert [letter.code for letter in bench.broker.letters] == ["invalid_json"]


async def test_a_moved_end_is_committed_and_not_announced(bench: Bench) -> None:
    fold = await bench.fold()
    await fold.step(batch(0, end=7))
    await fold.finish()
    assert await bench.position() == 7
    assert not bench.broker.told


async def test_a_repeat_is_neither_folded_nor_announced(bench: Bench) -> None:
    fold = await bench.fold()
    event = encode(click("u", "i", event_id="e1"))
    await fold.step(batch(0, event, event))
    await fold.step(batch(2, event))
    heir = await bench.fold()  # the ring is in the store
    await heir.step(batch(3, event))
    await heir.finish()
    assert await bench.n_events("u") == 1
    assert await bench.position() == 4


async def test_a_refused_batch_taints_the_model_and_its_cache(bench: Bench) -> None:
    zombie = await bench.fold()
    await zombie.step(batch(0, CLICK))
    await bench.fold()
    with pytest.raises(Fenced):
        await zombie.step(batch(1, CLICK))
    assert zombie.pending
    assert bench.model.tainted
    assert await bench.n_events("u") == 1


async def test_a_refused_empty_batch_leaves_no_trace(bench: Bench) -> None:
    zombie = await bench.fold()
    await bench.fold()
    with pytest.raises(Fenced):
        await zombie.step(batch(0, end=5))
    assert not zombie.pending
    assert not bench.model.tainted


async def test_a_fold_that_takes_over_a_warm_cache_asks_the_store_for_nobody(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold = await bench.fold()
    await fold.step(batch(0, CLICK))
    await fold.finish()
    heir = await bench.fold(warm=fold)

    async def nobody(partition: int, user_ids: Sequence[str]) -> list[bytes | None]:
        raise AssertionError(user_ids)

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "read_many", nobody)
        await heir.step(batch(1, CLICK))
    await heir.finish()
    assert await bench.n_events("u") == 2


async def test_the_cache_stays_within_its_bound(bench: Bench) -> None:
    fold = await bench.fold()
    for number in range(30):
        users = [f"u{number}-{n}" for n in range(20)]
        raw = batch(number * 20, *(encode(click(user, "i")) for user in users))
        for record, user in zip(raw.records, users, strict=True):
            record.key = user.encode()  # type: ignore[misc]
        await fold.step(raw)
        assert fold.n_cached <= 100
    await until(lambda: len(bench.broker.users()) == 600, "all are announced")


async def test_a_record_of_an_older_format_is_converted_when_its_user_comes_back(
    bench: Bench,
) -> None:
    bench.record_format.writes = 1
    fold = await bench.fold()
    await fold.step(batch(0, CLICK))
    await fold.finish()
    (before,) = await bench.store.read_many(0, ["u"])
    bench.record_format.writes = RECORD_VERSION
    await fold.step(batch(1, CLICK))
    await fold.finish()
    (after,) = await bench.store.read_many(0, ["u"])
    assert before is not None
    assert after is not None
    assert (before[0], after[0]) == (1, RECORD_VERSION)
    assert await bench.n_events("u") == 2
    # All but what the second click changed: last offset, count, and the time of the one entry.
    assert facts_of(after)[:8] == facts_of(before)[:8]
