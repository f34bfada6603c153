"""A ring of fake users: good events one by one, seeded, a third of the clicks on the target."""

from __future__ import annotations

import json

from agents.simulate.ring import Ring, RingConfig
from streams.codec import EventCodec

CONFIG = RingConfig("i7", ("i1", "i2"), n_users=30)


def test_every_event_of_a_ring_is_a_good_one() -> None:
    codec = EventCodec()
    for key, value in Ring(CONFIG, 3).messages(500, 1_750_000_000_000):
        assert codec.decode(value, key, ()).event.user_id.startswith("ring")


def test_the_same_seed_gives_the_same_ring_and_goes_on_where_it_was() -> None:
    one, other = Ring(CONFIG, 3), Ring(CONFIG, 3)
    assert list(one.messages(200, 5)) == list(other.messages(200, 5))
    ids = [json.loads(value)["event_id"] for _, value in one.messages(200, 5)]
    assert not set(ids) & {
        json.loads(value)["event_id"] for _, value in Ring(CONFIG, 3).messages(1, 5)
    }
    assert list(Ring(CONFIG, 4).messages(50, 5)) != list(Ring(CONFIG, 3).messages(50, 5))


def test_the_target_has_its_share_of_the_clicks_and_all_purchases() -> None:
    events = [json.loads(value) for _, value in Ring(CONFIG, 1).messages(3_000, 0)]
    clicks = [event["item_id"] for event in events if event["type"] == "click"]
    assert 0.3 < clicks.count("i7") / len(clicks) < 0.36
    assert {event["item_id"] for event in events if event["type"] == "purchase"} == {"i7"}
    assert len({event["user_id"] for event in events}) == 30
