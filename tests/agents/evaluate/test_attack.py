"""Fake users: honest users are asked the same, and lose little to a ring that pushes one item."""

from __future__ import annotations

import msgspec
import numpy as np

from agents.evaluate.attack import _mixed, attacked
from agents.evaluate.protocol import asked
from agents.evaluate.stream import Stream, stream_of
from agents.simulate.ring import Ring, RingConfig
from agents.simulate.shop import Shop, ShopConfig
from profiles.shape import FoldConfig, ModelShape
from streams.events import event_union


def small_shop(n: int) -> Stream:
    decode = msgspec.json.Decoder(event_union()).decode
    shop = Shop(ShopConfig(n_users=100, n_items=200))
    events = [decode(value) for chunk in shop.stream(n) for value in chunk.values]
    return stream_of("shop", events, shop.items())


def test_honest_events_keep_their_order_and_what_was_before_them() -> None:
    stream = small_shop(1_000)
    at = int(asked(stream)[0])
    ring = Ring(RingConfig(stream.item_ids[3], tuple(stream.item_ids[:2]), n_users=40), seed=0)
    mixed, honest_at = _mixed(stream, ring, 80, at, None)
    assert len(mixed) == len(stream) + ring.n_events
    assert [mixed.events[b] for b in honest_at] == stream.events
    fake = np.ones(len(mixed), np.bool_)
    fake[honest_at] = False
    users = [mixed.events[b].user_id for b in np.flatnonzero(fake)]
    assert len(set(users)) == 40
    assert all(map(ring.is_fake, users))
    assert np.flatnonzero(fake)[0] >= at
    times = [event.ts for event in mixed.events]
    assert times == sorted(times)
    for name in ("current", "n_earlier", "n_had", "n_seen", "new"):
        assert (getattr(mixed, name)[honest_at] == getattr(stream, name)).all(), name


def test_a_ring_gets_its_item_shown_and_honest_users_lose_little() -> None:
    config = FoldConfig(shape=ModelShape(n_factors=16), n_recent=4, n_uniform=4)
    outcome = attacked(small_shop(6_000), config, n_fakes=150)
    assert outcome.fakes == 150
    assert 450 <= outcome.fake_events <= 750
    assert outcome.without.n == outcome.with_ring.n
    assert outcome.shown_with > outcome.shown_without  # it does push
    assert outcome.drift > outcome.drift_beside
    assert outcome.loss <= 0.02, outcome
