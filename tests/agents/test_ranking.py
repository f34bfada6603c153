"""From records to lists: what is left out, in which order, and why."""

from __future__ import annotations

import numpy as np
import pytest

from agents.list_json import _write, warmup
from agents.metrics import Metrics
from agents.ranking import Ranking, RankingRules
from agents.translate import query_tokens
from profiles.errors import RecordCorrupt
from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.hashing import item_hash
from profiles.interactions import Kinds
from profiles.items import ItemTable
from profiles.profile import HistoryEntry, Profile
from profiles.record import encode_profile
from profiles.reference import OneInteraction, columns_of
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.view import ItemView

SHAPE = ModelShape(n_factors=4, history=4)
CONFIG = FoldConfig(shape=SHAPE)
ITEMS = [f"i{n}" for n in range(8)]
KINDS = Kinds()


class Stock:
    """What `Ranking` asks of a catalogue."""

    def __init__(self, *out_of_stock: str) -> None:
        self.out_of_stock = set(out_of_stock)
        self.version = 0


def a_view() -> ItemView:
    view, table = ItemView(SHAPE, CONFIG), ItemTable(SHAPE, CONFIG)
    table.describe(dict.fromkeys(ITEMS, describe()))
    view.apply(table.take_delta())
    return view


def a_record(view: ItemView, *past: tuple[str, str], likes: str = "i0") -> bytes:
    """A profile with a history (item, kind), newest first, whose long-term vector is an item's."""
    row = view.row(likes)
    assert row is not None
    return encode_profile(
        Profile(
            first_ms=1,
            last_ms=9,
            last_offset=7,
            n_by_kind={0: len(past)},
            history=[
                HistoryEntry(item_hash(item), 9 - number, 1.0, KINDS[kind].code)
                for number, (item, kind) in enumerate(past)
            ],
            long_term=np.array(view.vectors[row] * 10, np.float32),
            long_term_sum=1.0,
        ),
        SHAPE,
    )


def ranking(view: ItemView, stock: Stock | None = None, **rules: object) -> Ranking:
    return Ranking(view, stock, KINDS, RankingRules(**rules))  # type: ignore[arg-type]


def ids(ranked: object) -> list[str]:
    return [item.item_id for item in ranked.items]  # type: ignore[attr-defined]


def test_the_list_is_the_exact_order_of_scores() -> None:
    view = a_view()
    record = a_record(view, ("i7", "click"))
    (ranked,) = ranking(view).rank(["u"], [record], 100)
    assert set(ids(ranked)) == set(ITEMS) - {"i7"}
    scores = [item.score for item in ranked.items]
    assert scores == sorted(scores, reverse=True)
    assert [item.rank for item in ranked.items] == list(range(1, 8))
    assert ids(ranked)[0] == "i0"
    assert ranked.profile_offset == 7


def test_what_was_looked_at_last_is_left_out_and_what_was_bought_if_wanted() -> None:
    view = a_view()
    record = a_record(view, ("i1", "click"), ("i2", "purchase"), ("i3", "click"))

    def listed(**rules: object) -> set[str]:
        return set(ids(ranking(view, **rules).rank(["u"], [record], 100)[0]))

    assert set(ITEMS) - listed() == {"i1"}
    assert set(ITEMS) - listed(exclude_current=False) == set()
    assert set(ITEMS) - listed(exclude_bought=True) == {"i1", "i2"}


def test_what_is_out_of_stock_is_left_out_also_when_that_changes() -> None:
    view, stock = a_view(), Stock("i4", "not seen yet")
    ranker = ranking(view, stock)
    (first,) = ranker.rank(["u"], [None], 100)
    assert set(ITEMS) - set(ids(first)) == {"i4"}
    stock.out_of_stock = {"i5"}
    stock.version += 1
    (second,) = ranker.rank(["u"], [None], 100)
    assert set(ITEMS) - set(ids(second)) == {"i5"}
    (third,) = ranking(view, stock, exclude_out_of_stock=False).rank(["u"], [None], 100)
    assert set(ids(third)) == set(ITEMS)


def test_users_of_one_call_do_not_mix() -> None:
    view = a_view()
    records = [a_record(view, (f"i{n}", "click"), likes=f"i{n + 1}") for n in range(6)]
    users = [f"u{n}" for n in range(6)]
    together = ranking(view).rank([*users, "new"], [*records, None], 3)
    alone = [ranking(view).rank([u], [r], 3)[0] for u, r in zip(users, records, strict=True)]
    assert together[:6] == alone
    assert together[6].profile_offset is None


