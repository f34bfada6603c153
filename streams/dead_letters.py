"""Dead letters: messages that are no events, set aside with their reason.

Owns how such a message looks and when there are too many. The producer sends them, before the
commit of their batch; a crash between the two may send one again, so count them distinct by
topic, partition and offset.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from streams.batch import Reject

MAX_VALUE_BYTES: Final = 512 * 1024
"""A longer value travels as its position and hash: with headers and key it must fit a message."""

MAX_KEY_BYTES: Final = 64 * 1024
MAX_HEADERS_BYTES: Final = 64 * 1024
"""No sender of ours comes near; a message of 900 kB of headers must not stop a partition."""

HEADER: Final = "__foldstream.errors."
CODE: Final = HEADER + "code"
DETAIL: Final = HEADER + "detail"
TOPIC: Final = HEADER + "topic"
PARTITION: Final = HEADER + "partition"
OFFSET: Final = HEADER + "offset"
TIMESTAMP: Final = HEADER + "timestamp"
OMITTED: Final = HEADER + "omitted"

REPLAYED_FROM: Final = "__foldstream.replayed-from"
"""Header of a message that was set aside and sent again: topic/partition/offset of the original."""

MAX_DETAIL_CHARS: Final = 1_000


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message for the dead-letter topic.

    headers: the original ones, then code, detail, topic, partition, offset and timestamp (the
    append time, ms), each under ``__foldstream.errors.``. ``omitted`` names what was left out
    for its size: ``value`` (then a JSON object of partition, offset, sha256 and bytes stands in
    its place), ``key``, ``headers``.
    """

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def dead_letter(reject: Reject, source_topic: str, max_bytes: int = MAX_VALUE_BYTES) -> DeadLetter:
    """The message for one reject: original key, bytes and headers, and why it was refused."""
    record = reject.record
    key, value = record.key, record.value
    headers = [(name, content or b"") for name, content in record.headers]
    omitted: list[str] = []
    if value is not None and len(value) > max_bytes:
        omitted.append("value")
        value = msgspec.json.encode(
            {
                "partition": record.partition,
                "offset": record.offset,
                "sha256": hashlib.sha256(value).hexdigest(),
                "bytes": len(value),
            }
        )
    if key is not None and len(key) > MAX_KEY_BYTES:
        omitted.append("key")
        key = None
    if sum(len(name.encode()) + len(content) for name, content in headers) > MAX_HEADERS_BYTES:
        omitted.append("headers")
        headers = []
    if value is None and key is None:
        value = b""  # a message needs one of the two
    headers += [
        (CODE, reject.code.encode()),
        (DETAIL, reject.detail[:MAX_DETAIL_CHARS].encode()),
        (TOPIC, source_topic.encode()),
        (PARTITION, b"%d" % record.partition),
        (OFFSET, b"%d" % record.offset),
        (TIMESTAMP, b"%d" % record.timestamp),
    ]
    if omitted:
        headers.append((OMITTED, ",".join(omitted).encode()))
    return DeadLetter(key, value, headers)


class DeadLetterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a dead letter says of itself, read back from its headers.

    Distinct dead letters differ in (topic, partition, offset).
    """

    code: str
    detail: str
    topic: str
    partition: int
    offset: int
    appended_ms: int
    omitted: list[str] = []


def read_info(headers: Sequence[tuple[str, bytes]]) -> DeadLetterInfo | None:
    """The reason headers of a dead letter; None when they are not (all) there."""
    found = {name: content for name, content in headers if name.startswith(HEADER)}
    try:
        return DeadLetterInfo(
            code=found[CODE].decode(),
            detail=found[DETAIL].decode(),
            topic=found[TOPIC].decode(),
            partition=int(found[PARTITION]),
            offset=int(found[OFFSET]),
            appended_ms=int(found[TIMESTAMP]),
            omitted=[name for name in found.get(OMITTED, b"").decode().split(",") if name],
        )
    except (KeyError, ValueError):
        return None


class Omitted(msgspec.Struct, frozen=True):
    """What stands in the place of a value that was left out for its size."""

    partition: int
    offset: int
    sha256: str
    bytes: int


def original_headers(headers: Sequence[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """The headers that the message had before it was set aside."""
    return [(name, content) for name, content in headers if not name.startswith(HEADER)]


class FloodGuard:
    """Says when a partition's messages are mostly bad: then we are wrong, not they.

    Looks at the last ``window`` messages of one partition, message by message, so it doesn't
    matter how they come in batches. `streams.batch.NOT_BAD` says what does not count as bad.

    >>> guard = FloodGuard(window=10, share=0.5)
    >>> guard.observe(5, [(0, 100), (2, 102), (3, 103)]), guard.observe(3, [(0, 105), (1, 106)])
    (None, None)
    >>> guard.observe(2, [(0, 109)])
    100
    """

    def __init__(self, window: int = 1_000, share: float = 0.5) -> None:
        """share: more than this part of the window is a flood."""
        self.window = window
        self._most = share * window
        self._n = 0
        self._bad: deque[tuple[int, int]] = deque()  # number and offset, of the window only

    @property
    def n_bad(self) -> int:
        """Bad ones among the last messages; at most the window's size."""
        return len(self._bad)

    def observe(self, n: int, bad: Sequence[tuple[int, int]]) -> int | None:
        """Count the next n messages. bad: place among them (from 0, rising) and offset.

        Returns the offset of the first bad message of the window in which there were too many.
        """
        first = None
        for place, offset in bad:
            number = self._n + place
            self._bad.append((number, offset))
            while self._bad[0][0] <= number - self.window:
                self._bad.popleft()
            if first is None and len(self._bad) > self._most:
                first = self._bad[0][1]
        self._n += n
        while self._bad and self._bad[0][0] < self._n - self.window:
            self._bad.popleft()
        return first
