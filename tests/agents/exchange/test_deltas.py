"""Deltas on the real broker: committed learning only, each message once, whatever the base."""

from __future__ import annotations

import numpy as np

from profiles.items import ItemTable
from streams.item_deltas import ItemDeltas, encode_deltas
from streams.topics import MAX_MESSAGE_BYTES
from tests.agents.exchange.processes import CONFIG, Shop
from tests.builders import until


async def test_what_one_commits_the_other_has(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)
        await two.learn("a", 0.25, 1, 7)
        await one.knows("a", 2)
        assert np.allclose(one.vector("a"), two.vector("a"), atol=1e-3)
        await until(lambda: one.model.learned_to == two.model.learned_to == {0: 3, 1: 7}, "covered")
        assert "a" in two.model.view.ids


async def test_learning_that_is_not_committed_is_not_sent(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        async with one.model.stillness.folding():
            await one.move("uncommitted", 0.5)
            one.model.note_commit(0, 1)  # of another partition, meanwhile
            assert not await one.exchange.send(everything=True)
            one.model.tainted = True  # the commit is refused
        assert not await one.exchange.send(everything=True)
        await one.model.take_back(dict)
        await one.learn("committed", 0.5, 0, 3)
        await two.knows("committed", 1)
        assert two.n_positive("uncommitted") == -1
        for message in await shop.sent():
            assert "uncommitted" not in [i for rows in message.tables for i in rows.new_ids]


async def test_a_message_that_comes_twice_is_added_once(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)
        (first, *_) = await shop.sent()
        await shop.producer.send_item_deltas(first.sender, encode_deltas(first))
        await one.learn("b", 0.5, 0, 4)
        await two.knows("b", 1)
        assert two.n_positive("a") == 1
        assert one.n_positive("a") == 1


async def test_a_message_that_the_topic_does_not_take_is_lost_and_the_next_ones_go(
    shop: Shop,
) -> None:
    async with shop.pair() as (one, two):
        async with one.model.saving:
            one.exchange._unsent.append(bytes(2 * MAX_MESSAGE_BYTES))
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)


async def test_one_who_comes_later_goes_on_from_the_snapshot_and_the_deltas_since(
    shop: Shop,
) -> None:
    async with shop.pair() as (one, two):
        await one.learn("before", 0.5, 0, 3)
        await two.learn("before", 0.25, 1, 3)
        await one.knows("before", 2)
        assert await one.writer.write()
        await one.learn("after", 0.5, 0, 4)
        await two.knows("after", 1)
        async with shop.process("three") as three:
            assert three.n_positive("before") == 2
            assert three.n_positive("after") == 1
            assert three.model.base == one.model.base == two.model.base
            assert np.allclose(three.vector("before"), two.vector("before"), atol=2e-3)
            assert three.model.learned_to == {0: 4, 1: 3}


async def test_what_nobody_was_told_reaches_whoever_comes_in_a_new_base(shop: Shop) -> None:
    async with shop.process("one") as one:
        await one.own(shop.store)
        await one.learn("early", 0.5, 0, 3)
        assert await one.writer.write()  # nobody listens: the table as it is
        assert one.model.items.sharing is None
        await one.learn("in no snapshot and no delta", 0.5, 0, 4)
        async with shop.process("two") as two:
            assert two.n_positive("early") == 1
            await two.learn("early", 0.25, 1, 9)
            await two.knows("in no snapshot and no delta", 1)
            await one.knows("early", 2)
            assert two.n_positive("early") == 2  # its own was kept over the new base
            await until(lambda: two.model.base == one.model.base, "one base")
            assert np.allclose(one.vector("early"), two.vector("early"), atol=2e-3)
            await one.learn("early", 0.125, 0, 5)
            await two.knows("early", 3)
    assert one.n_positive("early") == 3


async def test_rows_beyond_the_limit_wait_and_are_not_covered(shop: Shop) -> None:
    async with (
        shop.process("reads", sends=False) as reads,
        shop.process("one", bytes_per_s=400) as one,  # 32 bytes a row: three or four rows a round
    ):
        await one.own(shop.store)
        await until(lambda: one.exchange.n_listeners == 1, "it is heard")
        async with one.model.stillness.folding():
            for number in range(100):
                await one.move(f"i{number}", 0.01)
            one.model.note_commit(0, 100)
        await until(lambda: len(reads.model.items) > 0, "the first rows came")
        assert 0 < len(reads.model.items) < 100
        assert reads.model.learned_to.get(0, 0) < 100
        assert await one.exchange.send(everything=True)
        await until(lambda: reads.model.learned_to.get(0) == 100, "all came")
        assert len(reads.model.items) == 100
        assert reads.n_positive("i99") == 1


async def test_a_reader_says_that_it_listens_and_sends_nothing_else(shop: Shop) -> None:
    async with shop.process("one") as one, shop.process("reads", sends=False) as reads:
        await one.own(shop.store)
        await one.learn("a", 0.5, 0, 1)
        await reads.knows("a", 1)
        await until(lambda: "a" in reads.model.view.ids, "it is in the view")
        assert reads.model.items.sharing is None
    assert {m.sender for m in await shop.sent()} == {"one-0"}


async def test_a_snapshot_while_others_listen_holds_what_was_sent_and_no_more(shop: Shop) -> None:
    async with (
        shop.process("reads", sends=False),
        shop.process("one", bytes_per_s=1) as one,  # sends when it is told to
    ):
        await one.own(shop.store)
        await until(lambda: one.exchange.n_listeners == 1, "it is heard")
        await one.learn("a", 0.5, 0, 3)
        assert await one.exchange.send(everything=True)
        await one.learn("a", 0.5, 0, 4)
        assert await one.writer.write()
        found = await shop.store.read_item_snapshot()
        assert found is not None
        table = ItemTable.restore(CONFIG.shape, CONFIG, found.header, found.chunks)
        assert table.columns.n_positive[:1].tolist() == [1]
        assert found.next_offsets == {0: 3}
        assert found.lineage.included == {"one-0": 1}
        assert one.n_positive("a") == 2


async def test_deltas_of_another_generation_are_passed_over(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        other = ItemDeltas("other", "stranger-0", seq=1, covers={0: 99})
        await shop.producer.send_item_deltas("stranger-0", encode_deltas(other))
        await shop.producer.send_item_deltas("stranger-0", b"\xff")
        await one.learn("a", 0.5, 0, 3)
        await two.knows("a", 1)
        await until(lambda: two.model.learned_to == {0: 3}, "only ours")
        assert not two.exchange.crashed
