"""Messages of `item-deltas`: read back as sent; what is none of ours is refused by name."""

from __future__ import annotations

import msgspec
import pytest

from streams.errors import DecodeError
from streams.item_deltas import (
    DELTAS_VERSION,
    Column,
    EventList,
    ItemDeltas,
    Rows,
    decode_deltas,
    encode_deltas,
)

MESSAGE = ItemDeltas(
    "g1",
    "w0-12345678",
    seq=7,
    base="1-ab-1",
    covers={0: 12, 15: 3},
    clock_ms=5,
    n_learned=2,
    tables=[Rows("items", b"\1" * 8, b"\0" * 4, ["ü"], [Column("vectors", "<f2", b"\0\1")])],
    lists=[EventList("recent_positives", b"\1" * 8)],
)


def test_a_message_is_read_back() -> None:
    assert decode_deltas(encode_deltas(MESSAGE)) == MESSAGE


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"\x90", b"\x81\xa1a\xc1", b"{}"])
def test_what_is_no_message_is_refused(value: bytes | None) -> None:
    with pytest.raises(DecodeError):
        decode_deltas(value)


def test_a_newer_version_is_left_alone() -> None:
    newer = msgspec.structs.replace(MESSAGE, version=DELTAS_VERSION + 1)
    with pytest.raises(DecodeError, match="upgrade"):
        decode_deltas(encode_deltas(newer))


def test_fields_of_a_later_day_are_passed_over() -> None:
    fields = msgspec.msgpack.decode(encode_deltas(MESSAGE))
    value = msgspec.msgpack.encode(fields | {"later": [1]})
    assert decode_deltas(value) == MESSAGE
