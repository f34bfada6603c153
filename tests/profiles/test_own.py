"""Own tables and sessions: held to a few lines of plain Python, whatever the events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.fold import fold_batch
from profiles.hashing import HashIndex, index_get_short
from profiles.interactions import NO_ITEM, RETURN, Interactions
from profiles.items import ItemTable
from profiles.own import begins_session, had_in_session, own_place, own_row
from profiles.profile import OwnEntry, Profile
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable

SHAPE = ModelShape(n_factors=4, history=3, n_tokens=2, own_items=5)
CONFIG = FoldConfig(shape=SHAPE, learn=False)
BEFORE = replace(CONFIG, shape=replace(SHAPE, own_items=0))
START = 1_762_430_400_000
GAP_MS = 30 * 60_000


@dataclass(frozen=True)
class Seen:
    """One event of a user. kind: a code; no item: a search."""

    item: str | None
    time_ms: int
    session: int = 0
    kind: int = 0
    tokens: tuple[int, ...] = ()


@dataclass
class PlainOwn:
    """The same facts in a dictionary, which keeps the order of the last touch."""

    own: dict[int, OwnEntry] = field(default_factory=dict)
    newest: int | None = None
    newest_ms: int = 0
    n_positive: int = 0
    n_sessions: int = 0
    session: int = 0
    session_from: int = 0

    def take(self, seen: Seen, item_hash: int) -> None:
        short = item_hash % 2**32
        if seen.kind == RETURN and short in self.own:
            self.own[short].times = max(self.own[short].times - 1, 0)
        if seen.kind != 0:
            return
        if item_hash != self.newest:
            other = 0 not in (seen.session, self.session) and seen.session != self.session
            pause = seen.time_ms - self.newest_ms > GAP_MS
            self.n_positive += 1
            if self.newest is None or other or pause:
                self.n_sessions += 1
                self.session_from = self.n_positive
            self.session = seen.session
        before = self.own.pop(short, OwnEntry(short, 0, 0, 0))
        times = min(before.times + 1, 255)
        self.own[short] = OwnEntry(short, times, self.n_positive, seen.time_ms // 60_000)
        if len(self.own) > SHAPE.own_items:
            del self.own[next(iter(self.own))]
        self.newest, self.newest_ms = item_hash, seen.time_ms

    @property
    def facts(self) -> tuple[object, ...]:
        sessions = (self.n_sessions, self.session, self.session_from)
        return list(reversed(self.own.values())), self.n_positive, *sessions


class User:
    """One user, folded by the product, and the table behind."""

    def __init__(self, config: FoldConfig = CONFIG) -> None:
        self.config = config
        self.profiles = ProfileTable(config.shape, capacity=1)
        self.items = ItemTable(config.shape, config, capacity=1)
        self.profiles.load(["u"], [None])
        self.n_events = 0

    def fold(self, events: list[Seen]) -> Profile:
        n = len(events)
        named = [b for b in range(n) if events[b].item is not None]
        item_row = np.full(n, NO_ITEM, np.int32)
        item_row[named] = self.items.intern([events[b].item or "" for b in named])
        item_hash = np.zeros(n, np.uint64)
        item_hash[named] = self.items.hashes[item_row[named]]
        batch = Interactions(
            partition=0,
            user_row=self.profiles.rows(["u"] * n),
            item_row=item_row,
            item_hash=item_hash,
            kind=np.array([one.kind for one in events], np.uint8),
            weight=np.ones(n, np.float32),
            positive=np.array([one.kind == 0 for one in events], np.uint8),
            time_ms=np.array([one.time_ms for one in events], np.int64),
            offset=np.arange(self.n_events, self.n_events + n),
            token_start=np.cumsum([0, *(len(one.tokens) for one in events)]).astype(np.int32),
            tokens=np.array([token for one in events for token in one.tokens], np.uint64),
            session=np.array([one.session for one in events], np.uint32),
        )
        self.n_events += n
        fold_batch(self.profiles, self.items, batch, self.config, 0)
        return self.profiles.profile("u")

    def evict(self) -> None:
        record = self.profiles.pack(self.profiles.rows(["u"]))
        self.profiles.evict_to(0)
        self.profiles.load(["u"], record)
        assert self.profiles.pack(self.profiles.rows(["u"])) == record


def facts(profile: Profile) -> tuple[object, ...]:
    sessions = (profile.n_sessions, profile.session, profile.session_from)
    return profile.own, profile.n_positive, *sessions


@st.composite
def streams(draw: st.DrawFn) -> list[Seen]:
    """Few items, so that they come back; times that wander, some of them over the gap."""
    time_ms, stream = START, []
    for _ in range(draw(st.integers(1, 60))):
        time_ms += draw(st.sampled_from([-600_000, 0, 5_000, 65_000, GAP_MS, GAP_MS + 1, 10**8]))
        kind = draw(st.sampled_from([0, 0, 0, 0, RETURN, 5, 6]))
        item = None if kind == 6 else f"i{draw(st.integers(0, 7))}"
        stream.append(Seen(item, time_ms, draw(st.sampled_from([0, 1, 2])), kind))
    return stream


@given(stream=streams())
@settings(deadline=None)
def test_own_tables_are_what_the_plain_lines_say(stream: list[Seen]) -> None:
    user, plain = User(), PlainOwn()
    for seen in stream:
        profile = user.fold([seen])
        user.evict()
        row = user.items.intern([seen.item]) if seen.item is not None else None
        plain.take(seen, int(user.items.hashes[row][0]) if row is not None else 0)
        assert facts(profile) == plain.facts
        assert facts(user.profiles.profile("u")) == plain.facts


@given(stream=streams(), cut=st.integers(0, 60))
@settings(deadline=None)
def test_neither_a_cut_nor_an_eviction_changes_a_bit(stream: list[Seen], cut: int) -> None:
    whole, parts = User(), User()
    whole.fold(stream)
    for part in (stream[:cut], stream[cut:]):
        if part:
            parts.fold(part)
        parts.evict()
    assert parts.profiles.profile("u") == whole.profiles.profile("u")


@given(stream=streams())
@settings(deadline=None)
def test_items_of_the_history_come_first_in_its_order(stream: list[Seen]) -> None:
    """So a record need not say them again; numbers fall, and a day's events take a byte each."""
    user = User()
    profile = user.fold(stream)
    history = dict.fromkeys(entry.item_hash % 2**32 for entry in profile.history)
    assert [own.short_hash for own in profile.own][: len(history)] == list(history)
    numbers = [own.number for own in profile.own]
    assert numbers == sorted(numbers, reverse=True)
    assert len(set(numbers)) == len(numbers)


