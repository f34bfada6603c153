"""Messages taken by the record batch are those that aiokafka gives one by one."""

from __future__ import annotations

import gc
import struct
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.aiokafka_bulk import in_bulk, teach

TP = TopicPartition("events", 3)
CONTROL, TRANSACTIONAL = 0x20, 0x10


def record_batch(
    first: int,
    deltas: list[int],
    last_delta: int,
    producer: int | None,
    control: str | None,
    codec: int,
) -> bytes:
    """A record batch of format 2 as a log may hold it: compacted, of a transaction, a marker."""
    builder = DefaultRecordBatchBuilder(
        2, codec, int(producer is not None), -1 if producer is None else producer, 0, 0, 1 << 20
    )
    if control is not None:
        marker = struct.pack(">hh", 0, 0 if control == "abort" else 1)
        builder.append(0, 1_000, marker, struct.pack(">hi", 0, 0), [])
    for delta in deltas if control is None else ():
        headers = [("h", b"x")] if delta % 3 == 0 else []
        builder.append(delta, 1_000 + delta, b"k%d" % delta, b"v%d" % (first + delta), headers)
    data = bytearray(builder.build())
    struct.pack_into(">q", data, 0, first)
    if control is not None:
        (attributes,) = struct.unpack_from(">h", data, 21)
        struct.pack_into(">h", data, 21, attributes | CONTROL)
    struct.pack_into(">i", data, 23, 0 if control is not None else last_delta)
    struct.pack_into(">I", data, 17, calc_crc32c(bytes(data[21:])))
    return bytes(data)


@st.composite
def answers(draw: st.DrawFn) -> tuple[bytes, list[tuple[int, int]], int]:
    """An answer's bytes, its aborted transactions (producer, first offset), its first offset."""
    at = draw(st.integers(0, 5))
    first = at
    data, aborted = b"", []
    for _ in range(draw(st.integers(1, 5))):
        last_delta = draw(st.integers(0, 6))
        deltas = sorted(draw(st.sets(st.integers(0, last_delta), max_size=7)))
        producer = draw(st.sampled_from([None, None, 7, 8]))
        control = draw(st.sampled_from([None, None, "abort", "commit"])) if producer else None
        if producer and draw(st.booleans()):
            aborted.append((producer, at))
        if not deltas and control is None:
            deltas = [0]
        codec = 0 if control is not None else draw(st.sampled_from([0, 1]))
        data += record_batch(at, deltas, last_delta, producer, control, codec)
        at += (0 if control is not None else last_delta) + 1
    return data, aborted, draw(st.integers(first, at))


def result_of(answer: tuple[bytes, list[tuple[int, int]], int], deserializer: Any) -> FetchResult:
    data, aborted, start = answer
    state = SimpleNamespace(paused=False, position=start)
    state.consumed_to = lambda position: setattr(state, "position", position)
    assignment = SimpleNamespace(active=True, state_value=lambda tp: state)
    records = PartitionRecords(
        TP, MemoryRecords(data), list(aborted), start, None, deserializer, True, READ_COMMITTED
    )
    result = FetchResult(TP, assignment=assignment, partition_records=records, backoff=0)
    result.state = state
    return result


def told(messages: list[Any]) -> list[tuple[Any, ...]]:
    return [(m.offset, m.timestamp, m.key, m.value, tuple(m.headers)) for m in messages]


@settings(deadline=None)
@given(answers(), st.lists(st.sampled_from([None, 1, 2, 3, 50]), min_size=1, max_size=12))
def test_both_ways_give_the_same_messages_at_the_same_positions(
    answer: tuple[bytes, list[tuple[int, int]], int], cuts: list[int | None]
) -> None:
    teach()
    singly, bulk = result_of(answer, None), result_of(answer, in_bulk)
    for most in [*cuts, None, None]:
        if not singly.has_more():  # the fetcher has dropped it
            break
        assert told(bulk.getall(most)) == told(singly.getall(most))
        assert bulk.state.position == singly.state.position
        assert bulk.has_more() == singly.has_more()


def test_a_damaged_record_batch_is_refused_behind_the_sound_ones() -> None:
    teach()
    sound = record_batch(0, [0, 1], 1, None, None, 0)
    damaged = bytearray(record_batch(2, [0], 0, None, None, 0))
    damaged[-2] ^= 1
    result = result_of((sound + bytes(damaged), [], 0), in_bulk)
    assert told(result.getall(2)) == told(result_of((sound, [], 0), None).getall(2))
    with pytest.raises(CorruptRecordException):
        result.getall(10)
    assert result.state.position == 2


def test_a_position_that_moved_meanwhile_gives_nothing() -> None:
    teach()
    result = result_of((record_batch(0, [0, 1], 1, None, None, 0), [], 0), in_bulk)
    result.state.position = 5
    assert result.getall(10) == []
    assert not result.has_more()


def test_an_answer_is_gone_with_its_last_message_or_when_it_is_dropped() -> None:
    """A worker's garbage collector comes rarely: what is in a cycle would stay for long."""
    teach()
    data = record_batch(0, [0, 1, 2], 2, None, None, 0)
    gc.disable()
    try:
        for most in (None, 2):
            result = result_of((data, [], 0), in_bulk)
            answer = weakref.ref(result._partition_records)
            taken = result.getall(most)
            assert len(taken) == (most or 3)
            if most is None:
                assert answer() is None
            del result
            assert answer() is None
    finally:
        gc.enable()
