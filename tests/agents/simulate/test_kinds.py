"""Kinds of shops: reproducible, true to the rule each stands for, and the same at any pace."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from functools import cache
from typing import Any

import msgspec
import pytest

from agents.errors import UsageError
from agents.simulate.kinds import KINDS_OF_SHOPS, LEAST_ITEMS, Fashion, kind_of_shop
from agents.simulate.visits import Timing, VisitedShop
from streams.events import event_union

decode = msgspec.json.Decoder(event_union()).decode

STREAMS = {
    ("fashion", None): "6dd65dc774eec0fa",
    ("fashion", 1_000): "e501af22fc0d7aab",
    ("grocery", None): "c002325c85e04353",
    ("grocery", 1_000): "d6c8d452efdbd720",
    ("listings", None): "f8cd3e7ad1980200",
    ("listings", 1_000): "d5322ac6f1e2c8ca",
    ("longtail", None): "f512c91283a3e946",
    ("longtail", 1_000): "cef10dba42b2581c",
    ("playlist", None): "4aab734645414d1e",
    ("playlist", 1_000): "f6782066b46384af",
    ("pair", None): "1d52d753009a0229",
    ("pair", 1_000): "9911829a7c5b794b",
    ("drifting", None): "73ef243d314f7e71",
    ("drifting", 1_000): "77f9e080013f80fe",
}
"""Kind, items -> how the SHA-256 of 2,000 events begins: docs/ablations.md has figures of them."""


def events_of(name: str, n: int, seed: int = 0, timing: Timing | None = None) -> list[Any]:
    shop = VisitedShop(kind_of_shop(name, None, None, seed), seed, timing or Timing())
    return [decode(value) for chunk in shop.stream(n) for value in chunk.values]


@cache
def first_700(name: str) -> list[Any]:
    """Made once: a shop of all listings takes its time."""
    return events_of(name, 700)


@pytest.mark.parametrize("name", KINDS_OF_SHOPS)
def test_the_same_seed_gives_the_same_events_and_another_one_others(name: str) -> None:
    assert events_of(name, 700) == first_700(name)
    assert events_of(name, 700, seed=1) != first_700(name)


@pytest.mark.parametrize("name", KINDS_OF_SHOPS)
def test_the_pace_stretches_the_times_and_changes_nothing_else(name: str) -> None:
    slow = events_of(name, 200, timing=Timing(10.0, 0))
    fast = events_of(name, 200, timing=Timing(10_000.0, 0))
    assert [(e.user_id, e.item_id, e.session_id) for e in slow] == [
        (e.user_id, e.item_id, e.session_id) for e in fast
    ]
    assert (slow[-1].ts, fast[-1].ts) == (19_900, 19)


@pytest.mark.parametrize("name", KINDS_OF_SHOPS)
def test_cut_in_two_the_stream_is_the_same(name: str) -> None:
    shop = VisitedShop(kind_of_shop(name, None, None, 0), 0, Timing())
    values = [v for n in (300, 400) for chunk in shop.stream(n) for v in chunk.values]
    assert [decode(value) for value in values] == first_700(name)
    assert shop.totals.kinds.total() == 700


@pytest.mark.parametrize("name", KINDS_OF_SHOPS)
def test_every_item_is_in_the_catalogue_and_nobody_makes_two_visits_at_once(name: str) -> None:
    shop = VisitedShop(kind_of_shop(name, None, None, 0), 0, Timing())
    known = {item.item_id for item in shop.items()}
    events = [decode(value) for chunk in shop.stream(2_000) for value in chunk.values]
    assert {event.item_id for event in events} <= known
    visit: dict[str, str] = {}
    ended: set[str] = set()
    for event in events:
        if visit.get(event.user_id) != event.session_id:
            ended.add(visit.get(event.user_id, ""))
            visit[event.user_id] = event.session_id
        assert event.session_id not in ended


def test_in_fashion_what_was_popular_is_gone_soon() -> None:
    items = [event.item_id for event in events_of("fashion", 12_000)]
    early, soon, late = (Counter(items[at : at + 500]) for at in (4_000, 4_500, 11_000))
    top = {item for item, _ in early.most_common(10)}
    assert sum(soon[item] for item in top) > 3 * sum(late[item] for item in top)


def test_in_the_grocery_people_buy_the_same_things_again() -> None:
    had: dict[str, set[str]] = defaultdict(set)
    again = []
    for number, event in enumerate(events_of("grocery", 30_000)):
        if number > 20_000:
            again.append(event.item_id in had[event.user_id])
        had[event.user_id].add(event.item_id)
    assert sum(again) / len(again) > 0.6


def test_among_listings_most_things_are_looked_at_a_few_times_only() -> None:
    counts = Counter(event.item_id for event in events_of("listings", 10_000))
    assert sorted(counts.values())[len(counts) // 2] <= 10
    assert len(counts) > 500


def test_on_a_playlist_one_track_has_mostly_one_next() -> None:
    after: dict[str, Counter[str]] = defaultdict(Counter)
    last: dict[str, str] = {}
    for event in events_of("playlist", 20_000):
        if event.session_id in last:
            after[last[event.session_id]][event.item_id] += 1
        last[event.session_id] = event.item_id
    most = sum(nexts.most_common(1)[0][1] for nexts in after.values())
    assert 0.4 < most / sum(nexts.total() for nexts in after.values()) < 0.8


def test_two_users_make_all_of_the_pair_shop() -> None:
    assert {event.user_id for event in events_of("pair", 500)} == {"u0", "u1"}


def test_in_the_drifting_shop_popular_items_change() -> None:
    items = [event.item_id for event in events_of("drifting", 200_000)]
    first, last = Counter(items[:20_000]), Counter(items[-20_000:])
    top = [item for item, _ in first.most_common(100)]
    assert sum(last[item] for item in top) < 0.7 * sum(first[item] for item in top)


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(UsageError, match="--shop bazaar: there are mixed, fashion"):
        kind_of_shop("bazaar", None, None, 0)


@pytest.mark.parametrize("name", KINDS_OF_SHOPS)
def test_one_user_and_few_items_are_enough(name: str) -> None:
    shop = VisitedShop(kind_of_shop(name, 1, LEAST_ITEMS.get(name, 1), 0), 0, Timing())
    assert sum(len(chunk) for chunk in shop.stream(100)) == 100


@pytest.mark.parametrize("name", LEAST_ITEMS)
def test_a_shop_of_the_fewest_items_goes_on(name: str) -> None:
    shop = VisitedShop(kind_of_shop(name, None, LEAST_ITEMS[name], 0), 0, Timing())
    assert sum(len(chunk) for chunk in shop.stream(500)) == 500


def test_who_finds_nothing_of_a_style_looks_at_something_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fashion, "patience", 2_000)
    kind = Fashion(20, 100, 0)
    kind.category = [0] * 100
    kind._style = [(1, 2)] * 20  # of which there is nothing
    shop = VisitedShop(kind, 0, Timing())
    assert sum(len(chunk) for chunk in shop.stream(300)) == 300


@pytest.mark.parametrize("name", LEAST_ITEMS)
def test_too_few_items_are_refused_by_the_least(name: str) -> None:
    with pytest.raises(UsageError, match=f"--items 99: --shop {name} needs 100"):
        kind_of_shop(name, None, 99, 0)


@pytest.mark.parametrize(("name", "n_items"), STREAMS)
def test_a_stream_that_was_measured_is_still_the_same(name: str, n_items: int | None) -> None:
    shop = VisitedShop(kind_of_shop(name, None, n_items, 1), 1, Timing())
    digest = hashlib.sha256()
    for chunk in shop.stream(2_000):
        for value in chunk.values:
            digest.update(value + b"\n")
    assert digest.hexdigest().startswith(STREAMS[name, n_items])
