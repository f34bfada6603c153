"""The codec decides what is an event; each refusal has its code."""

from __future__ import annotations

import contextlib
import gc
import json
from types import FrameType
from typing import Any

import msgspec
import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from streams.batch import RawBatch
from streams.codec import (
    EventCodec,
    decode_change,
    decode_item,
    encode,
    encode_change,
    repeat_hash,
)
from streams.errors import DecodeError
from streams.events import ChangedUser, Click, Item, ProfileChange, Review, Search

CODEC = EventCodec()
CLICK = Click(user_id="u1", ts=5, item_id="i")


def click(**fields: Any) -> dict[str, Any]:
    return {"type": "click", "user_id": "u1", "ts": 5, "item_id": "i1"} | fields


def message(
    value: bytes | None,
    key: bytes | None = b"u1",
    offset: int = 0,
    headers: tuple[tuple[str, bytes], ...] = (),
) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("events", 0, offset, 1_000 + offset, 1, key, value, None, 0, 0, headers)


def code_of(value: bytes | None, key: bytes | None = b"u1", codec: EventCodec = CODEC) -> str:
    with pytest.raises(DecodeError) as refused:
        codec.decode(value, key, ())
    return refused.value.code


def test_a_click_is_decoded() -> None:
    decoded = CODEC.decode(json.dumps(click(event_id="e1")).encode(), b"u1", ())
    assert decoded.event == Click(user_id="u1", ts=5, item_id="i1", event_id="e1")
    assert decoded.repeat_hash == repeat_hash("", "u1", "e1")


def test_unknown_fields_are_ignored_and_an_event_without_id_has_no_hash() -> None:
    decoded = CODEC.decode(json.dumps(click(colour="red")).encode(), b"u1", ())
    assert decoded.repeat_hash == 0


NO_EVENTS: list[tuple[bytes | None, str]] = [
    (None, "empty_value"),
    (b"", "empty_value"),
    (b"{", "invalid_json"),
    (b"not json", "invalid_json"),
    (b'{"type":"click","user_id":5,', "invalid_json"),  # the first fault is the field
    (b'\xef\xbb\xbf{"type":"click","user_id":"u1","ts":5,"item_id":"i"}', "invalid_json"),
    (b'{"type":"click","user_id":"u1","ts":NaN,"item_id":"i"}', "invalid_json"),
    (b'{"type":"click","user_id":"\\ud800","ts":5,"item_id":"i"}', "invalid_json"),
    (b'{"type":"click","user_id":"\xff","ts":5,"item_id":"i"}', "invalid_utf8"),
    (b'{"type":"click","user_id":"u1","ts":5,"item_id":"i","z":"\xff"}', "invalid_utf8"),
    (b'{"z":' + b"[" * 10_000 + b"]" * 10_000 + b"}", "too_deep"),
    (b"[1]", "invalid_event"),
    (b'"click"', "invalid_event"),
    (b"{}", "invalid_event"),
    (b'{"type":7}', "invalid_event"),
    (json.dumps(click(ts=-1)).encode(), "invalid_event"),
    (json.dumps(click(ts=4_102_444_800_001)).encode(), "invalid_event"),
    (json.dumps(click(ts=5.5)).encode(), "invalid_event"),
    (json.dumps(click(ts=True)).encode(), "invalid_event"),
    (json.dumps(click(ts=2**70)).encode(), "invalid_event"),
    (json.dumps(click(item_id="")).encode(), "invalid_event"),
    (json.dumps(click(item_id="i" * 257)).encode(), "invalid_event"),
    (json.dumps(click(item_id=None)).encode(), "invalid_event"),
    (json.dumps(click(price=-1)).encode(), "invalid_event"),
    (
        b'{"type":"click","user_id":"u1","ts":5,"item_id":"i","price":1e400}',
        "invalid_event",
    ),
    (b'{"type":"search","user_id":"u1","ts":5}', "invalid_event"),
    (json.dumps(click(type="wave")).encode(), "unknown_type"),
    (b'{"type":"wave"}', "unknown_type"),
    (b'{"type":"forget","user_id":"u1","ts":5}', "not_supported_yet"),
    (b'{"type":"merge","user_id":"u1","ts":5,"into":"u2"}', "not_supported_yet"),
    (b'{"type":"merge","user_id":"u1","ts":5}', "invalid_event"),
    (b'{"type":"consent","user_id":"u1","ts":5,"purposes":[]}', "not_supported_yet"),
    (json.dumps(click(query="q" * 600_000)).encode(), "too_large"),
]


@pytest.mark.parametrize(("value", "code"), NO_EVENTS)
def test_what_is_no_event_is_refused_by_its_code(value: bytes | None, code: str) -> None:
    assert code_of(value) == code


def test_the_key_is_the_user() -> None:
    value = json.dumps(click()).encode()
    assert code_of(value, key=None) == "missing_key"
    assert code_of(value, key=b"u2") == "key_mismatch"
    assert code_of(value, key=b"\xff") == "key_mismatch"
    assert CODEC.decode(json.dumps(click(user_id="ü")).encode(), "ü".encode(), ())


