"""An independent fold of facts: what each profile must say, from the raw log alone.

Imports nothing of the product: what is an event says `judge`, by the published rules; repeats are
found by a dictionary, there are no batches and no vectors. Retention is off. Slow and obvious on
purpose; a million messages take about half a minute.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import xxhash

from agents.chaos.judge import Judge
from agents.chaos.strict_json import Refused

CODES = {"click": 0, "cart": 1, "purchase": 2, "review": 3, "return": 4, "search": 6}
BAD_REVIEW = 5
COUNTED_ONLY = {4, BAD_REVIEW, 6}
"""Kinds that enter no history."""

RETURN = 4
PAUSE_MS = 30 * 60 * 1_000
"""A longer one ends a session."""

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Own:
    """An item that the user had. number: of the positive event; minute: of its time, since 1970."""

    times: int
    number: int
    minute: int


@dataclass(slots=True)
class Facts:
    """What a profile must say. history: (item hash, time, weight, kind), newest first.

    n_positive: positive events other than repeats of the newest item. sessions: of each, the number
    of the positive event that began it. own: by lower half of the item hash, last touched last.
    """

    first_ms: int
    last_ms: int
    last_offset: int = -1
    counts: dict[int, int] = field(default_factory=dict)
    history: list[tuple[int, int, float, int]] = field(default_factory=list)
    pending_ms: int = 0
    pending: list[int] = field(default_factory=list)
    n_positive: int = 0
    sessions: list[int] = field(default_factory=list)
    session: int = 0
    own: dict[int, Own] = field(default_factory=dict)

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
        own_items: int = 0,
        seen_window: int = 262_144,
        own_kinds: Sequence[tuple[str, int, float, bool]] = (),
    ) -> None:
        """own_items: places of an own table; 0: the generation keeps none, and no sessions.

        own_kinds: the shop's own, (name, code, weight, positive)."""
        self.partition = partition
        self.users: dict[str, Facts] = {}
        self.refused: dict[int, str] = {}
        self.folded: list[tuple[int, str]] = []
        self.n_folded = 0
        self.n_repeats = 0
        self.n_messages = 0
        self._history = history
        self._n_tokens = n_tokens
        self._own_items = own_items
        self._window = seen_window
        self._judge = Judge(tuple(name for name, *_ in own_kinds))
        self._own = {name: (code, weight) for name, code, weight, _ in own_kinds}
        self._counted_only = COUNTED_ONLY | {c for _, c, _, positive in own_kinds if not positive}
        self._seen: dict[tuple[str, str, str], int] = {}
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
        try:
            event, source = self._judge.read(value, key, headers)
        except Refused as why:
            self.refused[offset] = str(why)
            return
        user, event_id = event["user_id"], event.get("event_id")
        if event_id is not None:
            before = self._seen.get((source, user, event_id))
            self._seen[source, user, event_id] = offset
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
            if self._own_items:
                self._note_own(facts, item, event.get("session_id"), time_ms)
            if facts.history and facts.history[0][0] == item:
                facts.history[0] = (item, time_ms, weight, code)
            else:
                facts.history.insert(0, (item, time_ms, weight, code))
                del facts.history[self._history :]
            facts.pending, facts.pending_ms = [], 0
        elif code == RETURN:
            had = facts.own.get(self._hash_of(event["item_id"]) & 0xFFFFFFFF)
            if had is not None and had.times:
                had.times -= 1

    def _note_own(self, facts: Facts, item: int, session_id: str | None, time_ms: int) -> None:
        """Before the event enters the history."""
        newest = facts.history[0] if facts.history else None
        if newest is None or newest[0] != item:
            facts.n_positive += 1
            session = 0
            if session_id is not None:
                session = xxhash.xxh3_64_intdigest(session_id.encode()) & 0xFFFFFFFF or 1
            other = session and facts.session and session != facts.session
            if newest is None or other or time_ms - newest[1] > PAUSE_MS:
                facts.sessions.append(facts.n_positive)
            facts.session = session
        had = facts.own.pop(item & 0xFFFFFFFF, None)
        times = min(had.times + 1, 255) if had is not None else 1
        facts.own[item & 0xFFFFFFFF] = Own(times, facts.n_positive, time_ms // 60_000)
        while len(facts.own) > self._own_items:
            del facts.own[next(iter(facts.own))]

    def _hash_of(self, item_id: str) -> int:
        found = self._item_hashes.get(item_id)
        if found is None:
            found = self._item_hashes[item_id] = xxhash.xxh3_64_intdigest(item_id.encode()) or 1
        return found
