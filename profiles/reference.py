"""The fold once more, slow and obvious: docs/model.md line by line, to hold the kernel to.

Shares no arithmetic with `kernel.py`: draws, start values and hashes of draws are written here in
plain Python. Works in float64 and rounds what is stored after every event, as the kernel does
(long-term vectors to float16, the rest to float32), so the two agree to rounding (a few 1e-5 after
some hundred events; a long-term vector to a step of float16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import item_hash
from profiles.interactions import NO_ITEM, Interactions
from profiles.items import ItemTable
from profiles.profile import NO_OFFSET, HistoryEntry, Profile
from profiles.shape import FoldConfig
from profiles.table import ProfileTable

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class ReferenceItem:
    """One item, as `ItemColumns` has it."""

    vector: NDArray[np.float32]
    squares: float = 0.0
    count: float = 0.0
    count_ms: int = 0
    n_positive: int = 0


@dataclass(frozen=True, slots=True)
class OneInteraction:
    """One interaction, spelt out; without an item it is a query."""

    user: str
    item_id: str | None
    offset: int
    time_ms: int
    kind: int = 0
    weight: float = 1.0
    positive: bool = True
    tokens: tuple[int, ...] = ()

    @property
    def item(self) -> int:
        """The item's 64-bit hash, 0 for a query."""
        return item_hash(self.item_id) if self.item_id is not None else 0


def columns_of(
    stream: Sequence[OneInteraction], partition: int, profiles: ProfileTable, items: ItemTable
) -> Interactions:
    """The same stream as `fold_batch` takes it; its users must be loaded, its items need not."""
    n = len(stream)
    item_row = np.full(n, NO_ITEM, np.int32)
    named = [b for b in range(n) if stream[b].item_id is not None]
    item_row[named] = items.intern([stream[b].item_id or "" for b in named])
    token_start = np.zeros(n + 1, np.int32)
    np.cumsum([len(one.tokens) for one in stream], out=token_start[1:])
    return Interactions(
        partition=partition,
        user_row=profiles.rows([one.user for one in stream]),
        item_row=item_row,
        item_hash=np.array([one.item for one in stream], np.uint64),
        kind=np.array([one.kind for one in stream], np.uint8),
        weight=np.array([one.weight for one in stream], np.float32),
        positive=np.array([one.positive for one in stream], np.uint8),
        time_ms=np.array([one.time_ms for one in stream], np.int64),
        offset=np.array([one.offset for one in stream], np.int64),
        token_start=token_start,
        tokens=np.array([token for one in stream for token in one.tokens], np.uint64),
    )


