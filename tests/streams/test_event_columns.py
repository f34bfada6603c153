"""Columns hold exactly what the codec says of each message, whatever its bytes are."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streams import event_columns, event_pass
from streams.batch import EventBatch, RawBatch
from streams.codec import EventCodec
from streams.event_columns import ColumnDecoder, EventColumns, warmup
from streams.event_pass import MOST_HASHED, SECRET
from streams.events import ItemEvent

CODEC = EventCodec(["favourite"], max_bytes=600)
PLAIN = b'{"type":"click","user_id":"u","item_id":"i","ts":5,"event_id":"e","session_id":"s"}'


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    warmup()


def message(value: bytes | None, key: bytes | None = b"u", headers: Any = ()) -> Any:
    return SimpleNamespace(key=key, value=value, headers=headers, timestamp=9)


def raw_batch(*messages: Any) -> RawBatch:
    for place, one in enumerate(messages):
        one.offset = 100 + 2 * place
    return RawBatch(3, 100, 100 + 2 * len(messages), messages)


def session_of(session_id: str | None) -> int:
    if session_id is None:
        return 0
    return (xxhash.xxh3_64_intdigest(session_id.encode()) & 0xFFFFFFFF) or 1


def told(batch: EventBatch) -> list[tuple[Any, ...]]:
    return [
        (
            event.user_id,
            event.item_id if isinstance(event, ItemEvent) else "",
            type(event),
            event.ts,
            offset,
            appended,
            digest,
        )
        for event, offset, appended, digest in zip(
            batch.events, batch.offsets, batch.appended_ms, batch.repeat_hashes, strict=True
        )
    ]


def told_by(columns: EventColumns, decoder: ColumnDecoder) -> list[tuple[Any, ...]]:
    return list(
        zip(
            columns.user_ids,
            columns.item_ids,
            [decoder.types[tag] for tag in columns.tags.tolist()],
            columns.times_ms.tolist(),
            columns.offsets.tolist(),
            columns.appended_ms.tolist(),
            columns.repeat_hashes.tolist(),
            strict=True,
        )
    )


def check(raw: RawBatch) -> EventColumns:
    """Both ways of reading a batch say the same."""
    decoder = ColumnDecoder(CODEC)
    columns, batch = decoder.decode(raw), CODEC.decode_batch(raw)
    assert told_by(columns, decoder) == told(batch)
    assert columns.rejects == batch.rejects
    for place, event in enumerate(batch.events):
        session = columns.sessions[place]
        if place in columns.events:
            assert columns.events[place] == event
            assert session == 0
        else:  # only what the columns hold may have been said
            said = {name for name in event.__struct_fields__ if getattr(event, name) is not None}
            assert not said & {"query", "rating", "text"}
            assert session == session_of(event.session_id)  # type: ignore[attr-defined]
    return columns


def test_the_hash_is_xxh3_for_every_length_that_is_hashed_here() -> None:
    random = np.random.default_rng(1)
    for n in range(1, MOST_HASHED + 1):
        data = random.integers(0, 256, n, np.uint8)
        hashed = event_pass.xxh3(data, 0, n, SECRET)
        assert int(hashed) == xxhash.xxh3_64_intdigest(data.tobytes()), n


def test_plain_events_are_read_without_the_codec_and_others_by_it() -> None:
    values = [
        PLAIN,
        b'{ "type": "favourite", "ts": 7, "user_id": "u", "item_id": "j" }',
        b'{"type":"purchase","user_id":"u","item_id":"i","ts":0,"price":12.50,"quantity":3,'
        b'"position":0,"request_id":"r"}',
        b'{"type":"search","user_id":"u","query":"lamp","ts":5}',
        b'{"type":"review","user_id":"u","item_id":"i","ts":5,"rating":1}',
        '{"type":"click","user_id":"u","item_id":"ü","ts":5}'.encode(),
        b'{"type":"click","user_id":"u","item_id":"\\u0041","ts":5}',
        b'{"type":"click","user_id":"u","item_id":"i","ts":5,"more":[]}',
        b'{"type":"click","user_id":"v","item_id":"i","ts":5}',
        b"{",
        PLAIN,
    ]
    columns = check(raw_batch(*map(message, values)))
    assert len(columns) == 9
    assert list(columns.events) == [3, 4, 5, 6, 7]
    assert [reject.code for reject in columns.rejects] == ["key_mismatch", "invalid_json"]
    assert [reject.record.offset for reject in columns.rejects] == [116, 118]


def test_long_ids_are_read_as_the_codec_reads_them() -> None:
    def event(user: str, number: str, session: str) -> Any:
        fields = {"type": "cart", "user_id": user, "item_id": "i", "ts": 1}
        value = json.dumps(fields | {"event_id": number, "session_id": session})
        return message(value.encode(), user.encode())

    sizes = (1, 9, 10, 99, 100, 101, 118, 200, 234, 240, 241, 256, 257)
    check(raw_batch(*(event("u" * a, "e" * b, "s" * b) for a in sizes for b in sizes)))


def test_a_batch_cut_by_what_is_kept_stays_parallel() -> None:
    search = b'{"type":"search","user_id":"u","query":"lamp","ts":5}'
    columns = check(raw_batch(*map(message, [PLAIN, search] * 5)))
    keep = np.array([True, False, False, True, True, True, False, False, True, True])
    kept = columns.only(keep)
    assert kept.offsets.tolist() == columns.offsets[keep].tolist()
    assert list(kept.events) == [1, 3, 5]
    assert kept.item_ids == ["i", "", "i", "", "i", ""]


NAMES = [*event_pass.FIELDS, "rating", "query", "text", "more", "Type", "ts\\u0020", ""]
NUMBERS = [
    "0", "1", "5", "-1", "01", "1.5", "1.", ".5", "1e3", "100000", "100001", "1000000", "1000001",
    "99999999", "999999999", "1000000000", "1000000001", "4102444800000", "4102444800001",
    "12345678901234567", "3.00000000000000000001", "2.0", "-0", "+1", "١",
]  # fmt: skip
STRINGS = ["u", "i", "", "click", "cart", "review", "favourite", "search", "forget", "x" * 256,
           "x" * 257, "ü", "\\n", "\\u0075", "\\", "\n", "\t", "\x00", "\x7f", "{", "}", ",", "[",
           '\\"', "a b"]  # fmt: skip
VALUES = st.one_of(
    st.sampled_from([f'"{text}"' for text in STRINGS]),
    st.sampled_from(NUMBERS),
    st.sampled_from(["null", "true", "[]", "{}", '[{"a":1}]', '"open', "", '"a""b"']),
)
BLANKS = st.sampled_from(["", "", "", " ", "  ", "\t", "\n"])


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """An object that is an event, or nearly one."""
    fields = {"type": '"click"', "user_id": '"u"', "item_id": '"i"', "ts": "5"}
    pairs = list(fields.items())
    for name in draw(st.lists(st.sampled_from(NAMES), max_size=4)):
        pairs.append((name, draw(VALUES)))
    if draw(st.booleans()):
        pairs = draw(st.permutations(pairs))
    if draw(st.booleans()):
        pairs = pairs[draw(st.integers(0, 2)) :]
    blanks = [draw(BLANKS) for _ in range(6)]
    colon = f"{blanks[0]}:{blanks[1]}"
    comma = draw(st.sampled_from([",", ",", ",", f"{blanks[2]},{blanks[3]}", ",,", ""]))
    inside = comma.join(f'"{name}"{colon}{value}' for name, value in pairs)
    first = draw(st.sampled_from(["{", "{", "{", "", "[", " {", "{,"]))
    last = draw(st.sampled_from(["}", "}", "}", "", "} ", "}}", "},{}", "}\n", ",}", "}x"]))
    return f"{first}{blanks[4]}{inside}{blanks[5]}{last}".encode()


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound event with some bytes put in, taken out or replaced."""
    value = bytearray(PLAIN)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(value) - 1))
        byte = draw(st.sampled_from(list(b'"\\{}[],: \n09.eE-u\x00\x7f\x80\xc3\xff')))
        match draw(st.integers(0, 2)):
            case 0:
                value[at] = byte
            case 1:
                value.insert(at, byte)
            case _:
                del value[at]
    return bytes(value)


MESSAGES = st.builds(
    message,
    st.one_of(texts(), texts(), damaged(), st.none(), st.binary(max_size=20), st.just(PLAIN)),
    st.sampled_from([b"u", b"u", b"u", b"u", None, b"", b"v", b"\n", b"u\n", b"\xff"]),
    st.sampled_from([(), (), (), [("ce_specversion", b"1.0"), ("ce_id", b"x")], [("other", b"1")]]),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MESSAGES, min_size=event_columns.FEW, max_size=30))
def test_columns_and_codec_agree_on_hostile_bytes(messages: list[Any]) -> None:
    check(raw_batch(*messages))


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=event_columns.FEW))
def test_a_few_messages_are_read_alike(messages: list[Any]) -> None:
    check(raw_batch(*messages))
