"""An independent fold of facts: what each profile must say, from the raw log alone.

Shares nothing with the product but the published rules: what is an event says `judge`, repeats are
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

_WORD = re.compile(r"\w+")


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
