"""Positives with their history, on the real broker and store: lists follow in every process."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from agents.exchange.messages import from_rows, positives_of, weights_of
from profiles.blend import ALL, N_PARTS
from profiles.hashing import item_hash
from profiles.terms import DOT, N_TERMS
from streams.item_deltas import (
    Column,
    EventList,
    ItemDeltas,
    Positives,
    Rows,
    Weights,
    decode_deltas,
    encode_deltas,
)
from streams.tailing import TopicTail
from tests.agents.exchange.processes import Process, Shop
from tests.builders import until


async def test_what_came_after_an_item_is_known_to_all(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.have("a", "b", partition=0, next_offset=3)
        await two.sees("a", {"b": 1.0})
        await two.have("a", "c", partition=1, next_offset=7)
        await one.sees("a", {"b": 1.0, "c": 1.0})
        await two.sees("a", {"b": 1.0, "c": 1.0})
        assert one.model.items.n_learned == two.model.items.n_learned == 4


async def test_one_who_comes_later_counts_no_positive_twice(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.have("a", "b", partition=0, next_offset=3)
        await two.sees("a", {"b": 1.0})
        await one.have("a", "b", partition=0, next_offset=6)
        assert await one.writer.write()  # it told first what it had not told yet
        await one.have("a", "b", partition=0, next_offset=9)
        await two.sees("a", {"b": 3.0})
        async with shop.process("three") as three:
            await three.sees("a", {"b": 3.0})
            await two.model.rebase()
            await two.sees("a", {"b": 3.0})
            await three.have("a", "b", partition=1, next_offset=2)
            for process in (one, two, three):
                await process.sees("a", {"b": 4.0})
                assert process.model.items.n_learned == 8


async def test_what_was_pending_is_counted_on_another_base_too(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with shop.pair() as (one, two):
        await one.have("a", "b", partition=0, next_offset=3)
        await two.sees("a", {"b": 1.0})
        assert await one.writer.write()
        replay = two.exchange.replay

        async def after_learning(lineage: object) -> None:
            await two.have("a", "c", partition=1, next_offset=5)
            await replay(lineage)  # type: ignore[arg-type]

        monkeypatch.setattr(two.exchange, "replay", after_learning)
        await two.model.rebase()
        for process in (one, two):
            await process.sees("a", {"b": 1.0, "c": 1.0})


async def test_a_reader_ranks_by_others_lists_and_by_the_average_of_their_weights(
    shop: Shop,
) -> None:
    async with (
        shop.process("one") as one,
        shop.process("two") as two,
        shop.process("reads", sends=False) as reads,
    ):
        await one.own(shop.store)
        await until(
            lambda: one.exchange.n_listeners == two.exchange.n_listeners == 2, "all are heard"
        )
        for process, theta, n in ((one, 1.0, 300), (two, 3.0, 100)):
            process.model.items.blend.theta[ALL, DOT] = theta
            process.model.items.blend.n[ALL] = n
        await one.have("a", "b", partition=0, next_offset=2)
        await two.have("a", "b", partition=1, next_offset=2)
        await reads.sees("a", {"b": 2.0})
        await until(lambda: theta_of(reads) == pytest.approx(1.5), "the average")
        assert theta_of(one) == 1.0
        assert theta_of(two) == 3.0
        await one.exchange.stop()  # it says that it leaves
        await two.have("a", "b", partition=1, next_offset=4)
        await until(lambda: theta_of(reads) == pytest.approx(3.0), "of who is still there")


def theta_of(process: Process) -> float:
    """A weight, as readers see it."""
    return float(process.model.view.model.blend.theta[ALL, DOT])


async def test_old_messages_are_read_and_old_workers_hear_us_and_add_nothing(shop: Shop) -> None:
    async with shop.pair() as (one, two):
        await one.have("a", "b", partition=0, next_offset=2)
        await two.sees("a", {"b": 1.0})
        old = {
            "generation": "g", "sender": "old-0", "seq": 1, "base": one.model.base,
            "covers": {}, "clock_ms": 0, "n_learned": 3, "leaving": False, "version": 1,
            "lists": [["recent_positives", np.uint64([item_hash("b")] * 2).tobytes()]],
            "tables": [["items", np.uint64([item_hash("b")]).tobytes(), b"", [], [
                ["vectors", "<f2", np.ones(4, np.float16).tobytes()],
                ["sums", "<f4", np.ones(1, np.float32).tobytes()],
                ["counts", "<f8", np.ones(1, np.float64).tobytes()],
                ["n_positive", "<i4", np.full(1, 3, np.int32).tobytes()],
            ]]],
        }  # fmt: skip
        await shop.producer.send_item_deltas("old-0", msgspec.msgpack.encode(old))
        await two.knows("b", 4)
        items = two.model.items
        row = items.row("b")
        await until(lambda: items.n_learned == 5, "its positives, too")
        assert items.columns.fast[row] == items.columns.slow[row] == 2.0
        assert items.columns.ring_count[row] == 3
    versions = set()
    topic = shop.topics.item_deltas.name
    async with TopicTail(shop.producer.bootstrap, topic, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            for record in records:
                message = decode_deltas(record.value)
                if message.sender != "old-0":
                    versions.add((message.seq > 0, message.version))
    assert versions == {(False, 1), (True, 2)}


def message_with(positives: Positives) -> ItemDeltas:
    return ItemDeltas("g", "s-0", seq=1, n_learned=5, positives=positives)


def test_a_message_that_does_not_fit_together_is_refused() -> None:
    hashes, weights = np.uint64([1, 2]).tobytes(), np.float32([1, 1]).tobytes()
    history = np.zeros((2, 5), np.uint64).tobytes()
    fine = Positives(hashes, history, weights, bytes([0, 1]), np.uint64([7]).tobytes())
    read = positives_of(decode_deltas(encode_deltas(message_with(fine))))
    assert (read.n_learned, len(read), read.history.shape) == (5, 2, (2, 5))
    for wrong in (
        {"weights": weights[:4]},
        {"weights": np.float32([1, np.nan]).tobytes()},
        {"weights": np.float32([1, 1e9]).tobytes()},
        {"words": b""},
        {"words": bytes(8)},
        {"history": history[:24]},
    ):
        with pytest.raises(ValueError, match=r".+"):
            positives_of(message_with(msgspec.structs.replace(fine, **wrong)))
    with pytest.raises(ValueError, match="-1 positives"):
        positives_of(msgspec.structs.replace(message_with(fine), n_learned=-1))


def test_version_1_named_positives_only() -> None:
    old = ItemDeltas("g", "s-0", 1, n_learned=9, version=1,
                     lists=[EventList("recent_positives", np.uint64([4]).tobytes())])  # fmt: skip
    read = positives_of(old)
    assert (read.n_learned, read.hashes.tolist(), read.history.any()) == (9, [4], False)
    assert weights_of(old) is None
    counts = [Column("counts", "<f8", np.ones(1, np.float64).tobytes())]
    rows = Rows("items", np.uint64([4]).tobytes(), b"", [], counts)
    assert from_rows(rows, 0, 4).columns["fast"].tolist() == [1.0]


def test_a_blend_of_other_terms_is_passed_over() -> None:
    theta, n = np.zeros((N_PARTS, N_TERMS), np.float32), np.zeros(N_PARTS, np.int64)
    message = ItemDeltas("g", "s-0", 1)

    def said(theta: np.ndarray) -> bool:
        weights = Weights(theta.tobytes(), n.tobytes())
        return weights_of(msgspec.structs.replace(message, weights=weights)) is not None

    assert said(theta)
    assert not said(theta[:, :-1])
    theta[0, 0] = np.nan
    assert not said(theta)
