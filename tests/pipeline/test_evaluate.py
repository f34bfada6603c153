"""`evaluate --through-kafka`: a real worker ranks as the same model does without a broker."""

from typing import Any

import msgspec
import pytest

from agents.bench.bed import made_bed
from agents.evaluate import through_kafka
from agents.evaluate.several import shared
from agents.evaluate.stream import Stream, stream_of
from agents.evaluate.through_kafka import agree
from agents.simulate.shop import Shop, ShopConfig
from profiles.interactions import FIRST_OWN_CODE, Kind, Kinds
from profiles.shape import FoldConfig, ModelShape
from streams.events import Click, event_union
from streams.mappings.reader import own_kinds

KINDS = Kinds([Kind("favourite", FIRST_OWN_CODE, 0.5), Kind("share", FIRST_OWN_CODE + 1, 0.25)])


def small_shop(n: int) -> Stream:
    """Searches, clicks, carts, purchases, returns and reviews of a small shop.

    Each fifth click is of one of the shop's own kinds.
    """
    decode = msgspec.json.Decoder(event_union()).decode
    shop = Shop(ShopConfig(n_users=40, n_items=200))
    events = [decode(value) for chunk in shop.stream(n) for value in chunk.values]
    own = tuple(own_kinds(["favourite", "share"]).values())
    for number, b in enumerate([b for b, e in enumerate(events) if type(e) is Click][::5]):
        e = events[b]
        events[b] = own[number % 2](
            user_id=e.user_id, item_id=e.item_id, ts=e.ts, event_id=e.event_id
        )
    return stream_of("shop", events, shop.items(), kinds=KINDS)


@pytest.mark.timeout(300)
def test_a_worker_ranks_every_event_as_offline(
    kafka: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made_of_ours(_kafka: str | None, _redis: str | None, *rest: Any) -> Any:
        return made_bed(kafka, redis_url, *rest)

    monkeypatch.setattr(through_kafka, "made_bed", made_of_ours)
    config = FoldConfig(shape=ModelShape(n_factors=16), n_recent=4, n_uniform=4)
    agreement = agree(small_shop(900), config, KINDS)
    assert agreement.n > 300
    assert agreement.n_different == 0, agreement.first_different


@pytest.mark.timeout(300)
def test_two_workers_together_rank_every_event() -> None:
    config = FoldConfig(shape=ModelShape(n_factors=16), n_recent=4, n_uniform=4)
    together = shared(small_shop(900), config, n_workers=2, rate=500, kinds=KINDS)
    assert together.n == together.n_asked > 150
    assert together.figures["FOLD"].hr20 > 0.2  # by chance .1