def test_bounds_count_characters_not_bytes() -> None:
    user_id = "ü" * 256
    assert CODEC.decode(json.dumps(click(user_id=user_id)).encode(), user_id.encode(), ())


@pytest.mark.parametrize("ts", ["5.0", "5e0", "1.7e12", "-0.0", "5.5", "1" + "0" * 400, "true"])
def test_an_integer_is_written_without_point_and_exponent(ts: str) -> None:
    form = '{"type":"click","user_id":"u1","ts":%s,"item_id":"i"}'
    assert code_of((form % ts).encode()) == "invalid_event"
    assert CODEC.decode((form % "-0").encode(), b"u1", ()).event.ts == 0


@pytest.mark.parametrize(
    "wrong", [b'"ts":5.0', b'"ts":1e400', b'"ts":-1', b'"ts":"now"', b'"type":"cart"', b'"type":7']
)
def test_of_equal_names_the_last_one_counts(wrong: bytes) -> None:
    good = b'"type":"click","user_id":"u1","item_id":"i","ts":5,"x":1e999,"y":{"a":1e999}'
    assert CODEC.decode(b"{%b,%b}" % (wrong, good), b"u1", ()).event == CLICK
    cloud = CODEC.decode(b"{%b,%b}" % (wrong, good), b"u1", CLOUD_EVENT).event
    assert (cloud.ts, type(cloud)) == (5, Click)
    if b"cart" not in wrong:
        assert code_of(b"{%b,%b}" % (good, wrong)) == "invalid_event"


@pytest.mark.parametrize("x", [b"1e400", b"-1e400", b"1" + b"0" * 400, b"1" + b"0" * 9_000])
@pytest.mark.parametrize("headers", [(), "cloud event"])
def test_a_number_no_machine_can_hold_is_of_no_matter_in_an_ignored_field(
    x: bytes, headers: Any
) -> None:
    value = b'{"type":"click","user_id":"u1","ts":5,"item_id":"i","x":%b}' % x
    assert CODEC.decode(value, b"u1", CLOUD_EVENT if headers else ()).event.ts == 5
    for field in (b"price", b"ts", b"quantity"):
        assert code_of(value.replace(b'"x"', b'"%b"' % field)) == "invalid_event"


def test_an_own_kind_needs_no_code() -> None:
    value = json.dumps(click(type="favourite")).encode()
    assert code_of(value) == "unknown_type"
    event = EventCodec(["favourite"]).decode(value, b"u1", ()).event
    assert type(event).__struct_config__.tag == "favourite"


def test_a_batch_keeps_order_and_offsets_and_sets_the_bad_ones_aside() -> None:
    raw = RawBatch(
        3,
        10,
        40,
        [
            message(json.dumps(click(event_id="e1")).encode(), offset=10),
            message(b"{", offset=11),
            message(json.dumps(click(ts="no") | {"ts": 6}).encode(), offset=15),
            message(json.dumps(click()).encode(), key=b"u2", offset=16),
            message(None, offset=17),
            message(json.dumps(click(type="wave")).encode(), offset=18),
            message(json.dumps(click()).encode(), key=None, offset=19),
        ],
    )
    batch = CODEC.decode_batch(raw)
    assert (batch.partition, batch.start, batch.end) == (3, 10, 40)
    assert batch.offsets == [10, 15]
    assert batch.appended_ms == [1_010, 1_015]
    assert batch.repeat_hashes == [repeat_hash("", "u1", "e1"), 0]
    assert [reject.code for reject in batch.rejects] == [
        "invalid_json",
        "key_mismatch",
        "empty_value",
        "unknown_type",
        "missing_key",
    ]
    assert batch.n_bad == 4  # an unknown type is no fault of the sender


def is_a_refusal(one: object) -> bool:
    """A refused message's error, or a frame of the codec that its traceback would hold."""
    if isinstance(one, FrameType):
        return bool(one.f_globals["__name__"] == EventCodec.__module__)
    return isinstance(one, DecodeError | msgspec.DecodeError)


def test_a_bad_message_leaves_nothing_for_the_garbage_collector() -> None:
    """What waited for it would be whole batches: their frames are in the error's traceback."""
    wrong = [message(value) for value, _ in NO_EVENTS]
    wrong.append(message(b"{", headers=CLOUD_EVENT))
    wrong.append(message(b'{"item_id":"\xff"}', headers=CLOUD_EVENT))
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)  # other threads leave things of their own: look at what is ours
    try:
        assert len(CODEC.decode_batch(RawBatch(0, 0, len(wrong), wrong)).rejects) == len(wrong)
        for record in wrong:
            for decode in (decode_item, decode_change):
                with contextlib.suppress(DecodeError):
                    decode(record.value)
        gc.collect()
        assert not [one for one in gc.garbage if is_a_refusal(one)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


CLOUD_EVENT = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"com.example.click"),
    ("ce_time", b"2026-01-02T03:04:05.678+01:00"),
    ("ce_subject", b"u1"),
)


