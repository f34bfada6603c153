"""A table that goes back to a snapshot, or over to another base, while others fold and send."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from profiles.store_items import Lineage
from streams.errors import BrokerAway
from streams.replica import Replica
from tests.agents.exchange.processes import Process, Shop
from tests.builders import until

LOST = "foldstream_model_events_lost_total"


def before_replay(
    process: Process, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Awaitable[Any]]
) -> None:
    """Do something, once, when the table has been replaced and nothing was read again yet."""
    replay = process.exchange.replay
    done = False

    async def after_acting(lineage: Lineage | None) -> None:
        nonlocal done
        if not done:
            done = True
            await act()
        await replay(lineage)

    monkeypatch.setattr(process.exchange, "replay", after_acting)


def lost(process: Process) -> float:
    """Events of which the learning was counted as lost."""
    value = process.metrics.registry.get_sample_value(LOST)
    assert value is not None
    return value


async def test_a_message_that_comes_while_the_base_changes_is_added_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, two):
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)

        async def more() -> None:
            await one.learn("a", 0.5, 0, 4)
            assert await one.exchange.send(everything=True)
            await two.exchange.catch_up()  # whoever still reads has it now

        before_replay(two, monkeypatch, more)
        assert await one.writer.write()
        await two.model.rebase()
        assert two.n_positive("a") == 2
        assert np.allclose(one.vector("a"), two.vector("a"), atol=2e-3)


async def test_an_item_that_is_younger_than_the_new_base_is_added_once(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.learn("old", 0.5, 0, 3)
        await two.knows("old", 1)
        assert await one.writer.write()
        await one.learn("young", 0.5, 0, 4)
        await two.learn("young", 0.25, 1, 4)
        await two.knows("young", 2)
        await one.knows("young", 2)
        await two.model.rebase()  # the message with `young` is read again
        assert two.n_positive("young") == 2
        assert np.allclose(one.vector("young"), two.vector("young"), atol=2e-3)


async def test_what_was_lost_is_counted_though_folding_goes_on_meanwhile(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, two):
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)
        positions = {0: 3}
        async with one.model.saving:  # nothing is sent
            await one.learn("a", 0.5, 0, 10)
            positions[0] = 10
            one.model.tainted = True

            async def go_on() -> None:
                await one.learn("b", 0.5, 0, 25)
                positions[0] = 25

            before_replay(one, monkeypatch, go_on)
        await one.model.take_back(lambda: dict(positions))
        assert lost(one) == 7  # what the message does not hold; not what was learned since
        assert one.model.learned_to[0] == 25
        assert one.n_positive("a") == 1
        await two.knows("b", 1)  # learned while the table came back, and told like anything else
        await until(lambda: two.model.learned_to.get(0) == 25, "covered")


async def test_what_is_not_committed_while_a_table_comes_back_stays_here(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, two):
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)
        one.model.tainted = True

        async def fold() -> None:
            await one.move("uncommitted", 0.5)

        before_replay(one, monkeypatch, fold)
        async with one.model.stillness.folding():
            await one.model.take_back(lambda: {0: 3})
            assert "uncommitted" not in one.model.view.ids
            assert not await one.writer.write()
            one.model.tainted = True  # and then it is refused
        await one.model.take_back(lambda: {0: 3})
        await one.learn("later", 0.5, 0, 4)
        await two.knows("later", 1)
        assert two.n_positive("uncommitted") == one.n_positive("uncommitted") == -1


async def test_a_batch_refused_while_a_table_comes_back_is_taken_back_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, _two):
        one.model.tainted = True

        async def refused() -> None:
            await one.move("refused", 0.5)
            one.model.tainted = True

        before_replay(one, monkeypatch, refused)
        await one.model.take_back(dict)
        assert one.model.tainted
        await one.model.take_back(dict)
        assert not one.model.tainted
        assert one.n_positive("refused") == -1


async def test_a_reader_whose_broker_is_away_while_the_base_changes_goes_on_later(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.process("one") as one, shop.process("reads", sends=False) as reads:
        await one.own(shop.store)
        n_tries = 0
        start = Replica.start

        async def away_once(self: Replica) -> None:
            nonlocal n_tries
            n_tries += 1
            if n_tries == 1:
                raise BrokerAway("no answer")
            await start(self)

        monkeypatch.setattr(Replica, "start", away_once)
        await one.learn("a", 0.5, 0, 1)
        assert await one.writer.write()  # a base that the reader does not have
        with pytest.raises(BrokerAway):
            await reads.model.rebase()
        await one.learn("a", 0.5, 0, 2)
        await until(lambda: one.model.items.sharing is not None, "the reader is heard")
        assert await one.exchange.send(everything=True)
        reads.exchange._look.set()  # as every interval
        await reads.knows("a", 2)
        await until(lambda: "a" in reads.model.view.ids, "readers see it")


async def test_a_message_that_one_never_got_comes_with_the_next_snapshot(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, two):
        await one.learn("known", 0.5, 0, 1)
        await two.knows("known", 1)
        assert await one.writer.write()

        async def lose() -> bool:
            one.exchange._unsent.clear()
            return True

        with monkeypatch.context() as lossy:
            lossy.setattr(one.exchange, "_deliver", lose)
            await one.learn("lost", 0.5, 0, 2)
            assert await one.exchange.send(everything=True)
        await two.learn("known", 0.25, 1, 1)
        await one.learn("known", 0.5, 0, 3)
        await two.knows("known", 3)
        assert two.n_positive("lost") == -1
        await until(lambda: two.exchange._lacking_at != "", "it has looked which snapshot is there")
        assert await one.writer.write()
        two.exchange._look.set()  # as every interval
        await two.knows("lost", 1)
        assert two.n_positive("known") == 3
        await until(lambda: two.model.learned_to.get(0) == 3, "covered")


async def test_a_kill_loses_what_neither_snapshot_nor_message_holds(shop: Shop) -> None:
    async with shop.process("listens", sends=False), shop.process("one") as one:
        await one.own(shop.store)
        await until(lambda: one.exchange.n_listeners == 1, "it is heard")
        one.model.reconcile(0, 0)
        await one.learn("told", 0.5, 0, 1_900)
        assert await one.exchange.send(everything=True)
        async with one.model.saving:  # killed before its next message
            await one.learn("not told", 0.5, 0, 1_923)
            async with shop.process("again") as again:
                again.model.reconcile(0, 1_923)
                assert lost(again) == 23
                assert again.n_positive("told") == 1
                assert again.n_positive("not told") == -1
                assert await again.exchange.send(everything=True)
                async with shop.process("third") as third:  # that one was killed, too
                    third.model.reconcile(0, 1_923)
                    assert lost(third) == 0  # it is counted already
