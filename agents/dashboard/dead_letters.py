"""Dead letters as people read them: when, why, from where, and the bytes as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streams.batch import Message
from streams.dead_letters import CODE, DETAIL, OFFSET, OMITTED, PARTITION, TIMESTAMP, TOPIC

MAX_CHARS = 600
"""Of each value shown; the whole message is in the topic."""


@dataclass(frozen=True, slots=True)
class DeadLetterLine:
    """One message set aside. time_ms: when it was set aside; source: where it stood."""

    time_ms: int
    code: str
    detail: str
    source: str
    appended_ms: int | None
    key: str
    text: str


def line_of(message: Message) -> DeadLetterLine:
    """What one message of the dead-letter topic says. Takes anything, raises nothing."""
    headers = {name: (value or b"").decode("utf-8", "replace") for name, value in message.headers}
    stamp = headers.get(TIMESTAMP, "")
    omitted = headers.get(OMITTED, "")
    return DeadLetterLine(
        time_ms=message.timestamp,
        code=headers.get(CODE, "unknown"),
        detail=headers.get(DETAIL, ""),
        source=_source(headers),
        appended_ms=int(stamp) if stamp.isdecimal() else None,
        key=readable(message.key, 80),
        text=readable(message.value) + (f" (left out for size: {omitted})" if omitted else ""),
    )


def readable(value: bytes | None, max_chars: int = MAX_CHARS) -> str:
    r"""Bytes as one line of text: what can't be printed is shown by its number.

    Overrides of writing direction and other invisible characters too: they would let a message
    pretend to be another.

    >>> readable(b'{"a":\x00\xff}'), readable(None), readable("\u202eabc".encode())
    ('{"a":\\x00\\xff}', 'no value', '\\u202eabc')
    """
    if value is None:
        return "no value"
    text = value[: 4 * max_chars].decode("utf-8", "backslashreplace")
    shown = "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode()
        for char in text[:max_chars]
    )
    return shown + "…" if len(text) > max_chars or len(value) > 4 * max_chars else shown


def _source(headers: Mapping[str, str]) -> str:
    if TOPIC not in headers:
        return "position not given"
    return f"{headers[TOPIC]} / {headers.get(PARTITION, '?')} / {headers.get(OFFSET, '?')}"
