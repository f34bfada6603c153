"""A second opinion on what is an event, and the decoder must share it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from agents.chaos import fuzzing
from agents.chaos.hostile import MAKERS, ODD_VALUES, RARE, Message, dump, huge_message
from agents.chaos.judge import SCHEMA, Judge
from agents.chaos.strict_json import HUGE, Refused, Rules, parse
from agents.chaos.verdicts import disagreement
from streams.codec import (
    EventCodec,
    decode_change,
    decode_impression,
    decode_item,
    decode_recommendation,
    decode_request,
)
from streams.errors import DecodeError
from streams.schemas import schemas

JUDGE, CODEC = Judge(["favourite"]), EventCodec(["favourite"])


def event(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "type": "click", "user_id": "u1", "ts": 1_750_000_000_000 + number, "item_id": "i1",
        "event_id": str(number),
    } | changes  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        b"NaN", b"[Infinity]", b"-Infinity", b"01", b"+1", b"1.", b".5", b"1e", b"'a'", b"[1,]",
        b"{,}", b'{"a":1,}', b"{a:1}", b'"\n"', b'"\t"', b'"\\x"', b'"\\u12"', b"\xef\xbb\xbf1",
        b"1 2", b"", b"\x0b1", b"\xa01", b"/**/1", b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"',
        b'"\\udc00"', b'"\\ud83d\\u0041"', b'"\\ud83dx\\ude00"', b'{"\\ud800":1}',
        b'{"a":"\\ud800","a":1}', b"[" * 65 + b"]" * 65, b'{"a":' * 65 + b"1" + b"}" * 65,
        b"[" * 100_000, b'{"a":' + b"[" * 64 + b"]" * 64 + b',"a":1}', b"1\x00", b"tru",
        b'{"a":1 "b":2}',
    ],
)  # fmt: skip
def test_what_is_no_strict_json_is_refused(text: bytes) -> None:
    with pytest.raises(Refused):
        parse(text)


@pytest.mark.parametrize(
    ("text", "document"),
    [
        (b" \t\r\n[1]\n", [1]),
        (b'{"a":1,"a":2}', {"a": 2}),
        (b'"\\ud83d\\ude00\\\\ud800"', "\U0001f600\\ud800"),
        (b"1" + b"0" * 9_000, HUGE),
        (b"-1" + b"0" * 9_000, -HUGE),
        (b'"[[[[\\"{{{"', '[[[["{{{'),
        (b"\x7f".join((b'"', b'"')), "\x7f"),
        (b"-0", 0),
    ],
)
def test_what_is_strict_json_is_read(text: bytes, document: Any) -> None:
    assert parse(text) == document


def test_an_integer_is_told_from_a_number_with_point_or_exponent() -> None:
    assert [type(parse(text)) for text in (b"5", b"5.0", b"5e0")] == [int, float, float]


def test_a_word_of_json_schema_that_the_judge_does_not_know_is_not_passed_over() -> None:
    with pytest.raises(ValueError, match="pattern"):
        Rules({"type": "string", "pattern": "^a"})
    for schema in schemas(["favourite"]).values():
        Rules(schema)


@pytest.mark.parametrize("maker", [*MAKERS, *RARE], ids=lambda maker: str(maker.__name__))
def test_decoder_and_judge_agree_on_hostile_messages(maker: Any) -> None:
    draw = random.Random(maker.__name__)
    kinds = ("click", "purchase", "review", "favourite", "search")
    for number in range(8 if maker in RARE else 150):
        kind = draw.choice(kinds)
        extra = {"query": "red lamp"} if kind == "search" else {}
        message = maker(draw, event(number, type=kind, **extra))
        assert disagreement(CODEC, JUDGE, message) is None


def test_decoder_and_judge_agree_on_messages_of_megabytes() -> None:
    draw = random.Random(1)
    for number in range(3):
        message = huge_message(draw, event(number))
        assert message.value is not None
        assert len(message.value) > 8_000_000
        assert disagreement(CODEC, JUDGE, message) is None


def test_a_disagreement_would_be_seen() -> None:
    """A codec that does not know the shop's own kind, and one with another limit."""
    message = Message(b"u1", json.dumps(event(type="favourite")).encode())
    assert "unknown_type" in str(disagreement(EventCodec(), JUDGE, message))
    large = Message(b"u1", json.dumps(event(note="x" * 600_000)).encode())
    found = disagreement(EventCodec(max_bytes=1_000_000), JUDGE, large)
    assert found is not None
    assert "taken for an event" in found


