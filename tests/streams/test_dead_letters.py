"""A dead letter carries the original and the reason, and always fits a message."""

from __future__ import annotations

import hashlib
import json

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from streams.batch import Reject
from streams.dead_letters import FloodGuard, dead_letter, read_info


def reject(
    value: bytes | None = b"{",
    key: bytes | None = b"u1",
    headers: tuple[tuple[str, bytes], ...] = (("trace", b"7"),),
) -> Reject:
    record = ConsumerRecord("events", 2, 17, 1_234, 1, key, value, None, 0, 0, headers)
    return Reject(record, "invalid_json", "unexpected end")


def test_the_original_is_kept_byte_for_byte() -> None:
    letter = dead_letter(reject(b"\xff\x00{"), "shop.events")
    assert (letter.key, letter.value) == (b"u1", b"\xff\x00{")
    assert letter.headers[0] == ("trace", b"7")


def test_the_reason_is_read_back_from_the_headers() -> None:
    info = read_info(dead_letter(reject(), "shop.events").headers)
    assert info is not None
    assert (info.code, info.detail, info.topic) == ("invalid_json", "unexpected end", "shop.events")
    assert (info.partition, info.offset, info.appended_ms) == (2, 17, 1_234)
    assert info.omitted == []
    assert read_info([("trace", b"7")]) is None


def test_a_value_above_the_limit_travels_as_its_position_and_hash() -> None:
    value = b"x" * 600_000
    letter = dead_letter(reject(value), "shop.events")
    assert letter.value is not None
    assert json.loads(letter.value) == {
        "partition": 2,
        "offset": 17,
        "sha256": hashlib.sha256(value).hexdigest(),
        "bytes": 600_000,
    }
    info = read_info(letter.headers)
    assert info is not None
    assert info.omitted == ["value"]


def test_enormous_keys_and_headers_do_not_stop_a_partition() -> None:
    letter = dead_letter(reject(None, b"k" * 900_000, (("h", b"v" * 900_000),)), "shop.events")
    assert letter.key is None
    assert letter.value == b""
    info = read_info(letter.headers)
    assert info is not None
    assert info.omitted == ["key", "headers"]


def test_a_tombstone_stays_a_tombstone() -> None:
    assert dead_letter(reject(None), "shop.events").value is None


def places(n: int, first_offset: int = 0) -> list[tuple[int, int]]:
    """n bad messages and nothing else."""
    return [(place, first_offset + place) for place in range(n)]


def test_more_than_half_of_the_last_thousand_is_a_flood_which_begins_at_its_first() -> None:
    guard = FloodGuard(window=1_000)
    assert guard.observe(400, places(400, 50)) is None
    assert guard.observe(400, []) is None
    assert guard.observe(100, places(100, 900)) is None  # half is not more than half
    assert guard.observe(1, places(1, 1_000)) == 50


def test_an_old_flood_is_forgotten() -> None:
    guard = FloodGuard(window=100)
    assert guard.observe(100, places(100)) is not None
    assert guard.observe(60, []) is None
    assert guard.n_bad == 40
    assert guard.observe(20, places(10, 500)) is None
    assert guard.observe(10_000, []) is None
    assert guard.n_bad == 0


@pytest.mark.parametrize("size", [1, 7, 999, 1_000, 4_000, 20_000])
def test_how_the_messages_come_in_batches_is_of_no_matter(size: int) -> None:
    """600 bad ones in a row, far from the ends of a large batch."""
    bad = set(range(5_000, 5_600))
    guard = FloodGuard()
    for start in range(0, 20_000, size):
        inside = [(n - start, n) for n in range(start, min(start + size, 20_000)) if n in bad]
        first = guard.observe(size, inside)
        if first is not None:
            assert first == 5_000
            assert start <= 5_500 < start + size  # the 501st
            return
    raise AssertionError("not seen")


@given(st.lists(st.booleans(), max_size=200), st.integers(1, 40), st.floats(0, 0.99))
def test_a_flood_is_what_a_look_at_every_window_says(
    bad: list[bool], window: int, share: float
) -> None:
    guard, found = FloodGuard(window, share), None
    for start in range(0, len(bad), 9):
        part = bad[start : start + 9]
        first = guard.observe(
            len(part), [(n, start + n) for n, is_bad in enumerate(part) if is_bad]
        )
        found = first if found is None else found
    expected = None
    for end in range(1, len(bad) + 1):
        inside = [n for n in range(max(0, end - window), end) if bad[n]]
        if len(inside) > share * window and bad[end - 1]:
            expected = inside[0]
            break
    assert found == expected
