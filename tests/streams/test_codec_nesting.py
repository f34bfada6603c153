"""No input makes the codec raise anything but DecodeError: a worker that dies of one dies again."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from streams.batch import RawBatch
from streams.codec import (
    MAX_NESTING,
    EventCodec,
    decode_change,
    decode_impression,
    decode_item,
    decode_recommendation,
    decode_request,
)
from streams.errors import DecodeError

CODEC = EventCodec()
Headers = tuple[tuple[str, bytes], ...]
CLOUD_EVENT: Headers = (
    ("ce_specversion", b"1.0"),
    ("ce_id", b"e1"),
    ("ce_source", b"/shop"),
    ("ce_type", b"com.example.click"),
    ("ce_time", b"2026-01-02T03:04:05Z"),
    ("ce_subject", b"u"),
)
FIELDS = b'"user_id":"u","item_id":"i"'
CLICK = b'"type":"click",' + FIELDS
SHAPES = {
    "event": (b"{%b,%s}" % (CLICK + b',"ts":5', b'"x":%b'), (), "event"),
    "deep field first": (b"{%s,%b}" % (b'"x":%b', CLICK + b',"ts":5'), (), "event"),
    "second thought": (b"{%b,%s}" % (CLICK + b',"ts":-5,"ts":5', b'"x":%b'), (), "event"),
    "bad event": (b"{%b,%s}" % (CLICK + b',"ts":-5', b'"x":%b'), (), "invalid_event"),
    "unknown type": (b'{"type":"wave","x":%b}', (), "unknown_type"),
    "control": (b'{"type":"forget","ts":5,%b,"x":%%b}' % FIELDS, (), "not_supported_yet"),
    "deep known field": (b"{%b,%s}" % (CLICK, b'"ts":%b'), (), "invalid_event"),
    "cloud event": (b"{%b,%s}" % (FIELDS, b'"x":%b'), CLOUD_EVENT, "event"),
    "other headers": (b"{%b,%s}" % (CLICK + b',"ts":5', b'"x":%b'), (("a", b"b"),), "event"),
}
BRACKETS = {
    "arrays": (b"[", b"1", b"]"),
    "objects": (b'{"":', b"1", b"}"),
    "both, spaced": (b' [ 7 , { "a[" : ', b"1", b"}\n]"),
    "siblings": (b'[[],{"s":"\\"]]]"},', b"1", b"]"),
}


def record(value: bytes, key: bytes | None = b"u", headers: Headers = ()) -> Any:
    return ConsumerRecord("events", 0, 0, 1_000, 1, key, value, None, 0, 0, headers)


def verdict(value: bytes, key: bytes | None = b"u", headers: Headers = ()) -> str:
    """``event`` or the reason code; the same from `decode` and `decode_batch`."""
    batch = CODEC.decode_batch(RawBatch(0, 0, 1, [record(value, key, headers)]))
    of_batch = batch.rejects[0].code if batch.rejects else "event"
    assert verdict_of_one(value, key, headers) == of_batch
    return of_batch


def verdict_of_one(value: bytes, key: bytes | None, headers: Headers) -> str:
    try:
        CODEC.decode(value, key, headers)
    except DecodeError as error:
        return error.code
    return "event"


def below(n_frames: int, call: Callable[[], str]) -> str:
    """What a call returns with so many frames of the caller's stack above it."""
    return call() if n_frames == 0 else below(n_frames - 1, call)


