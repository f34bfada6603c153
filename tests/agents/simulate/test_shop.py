"""The simulated shop: reproducible, skewed, faulty as ordered, and true to its ground truth."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from agents.errors import UsageError
from agents.simulate.shop import Shop, ShopConfig
from streams.codec import EventCodec
from streams.errors import DecodeError


def sent(shop: Shop, n_events: int) -> list[tuple[bytes, bytes]]:
    return [
        pair
        for chunk in shop.stream(n_events)
        for pair in zip(chunk.keys, chunk.values, strict=True)
    ]


def decoded(messages: list[tuple[bytes, bytes]]) -> tuple[list[Any], Counter[str]]:
    codec, events, refused = EventCodec(), [], Counter[str]()
    for key, value in messages:
        try:
            events.append(codec.decode(value, key, []).event)
        except DecodeError as error:
            refused[error.code] += 1
    return events, refused


def test_the_same_configuration_gives_the_same_bytes() -> None:
    config = ShopConfig(late=0.05, repeat=0.05, malformed=0.05)
    assert sent(Shop(config), 5_000) == sent(Shop(config), 5_000)


def test_another_seed_gives_another_shop() -> None:
    assert sent(Shop(ShopConfig(seed=1)), 100) != sent(Shop(ShopConfig(seed=2)), 100)


def test_without_faults_every_message_is_an_event_in_time_order() -> None:
    events, refused = decoded(sent(Shop(ShopConfig()), 5_000))
    assert not refused
    assert len({event.event_id for event in events}) == len(events) == 5_000
    times = [event.ts for event in events]
    assert times == sorted(times)
    assert times[-1] - times[0] == 4_999 * 10  # 100 events a second


def test_every_kind_of_event_occurs_and_is_counted() -> None:
    shop = Shop(ShopConfig(n_users=200))
    events, _ = decoded(sent(shop, 20_000))
    kinds = Counter(type(event).__name__.lower() for event in events)
    assert set(kinds) == {"click", "cart", "purchase", "return", "review", "search"}
    assert kinds == shop.totals.kinds


def test_faults_come_at_their_rates_and_every_event_arrives() -> None:
    shop = Shop(ShopConfig(late=0.1, repeat=0.05, malformed=0.02))
    events, refused = decoded(sent(shop, 20_000))
    totals = shop.totals
    assert totals.late == pytest.approx(2_000, rel=0.1)
    assert totals.repeated == pytest.approx(1_000, rel=0.15)
    assert totals.malformed == pytest.approx(400, rel=0.2)
    assert refused.total() == totals.malformed  # each bad one is refused, and no other
    assert len(events) == 20_000 + totals.repeated
    assert len({event.event_id for event in events}) == 20_000
    newest = np.maximum.accumulate([event.ts for event in events])
    assert sum(event.ts < top for event, top in zip(events, newest, strict=True)) > 1_000


def test_a_repeat_never_comes_before_its_original() -> None:
    shop = Shop(ShopConfig(late=0.2, repeat=0.2))
    values = [value for _, value in sent(shop, 5_000)]
    repeats = len(values) - len(set(values))
    assert repeats == shop.totals.repeated


def test_few_items_take_most_of_the_events() -> None:
    events, _ = decoded(sent(Shop(ShopConfig(n_items=2_000)), 20_000))
    counts = Counter(event.item_id for event in events if hasattr(event, "item_id"))
    top = sum(count for _, count in counts.most_common(200))
    assert 0.3 < top / counts.total() < 0.9


def test_carts_and_purchases_are_of_the_item_just_clicked() -> None:
    events, _ = decoded(sent(Shop(ShopConfig(aftermath=0.0)), 10_000))
    last: dict[str, str] = {}
    for event in events:
        kind = type(event).__name__
        if kind in ("Cart", "Purchase"):
            assert event.item_id == last[event.session_id]
        elif kind == "Click":
            last[event.session_id] = event.item_id


def test_searches_are_words_of_titles() -> None:
    shop = Shop(ShopConfig())
    titles = {item.title for item in shop.items()}
    events, _ = decoded(sent(shop, 2_000))
    queries = [event.query for event in events if type(event).__name__ == "Search"]
    assert queries
    assert all(any(query in title for title in titles if title) for query in queries)


def test_shoppers_click_what_they_truly_like() -> None:
    shop = Shop(ShopConfig(n_users=50, n_items=300))
    events, _ = decoded(sent(shop, 5_000))
    better = []
    for event in events:
        if type(event).__name__ == "Click":
            liking = shop.truth(event.user_id, event.ts)
            better.append((liking < liking[int(event.item_id[1:])]).mean())
    assert np.mean(better) > 0.75  # by chance 0.5


def test_tastes_drift_and_stay_put_over_minutes() -> None:
    shop = Shop(ShopConfig(drift_period_s=4_000.0))
    start = shop.config.start_ms
    first, soon, later = (shop.truth("u3", start + 1_000 * s) for s in (0, 10, 1_000))
    assert np.corrcoef(first, soon)[0, 1] > 0.99
    assert np.corrcoef(first, later)[0, 1] < 0.95


def test_good_lists_are_clicked_more_and_their_top_most() -> None:
    shop = Shop(ShopConfig(n_users=400, n_items=500))
    now = shop.time_ms()
    good, bad, places = 0, 0, Counter[int]()
    for number in range(400):
        user = f"u{number}"
        order = np.argsort(-shop.truth(user, now))
        clicked = shop.answer(user, [f"i{row}" for row in order[:10]], now, f"good{number}")
        good += len(clicked)
        places.update(clicked)
        worst = [f"i{row}" for row in order[-10:]]
        bad += len(shop.answer(user, worst, now, f"bad{number}"))
    assert good > 4 * bad
    assert places[0] > 1.5 * places[9]


def test_an_answer_depends_on_the_list_alone() -> None:
    first, second = Shop(ShopConfig()), Shop(ShopConfig())
    sent(second, 500)
    items = [f"i{row}" for row in range(50)]
    now = first.time_ms()
    assert first.answer("u1", items, now, "0/5/home") == second.answer("u1", items, now, "0/5/home")


def test_a_list_with_unknown_items_is_not_answered() -> None:
    assert Shop(ShopConfig()).answer("u1", ["other"], 0, "x") == []


def test_a_stranger_has_no_truth() -> None:
    with pytest.raises(KeyError, match="no shopper 'x'"):
        Shop(ShopConfig()).truth("x")


def test_a_shop_of_one_user_and_one_item_works() -> None:
    events, refused = decoded(sent(Shop(ShopConfig(n_users=1, n_items=1)), 50))
    assert len(events) == 50
    assert not refused


@pytest.mark.parametrize(
    ("name", "value"), [("late", 1.5), ("n_items", 0), ("events_per_s", 0.0), ("seed", -1)]
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=name):
        ShopConfig(**{name: value})


def test_catalogue_entries_fit_the_published_bounds() -> None:
    for item in Shop(ShopConfig(n_items=100)).items():
        msgspec.convert(msgspec.to_builtins(item), type(item))
