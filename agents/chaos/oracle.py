"""An independent fold of facts: what each profile must say, from the raw log alone.

Shares nothing with the product but the published rules: JSON by the standard library, the schema's
bounds written out again, repeats by a dictionary, no batches, no vectors. Retention is off, and so
are CloudEvents (a message with their headers is not judged: the run says so). Slow and obvious on
purpose; a million messages take about ten seconds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

MAX_BYTES = 512 * 1024
MAX_LEVELS = 64
MAX_TS = 4_102_444_800_000
CODES = {"click": 0, "cart": 1, "purchase": 2, "review": 3, "return": 4, "search": 6}
BAD_REVIEW = 5
COUNTED_ONLY = {4, BAD_REVIEW, 6}
"""Kinds that enter no history."""

_WORD = re.compile(r"\w+")
_NO_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"?|[^\[\]{}"]+', re.DOTALL)


class Refused(Exception):
    """A message that is no event: its place is among the dead letters."""


@dataclass(slots=True)
class Facts:
    """What a profile must say. history: (item hash, time, weight, kind), newest first."""

    first_ms: int
    last_ms: int
    last_offset: int = -1
    counts: dict[int, int] = field(default_factory=dict)
    history: list[tuple[int, int, float, int]] = field(default_factory=list)
    pending_ms: int = 0
    pending: list[int] = field(default_factory=list)

    @property
    def n_events(self) -> int:
        """Events of all kinds."""
        return sum(self.counts.values())


class PartitionOracle:
    """One partition's prefix of the log, message by message."""

    def __init__(
        self,
        partition: int,
        *,
        history: int = 10,
        n_tokens: int = 8,
        seen_window: int = 262_144,
        own_kinds: Sequence[tuple[str, int, float, bool]] = (),
    ) -> None:
        """own_kinds: the shop's own, (name, code, weight, positive)."""
        self.partition = partition
        self.users: dict[str, Facts] = {}
        self.refused: dict[int, str] = {}
        self.folded: list[tuple[int, str]] = []
        self.n_folded = 0
        self.n_repeats = 0
        self.n_messages = 0
        self._history = history
        self._n_tokens = n_tokens
        self._window = seen_window
        self._own = {name: (code, weight) for name, code, weight, _ in own_kinds}
        self._counted_only = COUNTED_ONLY | {c for _, c, _, positive in own_kinds if not positive}
        self._seen: dict[tuple[str, str], int] = {}
        self._item_hashes: dict[str, int] = {}

    def take(
        self,
        offset: int,
        appended_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        """The next message of the partition."""
        self.n_messages += 1
        if headers and any(name.lower().startswith(("ce_", "content-type")) for name, _ in headers):
            raise NotImplementedError(f"{self.partition}/{offset}: CloudEvents are not judged")
        try:
            event = self._event(key, value)
        except Refused as why:
            self.refused[offset] = str(why)
            return
        user, event_id = event["user_id"], event.get("event_id")
        if event_id is not None:
            before = self._seen.get((user, event_id))
            self._seen[user, event_id] = offset
            if before is not None and offset - before <= self._window:
                self.n_repeats += 1
                return
        self._fold(event, user, offset, min(event["ts"], appended_ms))
        self.folded.append((offset, user))
        self.n_folded += 1

    def _fold(self, event: dict[str, Any], user: str, offset: int, time_ms: int) -> None:
        facts = self.users.get(user)
        if facts is None:
            facts = self.users[user] = Facts(time_ms, time_ms)
        facts.first_ms = min(facts.first_ms, time_ms)
        facts.last_ms = max(facts.last_ms, time_ms)
        facts.last_offset = offset
        name = event["type"]
        code, weight = self._own[name] if name in self._own else (CODES[name], 1.0)
        rating = event.get("rating")
        if name == "review" and rating is not None and rating < 3:
            code = BAD_REVIEW
        facts.counts[code] = facts.counts.get(code, 0) + 1
        if name == "search":
            words = _WORD.findall(event["query"].casefold())[: self._n_tokens]
            facts.pending = [xxhash.xxh3_64_intdigest(w.encode(), seed=1) or 1 for w in words]
            facts.pending_ms = time_ms
        elif code not in self._counted_only:
            item = self._hash_of(event["item_id"])
            if facts.history and facts.history[0][0] == item:
                facts.history[0] = (item, time_ms, weight, code)
            else:
                facts.history.insert(0, (item, time_ms, weight, code))
                del facts.history[self._history :]
            facts.pending, facts.pending_ms = [], 0

    def _hash_of(self, item_id: str) -> int:
        found = self._item_hashes.get(item_id)
        if found is None:
            found = self._item_hashes[item_id] = xxhash.xxh3_64_intdigest(item_id.encode()) or 1
        return found

    # What is an event -----------------------------------------------------------------------

    def _event(self, key: bytes | None, value: bytes | None) -> dict[str, Any]:
        if not value:
            raise Refused("empty")
        if len(value) > MAX_BYTES:
            raise Refused("large")
        document = strict_json(value)
        if not isinstance(document, dict):
            raise Refused("no object")
        self._check(document)
        if key is None or key != document["user_id"].encode():
            raise Refused("key")
        return document

    def _check(self, event: dict[str, Any]) -> None:
        """The published schema of `events`."""
        name = event.get("type")
        if not isinstance(name, str) or (name not in CODES and name not in self._own):
            raise Refused("type")
        _text(event, "user_id", 256, needed=True)
        _whole(event, "ts", 0, MAX_TS, needed=True)
        _text(event, "event_id", 256)
        _text(event, "session_id", 256)
        _text(event, "request_id", 256)
        if name == "search":
            _text(event, "query", 512, needed=True)
            return
        _text(event, "item_id", 256, needed=True)
        _text(event, "query", 512)
        _whole(event, "quantity", 1, 1_000_000)
        _whole(event, "position", 0, 100_000)
        _number(event, "price", 1e9)
        _number(event, "rating", 5)
        if name == "review":
            _text(event, "text", 2_048, least=0)


def _text(
    event: dict[str, Any], name: str, most: int, *, least: int = 1, needed: bool = False
) -> None:
    value = event.get(name)
    if value is None and not needed:
        return
    if not isinstance(value, str) or not least <= len(value) <= most:
        raise Refused(name)


def _whole(
    event: dict[str, Any], name: str, least: int, most: int, *, needed: bool = False
) -> None:
    value = event.get(name)
    if value is None and not needed:
        return
    # Written without point or exponent; True is a number to Python, and not to JSON.
    if type(value) is not int or not least <= value <= most:
        raise Refused(name)


def _number(event: dict[str, Any], name: str, most: float) -> None:
    value = event.get(name)
    if value is None:
        return
    if type(value) not in (int, float) or not 0 <= value <= most:
        raise Refused(name)


def strict_json(value: bytes) -> Any:
    """One RFC 8259 document: UTF-8 throughout, no NaN, no lone surrogate, at most 64 levels.

    Of equal names the last one counts. Raises Refused.
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("utf-8") from error
    if value.count(b"{") + value.count(b"[") > MAX_LEVELS and _levels(value) > MAX_LEVELS:
        raise Refused("deep")
    if text.startswith("\ufeff"):
        raise Refused("json")
    try:
        document = json.loads(text, parse_constant=_no_constant, parse_int=_whole_number)
    except (ValueError, RecursionError) as error:
        raise Refused("json") from error
    if b"\\u" in value:
        try:
            json.dumps(document, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise Refused("surrogate") from error
    return document


def _no_constant(name: str) -> Any:
    raise Refused(f"{name} is no JSON")


def _whole_number(digits: str) -> int | float:
    # Python refuses to read more than 4,300 digits; above every bound, they are all the same.
    if len(digits) > 400:
        return -math.inf if digits.startswith("-") else math.inf
    return int(digits)


def _levels(value: bytes) -> int:
    """The deepest nesting of arrays and objects; brackets in strings are text."""
    depth = most = 0
    for byte in _NO_BRACKETS.sub(b"", value):
        if byte in b"[{":
            depth += 1
            most = max(most, depth)
        else:
            depth -= 1
    return most