def test_a_cloud_event_fills_what_its_data_lacks() -> None:
    decoded = CODEC.decode(b'{"item_id":"i1"}', b"u1", CLOUD_EVENT)
    assert decoded.event == Click(user_id="u1", ts=1_767_319_445_678, item_id="i1", event_id="e1")
    assert decoded.repeat_hash == repeat_hash("/shop", "u1", "e1") != repeat_hash("", "u1", "e1")


def test_the_data_of_a_cloud_event_wins_over_its_headers() -> None:
    value = json.dumps(click(type="cart", event_id="mine", ts=9)).encode()
    event = CODEC.decode(value, b"u1", CLOUD_EVENT).event
    assert (event.event_id, event.ts, type(event).__name__) == ("mine", 9, "Cart")


@pytest.mark.parametrize(
    ("value", "headers", "code"),
    [
        (b"[]", CLOUD_EVENT, "invalid_event"),
        (b"{", CLOUD_EVENT, "invalid_json"),
        (b'{"item_id":"\xff"}', CLOUD_EVENT, "invalid_utf8"),
        (b'{"item_id":"i"}', (*CLOUD_EVENT, ("ce_time", b"yesterday")), "invalid_event"),
        (b'{"item_id":"i"}', (*CLOUD_EVENT, ("ce_time", b"2026-01-02T03:04:05")), "invalid_event"),
        (b'{"item_id":"i"}', (*CLOUD_EVENT, ("ce_subject", b"u2")), "key_mismatch"),
        (b'{"item_id":"i"}', (*CLOUD_EVENT, ("ce_type", b"wave")), "unknown_type"),
        (
            b"{}",
            (("content-type", b"application/cloudevents+json"),),
            "not_supported_yet",
        ),
    ],
)
def test_a_bad_cloud_event_is_refused_by_its_code(
    value: bytes, headers: tuple[tuple[str, bytes], ...], code: str
) -> None:
    with pytest.raises(DecodeError) as refused:
        CODEC.decode(value, b"u1", headers)
    assert refused.value.code == code


def test_headers_of_a_plain_event_are_of_no_matter() -> None:
    headers = (("traceparent", b"\xff"), ("content-type", b"application/json"))
    assert CODEC.decode(json.dumps(click()).encode(), b"u1", headers)


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused_with_a_code(value: bytes) -> None:
    with contextlib.suppress(DecodeError):
        CODEC.decode(value, b"u1", ())
    batch = CODEC.decode_batch(RawBatch(0, 0, 1, [message(value)]))
    assert len(batch) + len(batch.rejects) == 1
    assert all(reject.code for reject in batch.rejects)


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


@given(IDS, IDS, st.one_of(st.none(), IDS), st.integers(0, 4_102_444_800_000))
def test_encode_then_decode_is_identity(
    user_id: str, item_id: str, event_id: str | None, ts: int
) -> None:
    event = Review(
        user_id=user_id, item_id=item_id, event_id=event_id, ts=ts, rating=4.5, text=item_id
    )
    decoded = CODEC.decode(encode(event), user_id.encode(), ())
    assert decoded.event == event
    assert (decoded.repeat_hash == 0) == (event_id is None)


@given(st.tuples(st.text(), st.text(), st.text()), st.tuples(st.text(), st.text(), st.text()))
def test_different_events_have_different_hashes(
    one: tuple[str, str, str], other: tuple[str, str, str]
) -> None:
    if any("\ud800" <= letter <= "\udfff" for text in one + other for letter in text):
        return  # no UTF-8, so no id
    assert (repeat_hash(*one) == repeat_hash(*other)) == (one == other)


def test_a_long_announcement_is_split_and_none_is_lost() -> None:
    users = [ChangedUser(f"user-{n}", n, 1, 2) for n in range(10_000)]
    change = ProfileChange(partition=3, next_offset=10_000, folded_ms=7, users=users)
    parts = encode_change(change, max_bytes=40_000)
    assert len(parts) > 1
    assert max(map(len, parts)) <= 40_000
    decoded = [decode_change(part) for part in parts]
    assert [user for part in decoded for user in part.users] == users
    assert {(part.partition, part.next_offset) for part in decoded} == {(3, 10_000)}
    assert len(encode_change(change)) == 1


def test_catalogue_entries_are_refused_by_the_same_codes() -> None:
    assert decode_item(encode(Item(item_id="i", title="Kettle"))).title == "Kettle"
    for value, code in [(None, "empty_value"), (b"{", "invalid_json"), (b"{}", "invalid_event")]:
        with pytest.raises(DecodeError) as refused:
            decode_item(value)
        assert refused.value.code == code


def test_a_search_is_an_event_too() -> None:
    value = msgspec.json.encode(Search(user_id="u1", ts=5, query="kettle"))
    assert isinstance(CODEC.decode(value, b"u1", ()).event, Search)
