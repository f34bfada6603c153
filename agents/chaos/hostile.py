"""Messages as nobody should send them: seeded makers of hostile input.

Each maker takes a good event and returns a message that is wrong, or only looks wrong: which of the
two is not said here but by `judge` and by the product, and the two must agree. Keys stay those of
the event where that is possible, so that good and bad messages lie beside each other.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any, Final, NamedTuple

Event = dict[str, Any]
Headers = tuple[tuple[str, bytes], ...]

HUGE_BYTES: Final = 8 * 1024 * 1024
"""Of a message above every limit but its topic's."""


class Message(NamedTuple):
    """What goes to the log; a key of None lies on a partition of chance."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


Maker = Callable[[random.Random, Event], Message]


def good(event: Event, **changes: Any) -> Message:
    """The event as a message, with some fields changed."""
    return Message(key_of(event), dump(event | changes))


def key_of(event: Event) -> bytes:
    """The key that the event belongs under."""
    return str(event["user_id"]).encode()


def dump(document: Any) -> bytes:
    """JSON as other programs write it; NaN and lone surrogates go through."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode(
        "utf-8", "surrogatepass"
    )


def with_text(event: Event, *fields: str) -> Message:
    """The event with raw fields behind its own."""
    body = dump(event)[:-1] + b"," + ",".join(fields).encode("utf-8", "surrogatepass") + b"}"
    return Message(key_of(event), body)


# Bytes ----------------------------------------------------------------------------------------


def _cut(draw: random.Random, event: Event) -> Message:
    value = dump(event)
    return Message(key_of(event), value[: draw.randrange(len(value))])


def _flipped(draw: random.Random, event: Event) -> Message:
    value = bytearray(dump(event))
    value[draw.randrange(len(value))] ^= 1 << draw.randrange(8)
    return Message(key_of(event), bytes(value))


def _spliced(draw: random.Random, event: Event) -> Message:
    value = dump(event)
    at = draw.randrange(len(value))
    return Message(key_of(event), value[:at] + draw.choice(SPLINTERS) + value[at:])


SPLINTERS: Final = (
    b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x00", b"\xe2\x82", b"\n", b" ",
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"-", b".", b"e", b"0",
)  # fmt: skip


def _bad_utf8(draw: random.Random, event: Event) -> Message:
    """In an ignored field, where a decoder that reads only what it needs would not look."""
    bad = draw.choice((b"\xff", b"caf\xe9", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf8\x88\x80\x80\x80"))
    return Message(key_of(event), dump(event)[:-1] + b',"note":"' + bad + b'"}')


def _bad_utf8_name(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), b'{"\xfe":1,' + dump(event)[1:])


def _utf16(draw: random.Random, event: Event) -> Message:
    code = draw.choice(("utf-16", "utf-16-le", "utf-32-be"))
    return Message(key_of(event), dump(event).decode().encode(code))


def _byte_order_mark(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), b"\xef\xbb\xbf" + dump(event))


def _noise(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), draw.randbytes(draw.randrange(1, 200)))


def _empty(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), draw.choice((b"", None, b" ", b"\n")))


def _behind(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), dump(event) + draw.choice((b"\x00", b"{}", b",", b"]", b" \n")))


# JSON -----------------------------------------------------------------------------------------


