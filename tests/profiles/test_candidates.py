"""Lists of candidates against exact ones: on tables that learned from shoppers, while they move."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from numpy.typing import NDArray

from profiles.blend import ALL
from profiles.candidates import KNOWN_S, SWEEP, Candidates
from profiles.serving import NO_ROW, Scorer, Users
from profiles.terms import DOT
from profiles.vector_index import read_items
from tests.profiles.shops import Shop, a_learned_shop

N_ITEMS = 16_000
N_READ = 600
"""Few against the items: as many as it takes to be wrong if the cells were."""

pytestmark = pytest.mark.timeout(900)  # compiles kernels, when nobody did before


@pytest.fixture(params=[False, True], ids=["plain", "described"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return a_learned_shop(N_ITEMS, 40_000, described=request.param)


def ready(shop: Shop, n_read: int = N_READ, n_best: int = 128) -> Candidates:
    candidates = Candidates(shop.view, exact_items=0, n_read=n_read, n_best=n_best)
    candidates.refresh(0)
    return candidates


def users_of(shop: Shop, n: int = 100) -> Users:
    rows = shop.profiles.rows([f"u{number}" for number in range(n)])
    times = shop.profiles.columns.last_ms[rows]
    sessions = np.zeros(n, np.uint32)
    return Scorer(shop.config).users(shop.view.model, shop.profiles.columns, rows, times, sessions)


Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


def lists(shop: Shop, candidates: Candidates | None, n: int = 20) -> Lists:
    users = users_of(shop)
    scorer, columns = Scorer(shop.config), shop.profiles.columns
    return scorer.top_k(shop.view, columns, users, None, n, candidates=candidates)


def recall(shop: Shop, candidates: Candidates) -> float:
    """Of the exact lists of 20, how much those of candidates hold."""
    assert candidates.ready is not None
    exact, found = lists(shop, None)[0], lists(shop, candidates)[0]
    return float(np.mean([np.isin(one, of).mean() for one, of in zip(exact, found, strict=True)]))


def test_lists_of_candidates_hold_what_exact_ones_hold(shop: Shop) -> None:
    candidates = ready(shop)
    assert recall(shop, candidates) < 1, "so few items read that nothing is tested"
    assert recall(shop, candidates) >= 0.9


def test_they_do_by_vectors_alone(shop: Shop) -> None:
    shop.items.blend.theta[:] = 0
    shop.items.blend.theta[ALL, DOT] = 1
    shop.view.apply(shop.items.take_delta())
    by_vectors = recall(shop, ready(shop, n_read=N_ITEMS // 6))
    assert by_vectors >= 0.8  # the plain shop's items have two clicks each: half of it is chance
    assert by_vectors > recall(shop, ready(shop, n_read=0)) + 0.1


def test_with_every_item_as_a_candidate_the_lists_are_exact(shop: Shop) -> None:
    shop.shop(500)
    exact_rows, exact = lists(shop, None, 30)
    rows, best = lists(shop, ready(shop, N_ITEMS, N_ITEMS), 30)
    # What is said of items alone is made for the moment here, some positives ago there.
    np.testing.assert_allclose(best, exact, atol=0.05)
    shop.view._base = None
    exact_rows, exact = lists(shop, None, 30)
    np.testing.assert_allclose(best, exact, rtol=1e-4, atol=1e-4)
    differ = rows != exact_rows
    assert differ.mean() < 0.01  # such as differ have the same score, but for rounding
    assert (rows != NO_ROW).all()


def test_they_follow_a_shop_that_moves(shop: Shop) -> None:
    candidates = ready(shop)
    for second in range(1, 6):
        shop.arrive(200, described=second % 2 == 0)
        shop.shop(4_000)
        assert recall(shop, candidates) >= 0.9  # as it was a moment ago
        candidates.refresh(second * KNOWN_S)
        assert recall(shop, candidates) >= 0.9


def test_the_index_is_where_the_items_are(shop: Shop) -> None:
    candidates = ready(shop)
    shop.arrive(700, described=True)
    shop.shop(6_000)
    for _ in range(SWEEP + 1):  # tokens have moved items that nobody touched
        candidates.refresh(1)
    found = candidates.ready
    assert found is not None
    assert len(found.built.vectors) == len(shop.view)
    cells, rows = found.built.vectors.cells, np.arange(len(shop.view), dtype=np.int32)
    place = cells.place[: len(rows)]
    assert (cells.row.ravel()[place] == rows).all()
    E = read_items(shop.view.model, rows)
    near = cells.code.reshape(-1, E.shape[1])[place] * cells.scale.ravel()[place][:, None]
    np.testing.assert_allclose(near, E, atol=np.abs(E).max() / 127)
    of = np.bincount(cells.of[place // cells.row.shape[1]], minlength=len(cells.n))
    assert (of == cells.n).all()
    far = ((E - cells.middle[cells.of[place // cells.row.shape[1]]]) ** 2).sum(axis=1)
    least = ((E[:, None, :] - cells.middle[None]) ** 2).sum(axis=2).min(axis=1)
    assert np.median(far / least) < 1.05  # most are in the nearest cell, and none far off
    assert (far <= 4 * least + 1).all()


def test_a_new_item_that_everybody_takes_is_listed_after_a_refresh(shop: Shop) -> None:
    candidates = ready(shop)
    shop.arrive(1, described=False)
    item = shop.n_items - 1
    shop.rush(item, 3_000)
    wanted = (lists(shop, None)[0] == item).any(axis=1)
    assert wanted.mean() > 0.5
    candidates.refresh(2 * KNOWN_S)
    listed = (lists(shop, candidates)[0] == item).any(axis=1)
    assert listed[wanted].mean() >= 0.9


def test_what_may_not_be_listed_is_not(shop: Shop) -> None:
    candidates = ready(shop)
    columns, scorer, users = shop.profiles.columns, Scorer(shop.config), users_of(shop)
    before = lists(shop, candidates)[0]
    gone, out_of_stock = before[:, 0], before[:, 1]
    out = [one[2:4].astype(np.int64) for one in before]
    out[5] = np.array([NO_ROW, before[5, 2]])
    allowed = np.ones(len(shop.view), np.bool_)
    allowed[out_of_stock] = False
    shop.items.describe(dict.fromkeys([shop.items.ids[row] for row in gone]))
    shop.view.apply(shop.items.take_delta())
    for n in (20, 60):
        rows, best = scorer.top_k(shop.view, columns, users, out, n, allowed, candidates)
        exact, _ = scorer.top_k(shop.view, columns, users, out, n, allowed)
        assert not np.isin(rows, gone).any()
        assert not np.isin(rows, out_of_stock).any()
        assert not any(np.isin(of, one).any() for of, one in zip(rows, out, strict=True))
        assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, rows, strict=True)]) >= 0.9
        assert (np.diff(best, axis=1) <= 0).all()
        assert all(len(set(of)) == n for of in rows.tolist())


def test_a_table_that_was_replaced_is_scored_whole_until_it_has_candidates(shop: Shop) -> None:
    candidates = ready(shop)
    other = a_learned_shop(2_000, 4_000, described=False)
    shop.items, shop.profiles = other.items, other.profiles
    shop.items.mark_unsaved()
    shop.items.columns.changed[: len(shop.items)] |= 1
    shop.view._reset()
    shop.view.apply(restarted(shop))
    assert candidates.ready is None
    exact = lists(shop, None)[0]
    assert (lists(shop, candidates)[0] == exact).all()
    candidates.refresh(1)
    assert recall(shop, candidates) >= 0.9


def restarted(shop: Shop):  # type: ignore[no-untyped-def]
    """A delta of a whole table, as after a restart."""
    from profiles.items import ItemTable

    snapshot = shop.items.snapshot(full=True)
    shop.items = ItemTable.restore(shop.config.shape, shop.config, snapshot.header, snapshot.chunks)
    return shop.items.take_delta()


def test_few_items_are_scored_whole() -> None:
    shop = a_learned_shop(800, 2_000, described=False)
    candidates = Candidates(shop.view, exact_items=800)
    candidates.refresh(0)
    assert candidates.ready is None
    shop.arrive(1, described=False)
    candidates.refresh(1)
    assert candidates.ready is not None


def test_a_list_that_candidates_do_not_fill_is_exact() -> None:
    """Most is sold out, and somebody new has no vector that leads anywhere."""
    shop = a_learned_shop(N_ITEMS, 4_000, described=False)
    candidates = ready(shop, n_read=10)
    users = users_of(shop)._replace(x=np.zeros((100, shop.config.shape.n_factors), np.float32))
    allowed = np.zeros(N_ITEMS, np.bool_)
    listed = np.unique(lists(shop, None)[0])
    allowed[np.setdiff1d(np.flatnonzero(shop.view.rankable), listed)[-30:]] = True
    scorer, columns = Scorer(shop.config), shop.profiles.columns
    exact = scorer.top_k(shop.view, columns, users, None, 20, allowed)
    found = scorer.top_k(shop.view, columns, users, None, 20, allowed, candidates)
    assert (exact[0] != NO_ROW).all()
    assert (found[0] == exact[0]).all()


def test_the_contexts_of_those_who_ask_are_known_from_the_next_refresh_on(shop: Shop) -> None:
    """Also of those who asked before anything was ready."""
    candidates = Candidates(shop.view, exact_items=0, n_read=N_READ)
    lists(shop, candidates)
    candidates.refresh(0)
    assert candidates.ready is not None
    assert set(map(tuple, users_of(shop).parts.tolist())) <= set(candidates.ready.context)


def test_a_refresh_is_cut_short_by_a_stop() -> None:
    shop = a_learned_shop(800, 2_000, described=False)
    candidates = Candidates(shop.view, exact_items=0)
    candidates.stop()
    candidates.refresh(0)
    assert candidates.ready is None


def test_candidates_are_kept_up_beside_readers_and_deltas(shop: Shop) -> None:
    candidates, stop = ready(shop), threading.Event()
    errors: list[BaseException] = []

    def again_and_again(work) -> None:  # type: ignore[no-untyped-def]
        try:
            second = 0.0
            while not stop.is_set():
                second += KNOWN_S / 4
                work(second)
        except BaseException as error:  # noqa: BLE001  # for the thread that asserts
            errors.append(error)

    def read(_: float) -> None:
        with shop.view.reading():
            rows, _best = readers_scorer.top_k(
                shop.view, shop.profiles.columns, users, None, 20, candidates=candidates
            )
            assert (rows < len(shop.view)).all()
            assert (rows >= 0).all()

    readers_scorer, users = Scorer(shop.config), users_of(shop)
    threads = [
        threading.Thread(target=again_and_again, args=(work,))
        for work in (candidates.refresh, read)
    ]
    for thread in threads:
        thread.start()
    for _ in range(8):
        shop.arrive(100, described=True)
        shop.shop(2_000)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    candidates.refresh(10**6)
    assert recall(shop, candidates) >= 0.9
