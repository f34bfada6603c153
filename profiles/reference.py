"""The fold once more, slow and obvious: docs/model.md line by line, to hold the kernel to.

Shares no arithmetic with `kernel.py`: draws, start values and hashes of draws are written here in
plain Python; lists, terms and blend are in `reference_blend`, groups, tokens and queries in
`reference_catalogue`, ratings in `reference_ratings`. Works in float64 and rounds what is stored
after every event, as the kernel does (long-term vectors to float16, the rest to float32), so the
two agree to rounding (a few 1e-5 after some hundred events; a long-term vector to a step of
float16).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiles.facets import NOTHING, Description
from profiles.hashing import item_hash, user_hash
from profiles.interactions import NO_ITEM, Interactions
from profiles.items import ItemTable
from profiles.profile import NO_OFFSET, HistoryEntry, OwnEntry, Profile
from profiles.reference_blend import (
    ReferenceBlend,
    ReferenceLists,
    ReferenceTouched,
    parts_of,
    touch_neighbours,
)
from profiles.reference_catalogue import ReferenceGroups, ReferenceQueries, ReferenceTokens
from profiles.reference_ratings import ReferenceRatings
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.terms import (
    AGE,
    DOT,
    G_LEAF,
    H_LEAF,
    LAST,
    N_TERMS,
    NEVER,
    POPF,
    POPM,
    POPS,
    RL,
    RS,
    START,
)

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


@dataclass(slots=True)
class ReferenceItem:
    """One item, as `ItemColumns` has it."""

    vector: NDArray[np.float32]
    squares: float = 0.0
    count: float = 0.0
    fast: float = 0.0
    slow: float = 0.0
    starts: float = 0.0
    count_ms: int = 0
    n_positive: int = 0
    first_number: int = 0
    last_number: int = 0
    described: Description = NOTHING


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
    session: int = 0
    rating: float | None = None

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
        session=np.array([one.session for one in stream], np.uint32),
        rating=np.array([one.rating for one in stream], np.float32),
        rater=np.array([user_hash(one.user) for one in stream], np.uint64),
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
    pushed: list[int] = field(default_factory=list)
    rankable: list[int] = field(default_factory=list)
    groups: ReferenceGroups = field(default_factory=ReferenceGroups)
    blend: ReferenceBlend = field(default_factory=ReferenceBlend)
    ratings: ReferenceRatings = field(default_factory=ReferenceRatings)
    rating_errors: list[float] = field(default_factory=list)
    tokens: ReferenceTokens = field(init=False)
    queries: ReferenceQueries = field(init=False)
    lists: ReferenceLists = field(init=False)

    def __post_init__(self) -> None:
        self.tokens = ReferenceTokens(self.config.rate, self.config.sum_start)
        self.queries = ReferenceQueries(self.config.shape.n_factors)
        self.lists = ReferenceLists(self.config.n_list)

    def describe(self, item_id: str, described: Description) -> None:
        """The catalogue has an entry for an item that nobody has had yet."""
        key, K = item_hash(item_id), self.config.shape.n_factors
        item = self._item(key)
        item.described = described
        for token in described.tokens:
            start = [_start_value(token, k, 0.3) for k in range(K)]
            self.tokens.vectors.setdefault(token, np.array(start, np.float32))
        if described.tokens:
            item.vector = item.vector * np.float32(0.05 / 0.2)
        self.rankable.append(key)

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
        if one.rating is not None:
            self._item(one.item)
            self._learn_rating(profile, one, one.rating)
        if one.item_id is None:
            profile.pending = list(one.tokens[: config.shape.n_tokens])
            profile.pending_ms = one.time_ms
        elif one.positive:
            self._positive(profile, one)
        elif one.kind in (4, 5):
            self._item(one.item)
            short = one.item % 2**32
            had = [own for own in profile.own if own.short_hash == short and own.times]
            if had:
                n = profile.n_by_kind.get(4, 0) + profile.n_by_kind.get(5, 0)
                weight = np.float32(one.weight) * np.float32(min(1, 8 / n))
                self._learn_embedding(profile, one, float(weight), away=True)
            for own in had if one.kind == 4 else ():
                own.times -= 1
        profile.vector = self._context(profile)[0].astype(np.float32)
        profile.stamp = self.n_learned

    def _positive(self, profile: Profile, one: OneInteraction) -> None:
        weight = float(np.float32(one.weight))
        entry = HistoryEntry(one.item, one.time_ms, weight, one.kind)
        repeat = bool(profile.history) and profile.history[0].item_hash == one.item
        if one.tokens:
            profile.pending = list(one.tokens[: self.config.shape.n_tokens])
        if not repeat:
            self._item(one.item)
            begins = self._begins(profile, one)
            self._learn(profile, one, begins)
            if self.config.shape.own_items:
                profile.n_positive += 1
                profile.session = one.session
                if begins:
                    profile.n_sessions += 1
                    profile.session_from = profile.n_positive
        if self.config.shape.own_items:
            times = self._times(profile, one.item) + 1
            short = one.item % 2**32
            own = [other for other in profile.own if other.short_hash != short]
            minute = one.time_ms // 60_000
            own.insert(0, OwnEntry(short, min(times, 255), profile.n_positive, minute))
            profile.own = own[: self.config.shape.own_items]
        if repeat:
            profile.history[0] = entry
        else:
            profile.history = [entry, *profile.history][: self.config.shape.history]
        profile.pending, profile.pending_ms = [], 0

    def _learn_rating(self, profile: Profile, one: OneInteraction, rating: float) -> None:
        dot = float(self._context(profile)[0] @ self._vector(self.items[one.item]))
        self.rating_errors.append(
            self.ratings.learn(one.item, user_hash(one.user), dot, float(np.float32(rating)))
        )

    def _begins(self, profile: Profile, one: OneInteraction) -> bool:
        if not profile.history:
            return True
        other = 0 not in (one.session, profile.session) and one.session != profile.session
        return other or one.time_ms - profile.history[0].time_ms > 1_800_000

    def _times(self, profile: Profile, item: int) -> int:
        return next((own.times for own in profile.own if own.short_hash == item % 2**32), 0)

    def _vector(self, item: ReferenceItem) -> NDArray[np.float64]:
        """e of an item, its text included."""
        return self.tokens.effective(item.vector, item.described.tokens)

    def _item(self, item: int) -> ReferenceItem:
        if item not in self.items:
            start = [_start_value(item, k) for k in range(self.config.shape.n_factors)]
            self.items[item] = ReferenceItem(np.array(start, np.float32))
        return self.items[item]

    def x_of(self, user: str) -> NDArray[np.float64]:
        """float64 (K,): the user vector as of now."""
        return self._context(self.users[user])[0]

    def _context(
        self, profile: Profile
    ) -> tuple[NDArray[np.float64], list[tuple[ReferenceItem, float]]]:
        """x, and the history's items with their coefficients c_a."""
        config = self.config
        x = np.zeros(config.shape.n_factors)
        if profile.long_term is not None:
            x += profile.long_term
        x += self.queries.vector(profile.pending)
        known = [
            (a, entry.weight, self.items[entry.item_hash])
            for a, entry in enumerate(profile.history)
            if entry.item_hash in self.items
        ]
        if not known:
            return x, []
        newest = self._vector(known[0][2])
        parts: list[tuple[ReferenceItem, float]] = []
        for a, weight, item in known:
            e = self._vector(item)
            cosine = e @ newest / math.sqrt(e @ e * (newest @ newest))
            r = weight * config.recency**a * math.exp(config.sharpness * (cosine - 1))
            parts.append((item, r))
        total = sum(r for _, r in parts)
        parts = [(item, config.context_scale * r / math.sqrt(total)) for item, r in parts]
        for item, coefficient in parts:
            x += coefficient * self._vector(item)
        return x, parts

    def _candidates(self, one: OneInteraction) -> list[tuple[int, float]]:
        """The positive and its negatives, each with how many times it counts for its tokens."""
        config = self.config
        seed = _event_seed(self.partition, one.offset)
        stands_for = (config.n_recent + config.n_uniform) / 8
        drawn: list[tuple[int, float]] = []
        if self.ring:
            size = len(self.ring)
            for n in range(config.n_recent):
                drawn.append((self.ring[_draw(seed, n, size)], stands_for * (n < 4)))
        if self.seen:
            size = len(self.seen)
            for n in range(config.n_uniform):
                place = _draw(seed, config.n_recent + n, size)
                drawn.append((self.seen[place], stands_for * (n < 4)))
        return [(one.item, 1.0)] + [(item, times) for item, times in drawn if item != one.item]

    def _learn(self, profile: Profile, one: OneInteraction, begins: bool) -> None:
        had = np.float32(self._times(profile, one.item))
        cut = min(np.float32(1), np.float32(8) / (np.float32(1) + had))
        weight = np.float32(one.weight) * cut
        number = self.n_learned + 1
        every = self.config.blend_every
        its_turn = bool(every) and (number <= 2_000 or number % every == 0)
        if its_turn and one.item in self.rankable:
            self._learn_blend(profile, one, begins)
        history = [h.item_hash if h.item_hash in self.items else None for h in profile.history]
        described = [NOTHING if h is None else self.items[h].described for h in history]
        query = list(profile.pending)
        self._learn_embedding(profile, one, float(weight))
        self.lists.count(history, one.item, weight)
        self.queries.count(query, one.item, float(weight))
        self.groups.count(described, self.items[one.item].described, float(weight))
        self.n_learned += 1
        self._count(one.item, float(weight), begins)

    def _learn_embedding(
        self, profile: Profile, one: OneInteraction, weight: float, away: bool = False
    ) -> None:
        config, K = self.config, self.config.shape.n_factors
        x, context = self._context(profile)
        J = self._candidates(one)
        if len(J) == 1:
            return
        E = np.stack([self._vector(self.items[j]) for j, _ in J])
        n_draws = config.n_recent + config.n_uniform
        q_draw = np.array(
            [
                config.n_recent / n_draws * self.ring.count(j) / len(self.ring)
                + config.n_uniform / n_draws / len(self.seen)
                for j, _ in J
            ]
        )
        z = E @ x
        if config.n_recent:
            z -= np.log(np.maximum(q_draw, 1e-12))
        q = np.exp(z - z.max())
        q /= q.sum()
        if away:
            g = -weight * q[0] * q / max(1 - q[0], 1e-3)
            g[0] = weight * q[0]
        else:
            self.loss += -weight * math.log(q[0])
            g = weight * (q - np.eye(len(J))[0])
        G = g @ E
        for (j, times), g_j in zip(J, g, strict=True):
            self._step(self.items[j], g_j * x, times)
        for item, coefficient in context:
            if coefficient >= 0.01:
                self._step(item, coefficient * G, 1.0)
        if not away:
            self.queries.step(profile.pending, G)
        n_least = config.long_term_from - (0 if away else 1)
        if len(profile.history) < min(n_least, config.shape.history):
            return  # the history has an entry for each learned event before this one
        long_term = np.zeros(K) if profile.long_term is None else profile.long_term.astype(float)
        profile.long_term_sum = float(np.float32(profile.long_term_sum + G @ G / K))
        rate = config.rate / math.sqrt(config.sum_start + profile.long_term_sum)
        profile.long_term = (long_term - rate * G).astype(np.float16).astype(np.float32)

    def _step(self, item: ReferenceItem, gradient: NDArray[np.float64], times: float) -> None:
        config = self.config
        squares = config.sum_kept * max(item.squares, 0) + gradient @ gradient / len(gradient)
        item.squares = float(np.float32(squares))
        rate = config.rate / math.sqrt(config.sum_start + item.squares)
        e = item.vector.astype(float)
        item.vector = (e - rate * (gradient + config.l2 * e)).astype(np.float32)
        if times:
            self.tokens.step(item.described.tokens, times * gradient)

    def _faded(self, count: float, item: ReferenceItem, half_life_s: float) -> float:
        return float(count * 0.5 ** ((self.clock_ms - item.count_ms) / 1000 / half_life_s))

    def _count(self, key: int, weight: float, begins: bool) -> None:
        config, item = self.config, self.items[key]
        item.count = weight + self._faded(item.count, item, config.popularity_half_life_s)
        item.fast = weight + self._faded(item.fast, item, config.fast_half_life_s)
        item.slow = weight + self._faded(item.slow, item, config.slow_half_life_s)
        item.starts = self._faded(item.starts, item, config.popularity_half_life_s)
        item.starts += weight * begins
        item.count_ms = self.clock_ms
        item.n_positive += 1
        item.first_number = item.first_number or self.n_learned
        item.last_number = self.n_learned
        if key not in self.seen:
            self.seen.append(key)
        if key not in self.rankable:
            self.rankable.append(key)
        self.pushed.append(key)
        # The ring is a list of places: the newest takes the place of the oldest.
        if len(self.ring) < config.n_ring:
            self.ring.append(key)
        else:
            self.ring[(self.n_learned - 1) % config.n_ring] = key

    def _learn_blend(self, profile: Profile, one: OneInteraction, begins: bool) -> None:
        x = self._context(profile)[0]
        history = [h.item_hash if h.item_hash in self.items else None for h in profile.history]
        current = history[0] if history else None
        touched = self._touched(profile, one, begins, history, current)
        seed = _event_seed(self.partition, one.offset)
        drawn, n_draws = [], 0
        for first, n, pool in ((0, 16, self.rankable), (16, 8, self.ring), (24, 8, [*touched])):
            if pool:
                n_draws += n
                drawn += [pool[_draw(seed, 1024 + first + d, len(pool))] for d in range(n)]
        J = [one.item] + [item for item in drawn if item not in (one.item, current)]
        chance = [
            (
                16 / len(self.rankable)
                + (8 * self.ring.count(j) / len(self.ring) if self.ring else 0)
                + (8 / len(touched) if j in touched else 0)
            )
            / n_draws
            for j in J
        ]
        phi = np.stack([self._terms(j, x, history, touched.get(j)) for j in J])
        number = self.n_learned + 1
        self.blend.learn(
            phi,
            np.array(chance),
            parts_of(len(history), begins, len(profile.pending)),
            number <= 2_000 or number % (2 * self.config.blend_every) == 0,
        )

    def _touched(
        self,
        profile: Profile,
        one: OneInteraction,
        begins: bool,
        history: list[int | None],
        current: int | None,
    ) -> dict[int, ReferenceTouched]:
        touched: dict[int, ReferenceTouched] = {}
        touch_neighbours(self.lists, history, current, touched)
        by_short = {key % 2**32: key for key in self.items}
        for own in profile.own:
            key = by_short.get(own.short_hash)
            if key is not None and key != current:
                touched.setdefault(key, ReferenceTouched()).own = (
                    own.times,
                    profile.n_positive + 1 - own.number,
                    one.time_ms // 60_000 - own.minute,
                    not begins and own.number >= profile.session_from,
                )
        whole = tuple(sorted(profile.pending))
        for query in (*profile.pending, whole) if profile.pending else ():
            for named, count in self.queries.counts.get(query, {}).items():
                assert isinstance(named, int)
                if named != current:
                    entry = touched.setdefault(named, ReferenceTouched())
                    if query is whole:
                        entry.query = count / (self.queries.totals[query] + 1)
                    else:
                        item = self.items[named]
                        slow = self._faded(item.slow, item, self.config.slow_half_life_s)
                        p = (slow + 0.5) / (self.n_learned + 1)
                        entry.words += math.log(1 + count / (5 * p))
        return touched

    def _terms(
        self,
        key: int,
        x: NDArray[np.float64],
        history: list[int | None],
        touched: ReferenceTouched | None,
    ) -> NDArray[np.float64]:
        config, item = self.config, self.items[key]
        phi = np.zeros(N_TERMS)
        phi[DOT] = x @ self._vector(item)
        for term, count, half_life_s in (
            (POPF, item.fast, config.fast_half_life_s),
            (POPM, item.count, config.popularity_half_life_s),
            (POPS, item.slow, config.slow_half_life_s),
            (START, item.starts, config.popularity_half_life_s),
        ):
            phi[term] = math.log(self._faded(count, item, half_life_s) + 0.1)
        short = min(config.n_ring_short, config.n_ring)
        phi[RS] = math.log(self.pushed[-short:].count(key) + 0.1)
        phi[RL] = math.log(self.ring.count(key) + 0.1)
        if item.first_number:
            phi[AGE] = 0.3 * math.log(1 + self.n_learned - item.first_number)
            phi[LAST] = 0.3 * math.log(1 + self.n_learned - item.last_number)
        else:
            phi[NEVER] = 1
        described = [NOTHING if h is None else self.items[h].described for h in history]
        for facet, group in enumerate(item.described.groups):
            phi[G_LEAF + facet] = self.groups.lift(facet, group, described)
            phi[H_LEAF + facet] = self.groups.share(facet, group, described)
        if touched is not None:
            touched.write(phi)
        return phi


def _mix(value: int) -> int:
    z = value & MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def _event_seed(partition: int, offset: int) -> int:
    return _mix(offset * GOLDEN + _mix(partition + GOLDEN))


def _draw(seed: int, number: int, bound: int) -> int:
    return (_mix(seed + (number + 1) * GOLDEN) >> 32) * bound >> 32


def _start_value(item: int, k: int, deviation: float = 0.2) -> np.float32:
    bits = _mix(item + (k + 1) * GOLDEN)
    total = sum(bits >> shift & 0xFFFF for shift in (0, 16, 32, 48))
    return np.float32(total - 131070) * np.float32(deviation * math.sqrt(3) / 65536)
