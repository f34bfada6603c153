"""Lists of a large catalogue as the scorer makes them: kept up beside it, and by its rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agents.candidate_keeper import CandidateKeeper
from agents.list_json import Ranked
from agents.ranking import Ranking, RankingRules
from profiles.candidates import Candidates
from profiles.interactions import Kinds
from tests.agents.test_ranking import Stock, ids
from tests.builders import until
from tests.profiles.shops import Shop, a_learned_shop

USERS = [f"u{number}" for number in range(60)]

pytestmark = pytest.mark.timeout(900)  # compiles kernels, when nobody did before


@pytest.fixture(scope="module")
def learned() -> Shop:
    """Only read by the tests."""
    return a_learned_shop(8_000, 20_000, described=True)


def records(shop: Shop) -> list[bytes]:
    return shop.profiles.pack(shop.profiles.rows(USERS))


def ranked(shop: Shop, candidates: Candidates | None, stock: Stock | None = None) -> list[Ranked]:
    ranking = Ranking(shop.view, stock, Kinds(), RankingRules(), candidates)  # type: ignore[arg-type]
    return ranking.rank(USERS, records(shop), 20)


@asynccontextmanager
async def kept(candidates: Candidates) -> AsyncIterator[CandidateKeeper]:
    keeper = CandidateKeeper(candidates)
    await keeper.start()
    try:
        yield keeper
    finally:
        await asyncio.wait_for(keeper.stop(), 10)


async def is_ready(candidates: Candidates) -> bool:
    return candidates.ready is not None


def test_lists_by_candidates_are_those_of_all_items_but_for_a_few(learned: Shop) -> None:
    candidates = Candidates(learned.view, exact_items=0, n_read=1_000)
    assert ranked(learned, candidates) == ranked(learned, None)  # until the first refresh
    candidates.refresh(0)
    exact, found = ranked(learned, None), ranked(learned, candidates)
    shared = [len({*ids(a)} & {*ids(b)}) for a, b in zip(exact, found, strict=True)]
    assert sum(shared) >= 0.9 * 20 * len(USERS)
    for one, of in zip(exact, found, strict=True):
        assert of.profile_offset == one.profile_offset
        scores = {item.item_id: item for item in one.items}
        for item in of.items:
            if item.item_id in scores:  # the score is the full one, and so are the reasons
                assert item.score == pytest.approx(scores[item.item_id].score, abs=0.05)
                assert [why.item_id for why in item.reasons] == [
                    why.item_id for why in scores[item.item_id].reasons
                ]


def test_the_rules_hold_for_candidates_too(learned: Shop) -> None:
    candidates = Candidates(learned.view, exact_items=0)
    candidates.refresh(0)
    before = [ids(one) for one in ranked(learned, candidates)]
    gone = {one[0] for one in before}
    rows = learned.profiles.rows(USERS)
    last = learned.view.rows_of_hashes(learned.profiles.columns.history_hash[rows, 0].tolist())
    now = [ids(one) for one in ranked(learned, candidates, Stock(*gone))]
    for one, row in zip(now, last.tolist(), strict=True):
        assert len(one) == 20
        assert not gone & {*one}
        assert learned.view.ids[row] not in one


async def test_candidates_follow_the_shop_while_it_moves() -> None:
    shop = a_learned_shop(4_000, 4_000, described=False)
    candidates = Candidates(shop.view, exact_items=4_100)
    async with kept(candidates):
        await asyncio.sleep(0.6)
        assert candidates.ready is None  # every item of a catalogue of this size is scored
        shop.arrive(500, described=False)

        async def grown() -> bool:
            ready = candidates.ready
            return ready is not None and len(ready.built.vectors) == 4_500

        await until(grown, "candidates of a catalogue that grew", within_s=60)
        shop.arrive(300, described=False)

        async def followed() -> bool:
            ready = candidates.ready
            return ready is not None and len(ready.built.vectors) == 4_800

        await until(followed, "candidates of what came later", within_s=60)


async def test_a_refresh_that_fails_is_not_the_last(
    learned: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = Candidates(learned.view, exact_items=0)
    refresh, n_failed = candidates.refresh, 0

    def fails_at_first(now_s: float) -> None:
        nonlocal n_failed
        if n_failed < 2:
            n_failed += 1
            raise MemoryError("no room for cells")
        refresh(now_s)

    monkeypatch.setattr(candidates, "refresh", fails_at_first)
    async with kept(candidates):
        await until(lambda: is_ready(candidates), "candidates after two failures", within_s=60)
    assert n_failed == 2


async def test_a_stop_waits_for_no_refresh_and_leaves_what_is_ready(learned: Shop) -> None:
    candidates = Candidates(learned.view, exact_items=0)
    async with kept(candidates):
        await asyncio.sleep(0.01)  # the first refresh is under way, or done
    as_it_was = candidates.ready
    candidates.refresh(100.0)
    assert candidates.ready is as_it_was
