"""Partitions that change hands while a snapshot is written, or the broker does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from agents.exchange.handover import HandOver
from streams.errors import BrokerAway
from tests.agents.exchange.processes import Process, Shop
from tests.agents.exchange.test_going_back import lost
from tests.builders import until


def hand_over(process: Process, *, stopping: bool = False) -> HandOver:
    return HandOver(process.model, process.writer, process.exchange, lambda: stopping)


@asynccontextmanager
async def alone_again(shop: Shop) -> AsyncIterator[Process]:
    """The owner of the snapshots, which shares its table and is heard by nobody any more."""
    async with shop.process("one") as one:
        await one.own(shop.store)
        async with shop.process("gone", sends=False):
            await until(lambda: one.exchange.n_listeners == 1, "it is heard")
            await one.learn("a", 0.5, 1, 5)
            assert await one.exchange.send(everything=True)
            assert await one.writer.write()
        await until(lambda: one.exchange.n_listeners == 0, "it is gone")
        yield one


def held_behind_the_write(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> tuple[asyncio.Event, Callable[[], None]]:
    """Snapshots are in the store, and nobody hears of it before a call of what is returned."""
    began, go_on = asyncio.Event(), asyncio.Event()
    write = shop.store.write_item_snapshot

    async def held(*arguments: Any) -> str:
        version = await write(*arguments)
        began.set()
        await go_on.wait()
        return version

    monkeypatch.setattr(shop.store, "write_item_snapshot", held)
    return began, go_on.set


@pytest.mark.parametrize("partitions", ["all", "all but 0"])
async def test_what_is_learned_while_sharing_ends_reaches_whoever_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, partitions: str
) -> None:
    async with alone_again(shop) as one, shop.process("two", bytes_per_s=0) as two:
        await one.learn("a", 0.5, 1, 6)
        began, go_on = held_behind_the_write(shop, monkeypatch)
        ending = asyncio.create_task(one.writer.write())  # alone: it ends the sharing
        await began.wait()
        await one.learn("b", 0.5, 1, 12)  # in no snapshot
        giving = asyncio.create_task(hand_over(one).give())
        await asyncio.sleep(0)
        go_on()
        assert await ending
        await giving
        assert one.model.items.sharing is not None
        await hand_over(two).take()
        if partitions == "all":
            await two.own(shop.store)
            await two.model.catch_up(dict)
        two.model.reconcile(1, 12)
        assert lost(two) == 0
        assert two.n_positive("b") == 1


async def test_whoever_folds_and_tells_nobody_goes_back_to_the_snapshot(shop: Shop) -> None:
    async with alone_again(shop) as one, shop.process("two") as two:
        await until(lambda: two.exchange.n_listeners == 1, "both hear")
        await two.learn("a", 0.5, 0, 1)
        await two.model.run(two.model.items.stop_sharing)  # as its last snapshot alone left it
        assert await two.exchange.go_to_newest_base()
        assert two.model.items.sharing is not None
        assert lost(two) == 1  # what it had learned so long, and counts
        await two.learn("c", 0.5, 0, 2)
        await one.knows("c", 1)


async def test_a_graceful_stop_tells_what_its_snapshot_counts_as_told(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.process("two") as two:
        async with shop.process("one") as one:
            await one.own(shop.store)
            await until(lambda: one.exchange.n_listeners == two.exchange.n_listeners == 1, "hear")
            send = one.exchange._producer.send_item_deltas

            async def away(sender: str, value: bytes) -> None:
                if sender == one.exchange._config.sender:
                    raise BrokerAway("no answer")
                await send(sender, value)

            monkeypatch.setattr(one.exchange._producer, "send_item_deltas", away)
            await one.learn("a", 0.5, 1, 5)
            await hand_over(one, stopping=True).give()
            on_stop = one.exchange.on_stop

            async def back_and_stop() -> None:
                monkeypatch.setattr(one.exchange._producer, "send_item_deltas", send)
                await on_stop()

            monkeypatch.setattr(one.exchange, "on_stop", back_and_stop)
        await two.knows("a", 1)


async def test_what_could_not_be_told_is_not_claimed_after_a_hand_over(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, _):
        await one.learn("a", 0.5, 1, 5)
        assert await one.exchange.send(everything=True)

        async def away(sender: str, value: bytes) -> None:
            raise BrokerAway("no answer")

        monkeypatch.setattr(one.exchange._producer, "send_item_deltas", away)
        await one.learn("a", 0.5, 1, 9)
        one.model.note_handed_back(1)
        assert one.model.known_to_all()[1] == 5