def _deep(draw: random.Random, event: Event) -> Message:
    depth = draw.choice((62, 63, 64, 65, 100, 1_000, 10_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")))
    return with_text(event, f'"x":{opening * depth}1{closing * depth}')


def _deep_and_open(draw: random.Random, event: Event) -> Message:
    return Message(key_of(event), draw.choice((b"[", b'{"a":')) * 10_000)


def _brackets_in_text(draw: random.Random, event: Event) -> Message:
    return good(event, note='[{"' * draw.randrange(30, 3_000))


def _no_number(draw: random.Random, event: Event) -> Message:
    word = draw.choice(("NaN", "Infinity", "-Infinity", "nan", "+1", "01", ".5", "1.", "0x1", "1e"))
    return with_text(event, f'"{draw.choice(("price", "x", "ts"))}":{word}')


def _huge_number(draw: random.Random, event: Event) -> Message:
    number = draw.choice(
        ("1" + "0" * 400, "-1" + "0" * 400, "1e400", "-1e400", "9" * 5_000, "1e-400", "5e-324",
         str(2**63), str(2**64), "1e99999999999", "1000000000.0000001", "-0", "-0.0", "-1e-400")
    )  # fmt: skip
    return with_text(event, f'"{draw.choice(("price", "x", "ts", "quantity", "rating"))}":{number}')


def _twice(draw: random.Random, event: Event) -> Message:
    """The last of equal names counts: the wrong one may come before or behind the good one."""
    wrong = draw.choice(
        ('"ts":-1', '"ts":5.0', '"ts":"now"', '"ts":1e400', '"type":"cart"', '"type":"wave"',
         '"item_id":7', '"user_id":"somebody else"', '"event_id":""', '"type":[]')
    )  # fmt: skip
    value = dump(event)
    if draw.random() < 0.5:
        return Message(key_of(event), b"{" + wrong.encode() + b"," + value[1:])
    return Message(key_of(event), value[:-1] + b"," + wrong.encode() + b"}")


def _escaped_name(draw: random.Random, event: Event) -> Message:
    return with_text(event, '"\\u0074s":' + draw.choice(("5", "-5", "5.0")))


def _surrogate(draw: random.Random, event: Event) -> Message:
    half = draw.choice(
        ("\\ud800", "\\udc00", "\\udfff x", "\\ud83d\\u0041", "\\ude00\\ud83d", "\\uD83D\\uDE00",
         "\\ud83d\\ud83d\\ude00", "\\\\ud800", "\\ud8", "\\u0000")
    )  # fmt: skip
    field = draw.choice(('"query":"%s"', '"x":"%s"', '"%s":1', '"x":"%s","x":2', '"event_id":"%s"'))
    return with_text(event, field % half)


def _control_character(draw: random.Random, event: Event) -> Message:
    return with_text(event, f'"x":"a{chr(draw.choice((0, 1, 9, 10, 31, 127, 0x2028)))}b"')


def _not_quite_json(draw: random.Random, event: Event) -> Message:
    text = dump(event).decode()
    wrong = draw.choice(
        (text.replace('"', "'"), text[:-1] + ",}", text.replace(":", "=", 1), text[1:],
         "/**/" + text, text.replace(",", ",,", 1), text + text, text.replace("{", "{,", 1),
         f"callback({text})", text.replace('"ts"', "ts"), text.replace(",", ";"), text.upper())
    )  # fmt: skip
    return Message(key_of(event), wrong.encode())


def _no_object(draw: random.Random, event: Event) -> Message:
    value: Any = draw.choice(([event], "click", 5, None, True, [], {}, [[]], dump(event).decode()))
    return Message(key_of(event), dump(value))


# Schema ---------------------------------------------------------------------------------------

ODD_VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 5.0, 0.5, -0.0, 1e25, "", "5", "noon", [], {}, ["a"], {"a": 1},
    "i" * 256, "i" * 257, "ü" * 256, "ü" * 257, "\U0001f600" * 256, "q" * 512, "q" * 513,
    4_102_444_800_000, 4_102_444_800_001, 1_000_000, 1_000_001, 1_000_000_000, 1_000_000_000.5,
    100_000, 100_001, 2**31, 2**53 + 1, 2**63 - 1, 2**64, -(2**63), "\x00", "x" * 2_048,
    "x" * 2_049,
)  # fmt: skip
FIELDS: Final = (
    "type", "user_id", "ts", "event_id", "item_id", "quantity", "price", "rating", "query",
    "session_id", "request_id", "position", "text", "into", "facts", "purposes",
)  # fmt: skip


def _wrong_type(draw: random.Random, event: Event) -> Message:
    """One field with a value at or over some edge; the key goes with the user."""
    changed = event | {draw.choice(FIELDS): draw.choice(ODD_VALUES)}
    return Message(_some_key(changed), dump(changed))


def _some_key(event: Event) -> bytes:
    return str(event.get("user_id", "")).encode("utf-8", "surrogatepass")


def _lacking(draw: random.Random, event: Event) -> Message:
    name = draw.choice(("type", "user_id", "ts", "item_id", "query"))
    return Message(key_of(event), dump({k: v for k, v in event.items() if k != name}))


def _float_for_integer(draw: random.Random, event: Event) -> Message:
    name = draw.choice(("ts", "quantity", "position"))
    return with_text(event, f'"{name}":{draw.choice(("5.0", "5e0", "1.7e12", "50e-1", "5"))}')


def _other_type(draw: random.Random, event: Event) -> Message:
    return good(
        event,
        type=draw.choice(("wave", "Click", "click ", "", "forget", "merge", "consent", "\x00")),
    )


def _control_event(draw: random.Random, event: Event) -> Message:
    extra: Event = draw.choice(
        ({"type": "forget"}, {"type": "merge", "into": "u1"}, {"type": "merge"},
         {"type": "consent", "purposes": ["ads"]}, {"type": "consent", "purposes": ["x" * 65]},
         {"type": "absorb", "facts": "AA"}, {"type": "absorb", "facts": 7})
    )  # fmt: skip
    return good(event, **extra)


def _other_time(draw: random.Random, event: Event) -> Message:
    """1970, 2100, and producers whose clocks are wrong: all good but for those out of range."""
    ts = draw.choice((0, 1, -1, 4_102_444_800_000, 4_102_444_800_001, 946_684_800_000, 2**62))
    return good(event, ts=ts)


def _seconds_for_millis(draw: random.Random, event: Event) -> Message:
    return good(event, ts=int(event["ts"]) // 1_000)


# Key and headers ------------------------------------------------------------------------------


def _no_key(draw: random.Random, event: Event) -> Message:
    return good(event)._replace(key=None)


def _other_key(draw: random.Random, event: Event) -> Message:
    key = key_of(event)
    other = draw.choice(
        (b"", b"x" + key, key + b" ", b"\xff", key.upper(), b'"' + key + b'"', b"\x00")
    )
    return good(event)._replace(key=other)


def _large(draw: random.Random, event: Event) -> Message:
    """Just under and just over the limit of an event."""
    room = 512 * 1024 - len(dump(event | {"x": ""}))
    return good(event, x="x" * (room + draw.choice((-1, 0, 1, 5_000))))


def _many_fields(draw: random.Random, event: Event) -> Message:
    return good(event, **{f"x{n}": n for n in range(draw.randrange(100, 2_000))})


TIMES: Final = (
    b"2026-01-02T03:04:05Z", b"2026-01-02t03:04:05.678z", b"2026-01-02 03:04:05+01:00",
    b"2026-01-02T03:04:05+0100", b"2026-01-02T03:04:05", b"yesterday", b"2026-02-30T03:04:05Z",
    b"2026-01-02T03:04:60Z", b"2026-01-02T24:00:00Z", b"1969-12-31T23:59:59Z", b"", b"\xff",
    b"2100-01-01T00:00:00Z", b"2100-01-01T00:00:00.001Z", b"0001-01-01T00:00:00+23:59",
    b"9999-12-31T23:59:59-23:59", b"2026-01-02T03:04:05.Z", b"2026-01-02T03:04:05.1234567891Z",
    b"2026-01-02T03:04:05+24:00", b"1767323045000", b"2026-01-02T03:04Z",
)  # fmt: skip


def _cloud_event(draw: random.Random, event: Event) -> Message:
    """Some of the event's fields in headers, some of them wrong."""
    data = dict(event)
    headers: list[tuple[str, bytes]] = []
    if draw.random() < 0.95:
        headers.append(("ce_specversion", b"1.0"))
    if draw.random() < 0.7:
        kind = str(data.pop("type")) if draw.random() < 0.8 else "wave"
        headers.append(("ce_type", draw.choice(("com.example.", "", ".")).encode() + kind.encode()))
    if draw.random() < 0.5:
        data.pop("ts", None)
        headers.append(("ce_time", draw.choice(TIMES)))
    if draw.random() < 0.5:
        headers.append(
            ("ce_subject", draw.choice((key_of(event), key_of(event), b"", b"who", b"\xff")))
        )
        data.pop("user_id", None)
    if draw.random() < 0.5:
        headers.append(("ce_id", draw.choice((b"e1", b"", b"x" * 257, b"\xff", b"e2"))))
        data.pop("event_id", None)
    if draw.random() < 0.5:
        headers.append((draw.choice(("ce_source", "CE_SOURCE", "ce_extra")), b"/shop"))
    if draw.random() < 0.3:
        kind_of_content = draw.choice(
            (b"application/json", b"application/CloudEvents+json", b"\xff")
        )
        headers.append(("content-type", kind_of_content))
    draw.shuffle(headers)
    value = dump(data) if draw.random() < 0.9 else with_text(event, '"x":1e400,"y":[1e999]').value
    return Message(key_of(event), value, tuple(headers))


def _other_headers(draw: random.Random, event: Event) -> Message:
    name = draw.choice(("traceparent", "", "ce", "cex", "\u00fc", "__foldstream.errors.code"))
    return good(event)._replace(headers=((name, draw.randbytes(draw.randrange(300))),))


MAKERS: Final[tuple[Maker, ...]] = (
    _cut, _flipped, _spliced, _bad_utf8, _bad_utf8_name, _utf16, _byte_order_mark, _noise, _empty,
    _behind, _deep, _deep_and_open, _brackets_in_text, _no_number, _huge_number, _twice,
    _escaped_name, _surrogate, _control_character, _not_quite_json, _no_object, _wrong_type,
    _wrong_type, _lacking, _float_for_integer, _other_type, _control_event, _other_time,
    _seconds_for_millis, _no_key, _other_key, _many_fields, _cloud_event, _cloud_event,
    _other_headers,
)  # fmt: skip
RARE: Final[tuple[Maker, ...]] = (_large,)
"""Makers of messages so large that a hundred thousand of them would be another test."""

RARE_SHARE: Final = 0.001


LISTED: Final[dict[str, tuple[Maker, ...]]] = {
    "bad UTF-8": (_bad_utf8, _bad_utf8_name),
    "cut JSON": (_cut,),
    "nested too deep": (_deep, _deep_and_open),
    "NaN and its like": (_no_number,),
    "numbers too large": (_huge_number,),
    "names given twice": (_twice,),
    "lone surrogates": (_surrogate,),
    "wrong types": (_wrong_type, _float_for_integer),
    "no key": (_no_key,),
}
"""Kinds that every load must hold, and the workers refuse, whatever else it holds."""

HUGE: Final = "of 8 MB"
OTHER: Final = "other kinds"

_KIND_OF: Final = {maker: kind for kind, makers in LISTED.items() for maker in makers}


def drawn(draw: random.Random, event: Event) -> tuple[str, Message]:
    """One hostile message made of a good event, in a way that `draw` chooses; and of which kind."""
    makers = RARE if draw.random() < RARE_SHARE else MAKERS
    maker = draw.choice(makers)
    return _KIND_OF.get(maker, OTHER), maker(draw, event)


def hostile_message(draw: random.Random, event: Event) -> Message:
    """As `drawn`, whatever its kind."""
    return drawn(draw, event)[1]


def huge_message(draw: random.Random, event: Event, n_bytes: int = HUGE_BYTES) -> Message:
    """A message of about `n_bytes` that does not compress; some are good but for their size."""
    room = n_bytes - len(dump(event | {"x": ""}))
    noise = draw.randbytes(room // 2).hex()
    value = dump(event | {"x": noise})
    form = draw.randrange(3)
    if form == 1:
        value = value[:-1]
    elif form == 2:
        value = value[:-2] + b'\xff"}'
    return Message(key_of(event), value)