@dataclass(slots=True)
class ReferenceFold:
    """State and fold of one partition; items are made at their first mention."""

    config: FoldConfig
    partition: int = 0
    users: dict[str, Profile] = field(default_factory=dict)
    items: dict[int, ReferenceItem] = field(default_factory=dict)
    ring: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    clock_ms: int = 0
    watermark_ms: int = 0
    n_learned: int = 0
    loss: float = 0.0

    def fold(self, one: OneInteraction) -> None:
        """Fold one interaction."""
        config = self.config
        self.watermark_ms = max(self.watermark_ms, one.time_ms)
        self.clock_ms = max(self.clock_ms, one.time_ms)
        profile = self.users.setdefault(one.user, Profile())
        old = self.watermark_ms - config.retention_ms
        if config.retention_ms and profile.last_offset != NO_OFFSET and profile.last_ms < old:
            profile = self.users[one.user] = Profile()
        if profile.last_offset == NO_OFFSET:
            profile.first_ms = profile.last_ms = one.time_ms
        profile.first_ms = min(profile.first_ms, one.time_ms)
        profile.last_ms = max(profile.last_ms, one.time_ms)
        profile.last_offset = one.offset
        profile.n_by_kind[one.kind] = profile.n_by_kind.get(one.kind, 0) + 1
        if one.item_id is None:
            profile.pending = list(one.tokens[: config.shape.n_tokens])
            profile.pending_ms = one.time_ms
        elif one.positive:
            self._positive(profile, one)
        profile.vector = self._context(profile)[0].astype(np.float32)
        profile.stamp = self.n_learned

    def _positive(self, profile: Profile, one: OneInteraction) -> None:
        weight = float(np.float32(one.weight))
        entry = HistoryEntry(one.item, one.time_ms, weight, one.kind)
        if profile.history and profile.history[0].item_hash == one.item:
            profile.history[0] = entry
        else:
            self._item(one.item)
            self._learn(profile, one)
            self._count(one)
            profile.history = [entry, *profile.history][: self.config.shape.history]
        profile.pending, profile.pending_ms = [], 0

    def _item(self, item: int) -> ReferenceItem:
        if item not in self.items:
            start = [_start_value(item, k) for k in range(self.config.shape.n_factors)]
            self.items[item] = ReferenceItem(np.array(start, np.float32))
        return self.items[item]

    def _context(
        self, profile: Profile
    ) -> tuple[NDArray[np.float64], list[tuple[ReferenceItem, float]]]:
        """x, and the history's items with their coefficients c_a."""
        config = self.config
        x = np.zeros(config.shape.n_factors)
        if profile.long_term is not None:
            x += profile.long_term
        known = [
            (a, entry.weight, self.items[entry.item_hash])
            for a, entry in enumerate(profile.history)
            if entry.item_hash in self.items
        ]
        if not known:
            return x, []
        newest = known[0][2].vector.astype(float)
        parts: list[tuple[ReferenceItem, float]] = []
        for a, weight, item in known:
            e = item.vector.astype(float)
            cosine = e @ newest / math.sqrt(e @ e * (newest @ newest))
            r = weight * config.recency**a * math.exp(config.sharpness * (cosine - 1))
            parts.append((item, r))
        total = sum(r for _, r in parts)
        parts = [(item, config.context_scale * r / math.sqrt(total)) for item, r in parts]
        for item, coefficient in parts:
            x += coefficient * item.vector.astype(float)
        return x, parts

    def _candidates(self, one: OneInteraction) -> list[int]:
        config = self.config
        seed = _event_seed(self.partition, one.offset)
        drawn: list[int] = []
        if self.ring:
            size = len(self.ring)
            drawn += [self.ring[_draw(seed, n, size)] for n in range(config.n_recent)]
        if self.seen:
            size = len(self.seen)
            places = range(config.n_recent, config.n_recent + config.n_uniform)
            drawn += [self.seen[_draw(seed, n, size)] for n in places]
        return [one.item] + [item for item in drawn if item != one.item]

    def _learn(self, profile: Profile, one: OneInteraction) -> None:
        config, K = self.config, self.config.shape.n_factors
        x, context = self._context(profile)
        J = self._candidates(one)
        if len(J) == 1:
            self.n_learned += 1
            return
        E = np.stack([self.items[j].vector.astype(float) for j in J])
        n_draws = config.n_recent + config.n_uniform
        q_draw = np.array(
            [
                config.n_recent / n_draws * self.ring.count(j) / len(self.ring)
                + config.n_uniform / n_draws / len(self.seen)
                for j in J
            ]
        )
        z = E @ x
        if config.n_recent:
            z -= np.log(np.maximum(q_draw, 1e-12))
        q = np.exp(z - z.max())
        q /= q.sum()
        self.loss += -float(np.float32(one.weight)) * math.log(q[0])
        g = float(np.float32(one.weight)) * (q - np.eye(len(J))[0])
        G = g @ E
        for j, g_j in zip(J, g, strict=True):
            self._step(self.items[j], g_j * x)
        for item, coefficient in context:
            if coefficient >= 0.01:
                self._step(item, coefficient * G)
        self.n_learned += 1
        if len(profile.history) < min(config.long_term_from - 1, config.shape.history):
            return  # the history has an entry for each learned event before this one
        long_term = np.zeros(K) if profile.long_term is None else profile.long_term.astype(float)
        profile.long_term_sum = float(np.float32(profile.long_term_sum + G @ G / K))
        rate = config.rate / math.sqrt(config.sum_start + profile.long_term_sum)
        profile.long_term = (long_term - rate * G).astype(np.float16).astype(np.float32)

    def _step(self, item: ReferenceItem, gradient: NDArray[np.float64]) -> None:
        config = self.config
        item.squares = float(np.float32(item.squares + gradient @ gradient / len(gradient)))
        rate = config.rate / math.sqrt(config.sum_start + item.squares)
        e = item.vector.astype(float)
        item.vector = (e - rate * (gradient + config.l2 * e)).astype(np.float32)

    def _count(self, one: OneInteraction) -> None:
        item = self.items[one.item]
        age_s = (self.clock_ms - item.count_ms) / 1000
        item.count *= 0.5 ** (age_s / self.config.popularity_half_life_s)
        item.count += float(np.float32(one.weight))
        item.count_ms = self.clock_ms
        item.n_positive += 1
        if one.item not in self.seen:
            self.seen.append(one.item)
        # The ring is a list of places: the newest takes the place of the oldest.
        if len(self.ring) < self.config.n_ring:
            self.ring.append(one.item)
        else:
            self.ring[(self.n_learned - 1) % self.config.n_ring] = one.item


def _mix(value: int) -> int:
    z = value & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _event_seed(partition: int, offset: int) -> int:
    return _mix(offset * GOLDEN + _mix(partition + GOLDEN))


def _draw(seed: int, number: int, bound: int) -> int:
    return (_mix(seed + (number + 1) * GOLDEN) >> 32) * bound >> 32


def _start_value(item: int, k: int) -> np.float32:
    bits = _mix(item + (k + 1) * GOLDEN)
    total = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
    return np.float32(total - 131070) * np.float32(0.2 * math.sqrt(3) / 65536)
