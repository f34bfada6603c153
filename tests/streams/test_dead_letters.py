"""A dead letter carries the original and the reason, and always fits a message."""

from __future__ import annotations

import hashlib
import json

from aiokafka.structs import ConsumerRecord

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


def test_a_flood_is_seen_once_most_of_a_full_window_is_bad() -> None:
    guard = FloodGuard(window=1_000)
    assert not guard.observe(0, 400)  # too few to judge
    assert not guard.observe(500, 0)
    assert not guard.observe(0, 100)  # half is not more than half
    assert guard.observe(0, 1)


def test_an_old_flood_is_forgotten() -> None:
    guard = FloodGuard(window=100)
    assert guard.observe(0, 100)
    for _ in range(20):
        flooded = guard.observe(10, 0)
    assert not flooded


def test_one_large_batch_is_judged_as_a_whole() -> None:
    assert FloodGuard().observe(9_000, 11_000)
    assert not FloodGuard().observe(11_000, 9_000)