@pytest.mark.parametrize("number", range(2))
def test_decoder_and_judge_agree_on_anything(number: int) -> None:
    def check(message: Message) -> None:
        fuzzing.check_message(CODEC, JUDGE, message)

    fuzzing.run_examples(check, fuzzing.MESSAGES, number, 150)
    fuzzing.run_examples(check, fuzzing.HOSTILE, number, 150)


DECODERS: dict[str, Callable[[bytes], Any]] = {
    "items": decode_item,
    "impressions": decode_impression,
    "requests": decode_request,
    "recommendations": decode_recommendation,
    "profile-changes": decode_change,
}
SEEDS: dict[str, dict[str, Any]] = {
    "items": {"item_id": "i", "category": ["a"], "vector": [0.5], "price": 1},
    "impressions": {"user_id": "u", "ts": 5, "recommendation_id": "0/1/home", "item_ids": ["i"]},
    "requests": {"type": "recommend", "request_id": "r", "user_id": "u", "context": {"a": "b"}},
    "profile-changes": {
        "partition": 0, "next_offset": 1, "folded_ms": 5, "users": [["u", 0, 1, 2]],
    },
    "recommendations": {
        "recommendation_id": "r", "user_id": "u", "placement": "home", "kind": "push", "items": [],
        "model": "m", "stamps": {"scored_ms": 1, "emitted_ms": 2},
    },
}  # fmt: skip
ODD = (
    *ODD_VALUES, ["x"] * 17, ["x"] * 65, ["x"] * 1_001, [1e6], [1_000_001], [1e400], [True],
    {"a": 5}, {str(n): "x" for n in range(65)}, {"k" * 65: "x"}, {"a": "x" * 257}, 10**400,
)  # fmt: skip


@pytest.mark.parametrize("topic", DECODERS)
def test_the_other_topics_messages_are_judged_alike(topic: str) -> None:
    """Every field with every odd value, missing, or given twice."""
    rules, decode = Rules(schemas()[topic]), DECODERS[topic]

    def agree(value: bytes) -> bool:
        """Whether it is good, for both."""
        try:
            rules.check(parse(value))
        except Refused:
            with pytest.raises(DecodeError):
                decode(value)
            return False
        decode(value)
        return True

    seed = SEEDS[topic]
    assert agree(dump(seed))
    fields = schemas()[topic]["$defs"].values()
    names = {name for definition in fields for name in definition.get("properties", {})}
    n_good = 0
    for name in sorted(names):
        n_good += agree(dump({key: value for key, value in seed.items() if key != name}))
        for odd in ODD:
            text = dump(odd).replace(b"Infinity", b"1e400")
            n_good += agree(dump(seed)[:-1] + b',"%b":%b}' % (name.encode(), text))
            n_good += agree(b'{"%b":%b,' % (name.encode(), text) + dump(seed)[1:])
    assert n_good > 50
    assert not agree(dump(seed)[:-1])
    assert not agree(b'{"x":"\xff",' + dump(seed)[1:])
    assert not agree(b'{"x":"\\ud800",' + dump(seed)[1:])
    assert not agree(b'{"x":' + b"[" * 64 + b"]" * 64 + b"," + dump(seed)[1:])


def test_the_judge_s_schema_is_the_published_one() -> None:
    """Where this fails: hold the change against docs/wire.md, then write the file anew."""
    assert json.loads(SCHEMA.read_text("utf-8")) == schemas()["events"]


def test_a_shop_s_own_kind_is_what_is_published_for_it() -> None:
    published = schemas(["favourite"])["events"]
    rules = Rules({"$defs": published["$defs"], "$ref": "#/$defs/Favourite"})
    ours = Judge(["favourite"])._rules["favourite"]
    good = {"type": "favourite", "user_id": "u", "ts": 5, "item_id": "i"}
    for change in ({}, {"type": "click"}, {"item_id": ""}, {"position": 100_001}, {"price": -1},
                   {"rating": 5}, {"rating": 5.5}, {"text": 7}, {"query": "q" * 513}):  # fmt: skip
        verdicts = []
        for one in (rules, ours):
            try:
                one.check(good | change)
            except Refused:
                verdicts.append(False)
            else:
                verdicts.append(True)
        assert verdicts[0] == verdicts[1], change


def test_the_oracle_imports_nothing_of_the_product() -> None:
    code = (
        "import sys, agents.chaos.oracle\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('streams', 'profiles', 'msgspec')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