def frames_left() -> int:
    frame: Any = sys._getframe()
    used = 0
    while frame is not None:
        frame, used = frame.f_back, used + 1
    return sys.getrecursionlimit() - used


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("brackets", BRACKETS)
def test_nesting_is_good_up_to_64_levels_and_too_deep_from_there_on(
    shape: str, brackets: str
) -> None:
    form, headers, good = SHAPES[shape]
    opening, core, closing = BRACKETS[brackets]
    levels = opening.count(b"[") + opening.count(b"{") - opening.count(b"a[")
    if brackets == "siblings":
        levels = 1
    for n in range(1, 1_101 // levels):
        value = form % (opening * n + core + closing * n)
        deepest = 1 + n * levels + (brackets == "siblings")
        expected = good if deepest <= MAX_NESTING else "too_deep"
        assert verdict(value, headers=headers) == expected, (n, deepest)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_verdict_does_not_depend_on_the_callers_stack(shape: str) -> None:
    form, headers, good = SHAPES[shape]
    most = frames_left() - 200
    for n in (1, 62, 63, 64, 65, 400, 700, 900, *range(960, 1_010), 1_100, 10_000):
        value = form % (b"[" * n + b"]" * n)
        expected = good if n < MAX_NESTING else "too_deep"
        for n_frames in (0, most // 2, most):
            assert below(n_frames, functools.partial(verdict, value, b"u", headers)) == expected


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_else_is_raised_near_the_end_of_the_stack(shape: str) -> None:
    form, headers, good = SHAPES[shape]
    most = frames_left()
    value = form % (b"[" * 63 + b"]" * 63)
    for n_frames in range(most - 200, most - 15):
        assert below(n_frames, lambda: verdict_of_one(value, b"u", headers)) in {good, "too_deep"}


def test_the_first_fault_counts() -> None:
    deep, deeper = b"[" * 65, b"[" * 100_000
    for value, code in [
        (deep, "too_deep"),  # broken off behind the level too many
        (deeper, "too_deep"),
        (b'{"x":' + deeper, "too_deep"),
        (b"[" * 64, "invalid_json"),
        (b"{x:" + deeper, "invalid_json"),
        (b"]]" + deeper, "invalid_json"),
        (b'{"x":"' + deeper, "invalid_json"),  # a string that is never closed
        (b'{"x":NaN,"y":' + deeper, "invalid_json"),
        (b'{"x":1e400,"y":' + deeper, "too_deep"),
        (b'{"x":"\xff","y":' + deeper, "invalid_utf8"),
    ]:
        assert verdict(value) == code, value[:20]


def test_brackets_in_strings_are_no_levels() -> None:
    for text in ("[" * 1_000, '"{' * 1_000, "\\" * 99 + "[{" * 100, '\\"[' * 99 + "\\"):
        value = json.dumps({"type": "click", "user_id": "u", "item_id": "i", "ts": 5, "x": text})
        assert verdict(value.encode()) == "event"


def test_wide_is_not_deep() -> None:
    wide = [[{"a": [n]}] for n in range(10_000)]
    value = json.dumps({"type": "click", "user_id": "u", "item_id": "i", "ts": 5, "x": wide})
    assert verdict(value.encode()) == "event"


@pytest.mark.parametrize(
    "decode",
    [decode_item, decode_impression, decode_request, decode_recommendation, decode_change],
)
def test_messages_of_other_topics_are_refused_alike(decode: Callable[[bytes], Any]) -> None:
    for n in (65, *range(950, 1_050), 100_000):
        with pytest.raises(DecodeError) as refused:
            decode(b'{"x":' + b"[" * n + b"]" * n + b"}")
        assert refused.value.code == "too_deep"


# Anything at all ---------------------------------------------------------------------------

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**19, 2**63, 2**64, -(2**64), 10**400, 5.0, 1.7e12, 1e25, -1e300, -0.0]),
    st.floats(),
    st.text(),
    st.sampled_from(["click", "search", "merge", "forget", "wave", "\ud800", "u", "[" * 99]),
)
DOCUMENTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
NAMES = ["type", "user_id", "ts", "item_id", "event_id", "price", "position", "query", "into", "x"]
OBJECTS = st.dictionaries(st.sampled_from(NAMES), DOCUMENTS)


def nearly_events(changes: dict[str, Any], nesting: int) -> bytes:
    """A good click but for the changes, in JSON that may hold NaN and lone surrogates."""
    x: Any = 1
    for _ in range(nesting):
        x = [x]
    good = {"type": "click", "user_id": "u", "ts": 5, "item_id": "i", "y": x}
    return json.dumps(good | changes).encode()


CE_NAMES = ["ce_specversion", "ce_id", "ce_type", "ce_time", "ce_subject", "CE_SOURCE"]
HEADER_VALUES = st.binary(max_size=40) | st.datetimes().map(
    lambda at: f"{at.isoformat()}Z".encode()
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([*CE_NAMES, "content-type", "trace"]),
        HEADER_VALUES
        | st.sampled_from(
            [b"1.0", b"a.click", b"9999-12-31T23:59:59-23:59", b"0001-01-01T00:00:00+23:59"]
        ),
    ),
    max_size=8,
).map(tuple)


@settings(deadline=None)
@given(st.binary(max_size=300), st.none() | st.binary(max_size=9), HEADERS)
def test_any_bytes_get_a_verdict(value: bytes, key: bytes | None, headers: Headers) -> None:
    assert verdict(value, key, headers)


@settings(deadline=None)
@given(DOCUMENTS.map(json.dumps).map(str.encode), HEADERS)
def test_any_document_gets_a_verdict(value: bytes, headers: Headers) -> None:
    assert verdict(value, b"u", headers)


@settings(deadline=None)
@given(OBJECTS, st.integers(0, 80), HEADERS, st.integers(0, 400))
def test_anything_close_to_an_event_gets_a_verdict(
    changes: dict[str, Any], nesting: int, headers: Headers, cut: int
) -> None:
    value = nearly_events(changes, nesting)
    assert verdict(value, b"u", headers)
    assert verdict(value[:cut], b"u", headers)
    assert verdict(value[:cut] + b"\xff" + value[cut:], b"u", headers)