@given(stream=streams())
@settings(deadline=None)
def test_a_generation_of_before_keeps_none_of_it(stream: list[Seen]) -> None:
    profile = User(BEFORE).fold(stream)
    assert facts(profile) == ([], 0, 0, 0, 0)
    profile.n_positive = 0
    new = User().fold(stream)
    new.own, new.n_positive, new.n_sessions, new.session, new.session_from = [], 0, 0, 0, 0
    assert new == profile


def test_an_item_had_often_stays_at_255_and_comes_down_with_returns() -> None:
    user = User()
    profile = user.fold([Seen(f"i{n % 2}", START + n) for n in range(600)])
    assert [own.times for own in profile.own] == [255, 255]
    profile = user.fold([Seen("i0", START + 700, kind=RETURN)] * 300)
    assert [own.times for own in profile.own] == [255, 0]


def test_a_repeat_counts_and_begins_nothing() -> None:
    user = User()
    user.fold([Seen("a", START, session=1)])
    profile = user.fold([Seen("a", START + 10 * GAP_MS, session=2)])
    minute = (START + 10 * GAP_MS) // 60_000
    assert [(own.times, own.number, own.minute) for own in profile.own] == [(2, 1, minute)]
    assert (profile.n_positive, profile.n_sessions, profile.session) == (1, 1, 1)


def test_a_session_ends_with_another_id_or_after_half_an_hour() -> None:
    user = User()
    user.fold([Seen("a", START, session=1), Seen("b", START + GAP_MS, session=1)])
    columns = user.profiles.columns
    places = [own_place(columns, 0, user.items.hashes[row]) for row in range(2)]
    assert places == [1, 0]
    assert [had_in_session(columns, 0, place) for place in places] == [True, True]
    now_ms = START + 2 * GAP_MS
    assert not begins_session(columns, 0, 1, now_ms)
    assert not begins_session(columns, 0, 0, now_ms)  # a request, or an event without an id
    assert begins_session(columns, 0, 2, now_ms)
    assert begins_session(columns, 0, 1, now_ms + 1)
    user.fold([Seen("c", now_ms, session=2)])
    assert [had_in_session(user.profiles.columns, 0, place) for place in range(3)] == [
        True,
        False,
        False,
    ]


def test_the_query_that_led_to_an_event_is_spent_with_it() -> None:
    user = User()
    profile = user.fold([Seen(None, START, kind=6, tokens=(1, 2))])
    assert profile.pending == [1, 2]
    profile = user.fold([Seen("a", START, kind=RETURN, tokens=(3,))])
    assert profile.pending == [1, 2]
    profile = user.fold([Seen("a", START, tokens=(3, 4))])
    assert (profile.pending, profile.pending_ms) == ([], 0)


def test_an_own_item_is_found_by_the_lower_half_of_its_hash() -> None:
    index = HashIndex(capacity=4)
    hashes = np.uint64([0xAAAA_0000_0001, 0xBBBB_0000_0011, 0xCCCC_0000_0021])
    index.append(hashes)
    found = [index_get_short(index.keys, index.values, n) for n in (0x1, 0x11, 0x21, 0x31)]
    assert found == [0, 1, 2, -1]
    user = User()
    user.fold([Seen("a", START), Seen("b", START)])
    keys, values = user.items.columns.index_keys, user.items.columns.index_values
    assert [own_row(user.profiles.columns, 0, place, keys, values) for place in (0, 1)] == [1, 0]
