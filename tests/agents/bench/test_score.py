"""The tables that are ranked are those of a shop, and all systems rank the same users."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from agents.bench.filled import FilledShop
from agents.bench.score import (
    SYSTEMS,
    Asking,
    N,
    System,
    candidates,
    effective_vectors,
    product_and_partition,
    recall,
    scores_only,
    timed,
    whole_call,
)
from agents.candidate_keeper import PAUSE_S
from profiles.groups import N_GROUPS
from profiles.serving import Scorer
from profiles.tokens import read_item


@pytest.fixture(scope="module")
def asking() -> Asking:
    """A small shop with a few thousand events."""
    shop = FilledShop(300, 200, 1, lambda step: None)
    for _ in range(3):
        shop.fold(1_000)
    shop.publish()
    return Asking.of(shop, seed=2)


def test_folding_has_filled_lists_groups_words_and_popularity(asking: Asking):
    model = asking.shop.view.model
    assert len(asking.shop.view) == 300
    assert model.groups.state[N_GROUPS] > 4
    assert (model.lists.forward > 0).any()
    assert model.items.counts[:300].max() > 5
    assert (model.items.text[:300, 0] >= 0).all()
    assert asking.shop.n_folded == 3_000


def test_scores_alone_give_the_lists_of_the_whole_call(asking: Asking):
    picked = slice(0, 20)
    lists = []
    for make in (whole_call, scores_only):
        made = make(asking)
        lists.append(made.as_lists(made.rank(picked)))
    assert lists[0] == lists[1]
    assert all(len(found) == 20 for found in lists[0])


def test_the_limit_finds_the_largest_products(asking: Asking):
    made = product_and_partition(asking)
    x = asking.see(Scorer(asking.shop.config), slice(None)).x
    best = np.argsort(-(effective_vectors(asking.shop) @ x[3]), kind="stable")[:20]
    ids = asking.shop.view.ids
    assert made.as_lists(made.rank(slice(3, 4))) == [[ids[row] for row in best]]


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_a_list_may_take_the_whole_catalogue(system: System):
    shop = FilledShop(N, 50, 1, lambda step: None)
    shop.fold(200)
    shop.publish()
    made = system.make(Asking.of(shop, seed=2))
    for found in made.as_lists(made.rank(slice(0, 3))):
        assert len(found) == len(set(found)) > 0


def test_effective_vectors_are_the_models(asking: Asking):
    model = asking.shop.view.model
    vectors = effective_vectors(asking.shop)
    out = np.empty(vectors.shape[1], np.float32)
    for row in (0, 7, 299):
        read_item(model.items.vectors, model.items.text, model.tokens, row, out)
        np.testing.assert_allclose(vectors[row], out, rtol=1e-4, atol=1e-5)


def test_a_thread_goes_on_folding_and_the_view_follows(asking: Asking):
    before, known = asking.shop.n_folded, asking.shop.view.n_learned
    rank = scores_only(asking).rank
    with asking.shop.folding(5_000.0):
        while asking.shop.n_folded < before + 200:
            rank(slice(0, 4))
    assert asking.shop.view.n_learned > known


def test_a_keeper_is_called_in_its_own_block_only(asking: Asking):
    called = threading.Event()
    with asking.shop.folding(0.0, lambda now_s: called.set()):
        assert called.wait(30.0)
    called.clear()
    with asking.shop.folding(1_000.0):
        assert not called.wait(2 * PAUSE_S)
    assert [system.name for system in SYSTEMS if system.make(asking).keeper] == ["candidates"]


def test_the_keeper_brings_candidates_up_to_items_that_moved(asking: Asking):
    made = candidates(asking)
    assert made.keeper is not None
    asking.shop.fold(1_000)
    asking.shop.publish()
    made.keeper(0.0)
    assert len(asking.shop.view.take_moved()) == 0


def test_what_fails_in_the_thread_is_raised(asking: Asking, monkeypatch: pytest.MonkeyPatch):
    tried = threading.Event()

    def broken(n: int) -> None:
        tried.set()
        raise ValueError(f"no {n} events")

    monkeypatch.setattr(asking.shop, "fold", broken)
    with pytest.raises(ValueError, match="events"), asking.shop.folding(1e6):
        assert tried.wait(30.0)


def test_every_call_is_timed_and_every_list_counted():
    seen: list[slice] = []
    run = timed(seen.append, size=4, n_asking=10, seconds=0.0)
    assert len(run.took_s) == 2
    assert run.n_lists == 8
    assert seen == [slice(0, 4), slice(0, 4), slice(4, 8)]


def test_systems_have_names_of_their_own():
    assert len({system.name for system in SYSTEMS}) == len(SYSTEMS)


def test_recall_of_nothing_is_whole():
    assert recall([], []) == 1.0