def test_reasons_are_past_events_with_a_positive_share() -> None:
    view = a_view()
    record = a_record(view, ("i1", "purchase"), ("i2", "click"), likes="i1")
    (ranked,) = ranking(view, exclude_current=False, n_reasons=1).rank(["u"], [record], 100)
    reasons = [reason for item in ranked.items for reason in item.reasons]
    assert reasons
    assert {reason.item_id for reason in reasons} <= {"i1", "i2"}
    assert all(len(item.reasons) <= 1 for item in ranked.items)
    assert all(0 < reason.share <= 1 for reason in reasons)
    kinds = {reason.item_id: (reason.kind, reason.ts) for reason in reasons}
    assert kinds["i1"] == ("purchase", 9)
    (without,) = ranking(view, n_reasons=0).rank(["u"], [record], 100)
    assert not any(item.reasons for item in without.items)


def test_a_share_that_is_no_number_is_not_written() -> None:
    view = a_view()
    record = a_record(view, ("i1", "click"), likes="i1")
    for row, wrong in ((2, np.nan), (3, np.inf), (4, 1e38)):
        view.model.items.vectors[row] = wrong * np.sign(view.model.items.vectors[1])
    ranked = ranking(view).rerank("u", record, ["i2", "i3", "i4", "i5"])
    assert {"i2", "i3", "i4", "i5"} == set(ids(ranked))


def test_an_item_that_lost_its_entry_is_not_listed_and_still_ordered() -> None:
    view, table = ItemView(SHAPE, CONFIG), ItemTable(SHAPE, CONFIG)
    table.describe(dict.fromkeys(ITEMS, describe()))
    view.apply(table.take_delta())
    ranker = ranking(view, Stock("i4"))
    assert set(ITEMS) - set(ids(ranker.rank(["u"], [None], 100)[0])) == {"i4"}
    table.describe({"i3": None})
    view.apply(table.take_delta())
    assert set(ITEMS) - set(ids(ranker.rank(["u"], [None], 100)[0])) == {"i3", "i4"}
    assert ids(ranker.rerank("u", a_record(view, likes="i3"), ["x", "i5", "i3"])) == [
        "i3", "i5", "x",
    ]  # fmt: skip


def test_rerank_keeps_candidates_once_and_puts_strangers_last() -> None:
    view = a_view()
    record = a_record(view, ("i7", "click"), likes="i3")
    ranked = ranking(view).rerank("u", record, ["x", "i5", "i3", "y", "i5"])
    assert ids(ranked)[0] == "i3"
    assert ids(ranked)[1:] == ["i5", "x", "y"]
    assert [item.rank for item in ranked.items] == [1, 2, 3, 4]
    assert ids(ranking(view).rerank("u", record, ["x", "i5", "i3"], n=1)) == ["i3"]
    assert ids(ranking(view).rerank("u", None, ["x", "y"])) == ["x", "y"]


def test_whatever_is_ranked_is_written_by_one_compiled_function() -> None:
    warmup()
    view = a_view()
    record = a_record(view, ("i7", "click"))
    ranker = ranking(view)
    ranker.rank(["u", "v"], [record, None], 3)
    ranker.rerank("u", record, ["i5", "x", "i3"])
    signatures = getattr(_write, "signatures", [()])  # none with NUMBA_DISABLE_JIT=1
    assert len(signatures) == 1


def test_rerank_goes_by_the_query_and_the_time_of_the_request() -> None:
    view, table = ItemView(SHAPE, CONFIG), ItemTable(SHAPE, CONFIG)
    profiles = ProfileTable(SHAPE)
    profiles.load(["a", "b"], [None, None])
    words = {word: tuple(query_tokens(word, 8)) for word in ("lamp", "rug")}
    stream = [
        OneInteraction(
            "ab"[number % 2],
            f"i{number % 2}",
            number,
            number,
            tokens=words[["lamp", "rug"][number % 2]],
        )
        for number in range(20)
    ]
    fold_batch(profiles, table, columns_of(stream, 0, profiles, table), CONFIG, 0)
    view.apply(table.take_delta())
    ranker = ranking(view)
    for query, first in (("lamp", "i0"), ("rug", "i1"), ("Lamp!", "i0")):
        assert ids(ranker.rerank("u", None, ["i0", "i1"], asked_ms=30, query=query))[0] == first


def test_a_delta_waits_while_somebody_reads() -> None:
    table = ItemTable(SHAPE, CONFIG)
    view = a_view()
    n_restarts = view.n_restarts
    table.intern(["x"])
    with view.reading():
        view.apply(table.take_delta())
        assert view.ids == ITEMS
    assert (view.ids, view.n_restarts) == (["x"], n_restarts + 1)


def test_an_empty_shop_gives_empty_lists() -> None:
    view = ItemView(SHAPE, CONFIG)
    assert [ids(one) for one in ranking(view).rank(["u", "v"], [None, None], 5)] == [[], []]
    assert ranking(view).rank([], [], 5) == []


def test_a_record_that_is_none_is_named() -> None:
    with pytest.raises(RecordCorrupt, match="'u9'"):
        ranking(a_view()).rank(["u9"], [b"\x01nonsense"], 5)


def test_metrics_of_unreadable_profiles_are_there_for_the_scorer() -> None:
    registry = Metrics().registry
    assert registry.get_sample_value("foldstream_profiles_unreadable_total") == 0
