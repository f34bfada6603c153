"""A buffer hands out exactly [start, end), however the batches are cut."""

from __future__ import annotations

import asyncio

from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from streams.partition_buffers import PartitionBuffer, State


def record(offset: int, n_bytes: int = 10) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("t", 0, offset, 0, 1, b"k", b"x" * n_bytes, None, 1, n_bytes, ())


async def test_batches_meet_without_a_hole() -> None:
    buffer = PartitionBuffer(0, 100, 10**6)
    buffer.seek(7)
    assert buffer.take(10) is None
    buffer.append([record(offset) for offset in (8, 9, 15)], 20)
    first = buffer.take(2)
    assert first is not None
    assert (first.start, first.end, len(first)) == (7, 15, 2)
    rest = buffer.take(2)
    assert rest is not None
    assert (rest.start, rest.end, len(rest)) == (15, 20, 1)


async def test_an_end_that_moves_without_messages_is_a_batch() -> None:
    buffer = PartitionBuffer(0, 100, 10**6)
    buffer.seek(7)
    buffer.append([], 9)
    batch = buffer.take(5)
    assert batch is not None
    assert (batch.start, batch.end, batch.records) == (7, 9, [])
    assert buffer.take(5) is None


async def test_a_seek_forgets_what_was_fetched() -> None:
    buffer = PartitionBuffer(0, 2, 10**6)
    buffer.seek(0)
    buffer.append([record(0), record(1), record(2)], 3)
    assert buffer.state is State.FULL
    buffer.seek(1)
    assert buffer.state is State.READING
    assert buffer.take(10) is None


async def test_a_buffer_is_full_by_messages_or_by_bytes_and_refilled_at_half() -> None:
    buffer = PartitionBuffer(0, 10, 10**6)
    buffer.seek(0)
    assert not buffer.append([record(n) for n in range(9)], 9)
    assert buffer.append([record(9)], 10)
    buffer.take(4)
    assert not buffer.is_half_empty
    buffer.take(1)
    assert buffer.is_half_empty
    large = PartitionBuffer(0, 10**6, 10_000)
    large.seek(0)
    assert large.append([record(0, 10_000)], 1)
    large.take(1)
    assert large.n_bytes == 0


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=60),
    st.lists(st.integers(1, 9), min_size=1, max_size=60),
)
def test_any_cut_hands_out_every_message_once(gaps: list[int], cuts: list[int]) -> None:
    async def run() -> None:
        buffer = PartitionBuffer(0, 10**6, 10**9)
        buffer.seek(0)
        offsets, end = [], 0
        for gap in gaps:
            offsets.append(end + gap - 1)
            end += gap
            buffer.append([record(offsets[-1])], end)
        end += 3  # a marker behind the last message
        buffer.append([], end)
        taken: list[int] = []
        position = 0
        for cut in cuts * len(gaps):
            batch = buffer.take(cut)
            if batch is None:
                break
            assert batch.start == position
            assert all(batch.start <= got.offset < batch.end for got in batch.records)
            position = batch.end
            taken += [got.offset for got in batch.records]
        assert taken == offsets
        assert position == end
        assert buffer.n_bytes == 0

    asyncio.run(run())
