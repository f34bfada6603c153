"""Scores of whole tables are those of the terms, item by item; exact top-k."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiles import base_terms
from profiles.base_terms import BaseTerms
from profiles.blend import N_PARTS
from profiles.embedding import fill_context
from profiles.errors import DivergedError
from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.hashing import session_hash, token_hash
from profiles.interactions import BUILTIN_KINDS
from profiles.item_columns import N_LEARNED
from profiles.items import ItemTable, ItemView
from profiles.jit import compiled
from profiles.kernel import touch_items
from profiles.model import Model
from profiles.own import begins_session, minute_of
from profiles.profile import ProfileColumns
from profiles.reference import OneInteraction, columns_of
from profiles.scratch import Constants, Scratch, constants_of, scratch_for
from profiles.serving import NO_ROW, Scorer, Users
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.terms import (
    DOT,
    N_TERMS,
    write_group_terms,
    write_item_terms,
    write_touched_terms,
)
from profiles.tokens import read_item

SHAPE = ModelShape(n_factors=8, history=5)
CONFIG = FoldConfig(shape=SHAPE, n_ring=40, n_ring_short=10, n_list=6)
USERS = [f"u{number}" for number in range(6)]
WORDS = [token_hash(word) for word in ("red", "lamp", "rug")]
RETURN = next(kind.code for kind in BUILTIN_KINDS if kind.name == "return")
SEARCH = next(kind.code for kind in BUILTIN_KINDS if kind.name == "search")


def a_stream(random: np.random.Generator, n: int, n_items: int) -> list[OneInteraction]:
    """Clicks in and out of sessions, searches, repeats and returns."""
    stream, time_ms = [], 0
    for offset in range(n):
        time_ms += int(random.choice([1, 1_000, 60_000, 4_000_000]))
        user, item = str(random.choice(USERS[1:])), f"i{random.integers(n_items)}"
        one = OneInteraction(user, item, offset, time_ms)
        kind = random.random()
        if kind < 0.15:
            words = tuple(WORDS[number] for number in random.integers(3, size=2))
            one = replace(one, item_id=None, kind=SEARCH, positive=False, tokens=words)
        elif kind < 0.2:
            one = replace(one, kind=RETURN, positive=False)
        stream.append(one)
    last = replace(stream[-1], user="u1", item_id=None, kind=SEARCH, positive=False)
    stream[-1] = replace(last, tokens=(WORDS[0], WORDS[1]))
    return stream


def a_shop(
    seed: int, n: int = 150, described: bool = True
) -> tuple[ProfileTable, ItemTable, ItemView]:
    """A shop after n events, and a view that followed it by a few deltas."""
    random = np.random.default_rng(seed)
    profiles, items, view = (
        ProfileTable(SHAPE),
        ItemTable(SHAPE, CONFIG, 4),
        ItemView(SHAPE, CONFIG, 4),
    )
    profiles.load(USERS, [None] * len(USERS))
    watermark_ms = 0
    stream = a_stream(random, n, 30)
    for first in range(0, n, 25):
        if described and first in (25, 75):
            said = {f"i{number}": an_entry(random) for number in range(first % 10, 40, 3)}
            items.describe(said)
        part = columns_of(stream[first : first + 25], 0, profiles, items)
        watermark_ms = fold_batch(profiles, items, part, CONFIG, watermark_ms).watermark_ms
        view.apply(items.take_delta())
    # A young shop has learned next to nothing; scores shall show every term.
    items.blend.theta[:] += random.normal(0, 0.2, (N_PARTS, N_TERMS)).astype(np.float32)
    view.apply(items.take_delta())
    return profiles, items, view


def an_entry(random: np.random.Generator):  # type: ignore[no-untyped-def]
    return describe(
        f"{random.choice(['red', 'blue'])} {random.choice(['lamp', 'rug'])}",
        ["home", str(random.choice(["lamps", "rugs", "beds"]))][: random.integers(3)],
        str(random.choice(["alder", "birch"])) if random.random() < 0.8 else None,
        float(random.integers(1, 50)) if random.random() < 0.8 else None,
    )


@compiled
def _write_terms(
    columns: ProfileColumns, model: Model, row: int, time_ms: int, session: int, c: Constants,
    s: Scratch, phi: NDArray[np.float32],
) -> bool:  # fmt: skip
    """The terms of each item for itself, as the learner of the weights makes them, into phi."""
    fill_context(columns, model, row, c, s)
    touch_items(columns, model, row, c, s)
    begins = begins_session(columns, row, session, time_ms)
    minute = minute_of(time_ms)
    for item in range(len(phi)):
        read_item(model.items.vectors, model.items.text, model.tokens, item, s.spare)
        dot = np.float32(0)
        for k in range(len(s.x)):
            dot += s.x[k] * s.spare[k]
        phi[item, DOT] = dot
        write_item_terms(model.items, item, c.speeds, phi, item)
        write_group_terms(model.groups, model.items.facets, item, s.groups, phi, item)
        place = np.int64(s.touched.at[item]) - 1
        write_touched_terms(columns, row, begins, minute, s.touched, place, phi, item)
    return begins


def terms_of(
    model: Model, profiles: ProfileTable, row: int, time_ms: int, session: int, n: int
) -> tuple[NDArray[np.float32], bool]:
    """float32 (n, F), and whether a session begins."""
    s = scratch_for(CONFIG, len(model.items.counts), len(model.groups.counts))
    phi = np.zeros((n, N_TERMS), np.float32)
    begins = _write_terms(
        profiles.columns, model, row, time_ms, session, constants_of(CONFIG), s, phi
    )
    return phi, begins


def one_by_one(
    model: Model, profiles: ProfileTable, row: int, time_ms: int, session: int, n: int
) -> NDArray[np.float32]:
    """theta . phi of each item."""
    phi, begins = terms_of(model, profiles, row, time_ms, session, n)
    columns, theta = profiles.columns, model.blend.theta
    n_history = int(columns.n_history[row])
    weight = theta[0] + theta[1 + min(n_history, 2) + (n_history >= 5)]
    weight = weight + theta[5 if begins else 6] + theta[7 if columns.n_pending[row] else 8]
    found: NDArray[np.float32] = phi @ weight
    return found


def seen(profiles: ProfileTable, model: Model, user_ids: list[str], later_ms: int = 0) -> Users:
    """The users at the time of their newest event, or later."""
    rows = profiles.rows(user_ids)
    times = profiles.columns.last_ms[rows] + later_ms
    return Scorer(CONFIG).users(
        model, profiles.columns, rows, times, np.zeros(len(rows), np.uint32)
    )


@pytest.mark.timeout(900)  # compiles the fold and the scores, when nobody did before
@given(seed=st.integers(0, 10_000), described=st.booleans(), later_ms=st.sampled_from([0, 10**7]))
@settings(deadline=None, max_examples=20)
def test_every_item_has_the_score_of_its_terms(seed: int, described: bool, later_ms: int) -> None:
    profiles, items, view = a_shop(seed, described=described)
    rows = profiles.rows(USERS)
    session = np.full(len(rows), session_hash("s") if seed % 2 else 0, np.uint32)
    times = profiles.columns.last_ms[rows] + later_ms
    for model, base in (
        (items.model, BaseTerms(items.model, len(items), CONFIG)),
        (view.model, view.base),
    ):
        scorer = Scorer(CONFIG)
        users = scorer.users(model, profiles.columns, rows, times, session)
        S = scorer.scores(model, base, profiles.columns, users)
        for b, row in enumerate(rows.tolist()):
            expected = one_by_one(model, profiles, row, int(times[b]), int(session[b]), len(items))
            np.testing.assert_allclose(S[b], expected, rtol=1e-4, atol=1e-4)
            alone = Users(*(column[b : b + 1] for column in users))
            one = scorer.scores(model, base, profiles.columns, alone)[0]
            np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)
            some = np.array([3, 1, len(items) - 1], np.int32)
            of_some = BaseTerms(model, some, CONFIG)
            picked = scorer.scores(model, of_some, profiles.columns, alone)[0]
            np.testing.assert_allclose(picked, expected[some], rtol=1e-4, atol=1e-4)


def test_the_shop_of_these_tests_has_every_term() -> None:
    profiles, items, _ = a_shop(1)
    on = np.zeros(N_TERMS, np.bool_)
    for row in profiles.rows(USERS[1:]).tolist():
        soon_ms = int(profiles.columns.history_ms[row, 0]) + 600_000
        phi, _ = terms_of(items.model, profiles, row, soon_ms, 0, len(items))
        on |= (phi != 0).any(axis=0)
    assert on.all(), np.flatnonzero(~on)


@given(
    seed=st.integers(0, 1000), n=st.integers(1, 15), out=st.lists(st.integers(-1, 25), max_size=12)
)
@settings(deadline=None, max_examples=20)
def test_top_k_is_the_head_of_the_full_order(seed: int, n: int, out: list[int]) -> None:
    profiles, items, view = a_shop(seed % 3)
    scorer, columns = Scorer(CONFIG), profiles.columns
    users = seen(profiles, view.model, USERS)
    allowed = np.random.default_rng(seed).random(len(view)) < 0.8
    left_out = [np.array(out, np.int64)] * len(USERS)
    gone = np.random.default_rng(seed + 1).integers(len(items), size=4).tolist()
    items.describe(dict.fromkeys([items.ids[row] for row in gone]))
    view.apply(items.take_delta())
    rows, best = scorer.top_k(view, columns, users, left_out, n, allowed)
    assert not set(gone) & set(rows.ravel().tolist())
    S = scorer.scores(view.model, view.base, columns, users)
    for b in range(len(USERS)):
        may = [row for row in np.flatnonzero(allowed & view.rankable).tolist() if row not in out]
        expected = sorted(may, key=lambda row: (-S[b, row], row))[:n]
        assert rows[b, : len(expected)].tolist() == expected
        assert best[b, : len(expected)].tolist() == S[b, expected].tolist()
        assert (rows[b, len(expected) :] == NO_ROW).all()
        assert np.isneginf(best[b, len(expected) :]).all()


def test_equal_scores_are_ordered_by_row() -> None:
    profiles, items, view = ProfileTable(SHAPE), ItemTable(SHAPE, CONFIG), ItemView(SHAPE, CONFIG)
    profiles.load(["u"], [None])
    items.describe({f"i{number}": describe() for number in range(50)})
    view.apply(items.take_delta())
    users = seen(profiles, view.model, ["u"])
    rows, _ = Scorer(CONFIG).top_k(view, profiles.columns, users, None, 5)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]


def test_a_score_that_is_no_number_is_never_listed() -> None:
    profiles, _, view = a_shop(2)
    view.model.items.vectors[[0, 4]] = np.nan
    view.model.items.vectors[7] = np.inf
    columns = profiles.columns
    users = seen(profiles, view.model, ["u0"])
    rows, best = Scorer(CONFIG).top_k(view, columns, users, None, len(view))
    assert np.isfinite(best[rows != NO_ROW]).all()
    assert not {0, 4} & set(rows[0].tolist())


def test_an_empty_catalogue_gives_empty_lists() -> None:
    profiles, view = ProfileTable(SHAPE), ItemView(SHAPE, CONFIG)
    profiles.load(["u"], [None])
    users = seen(profiles, view.model, ["u"])
    rows, _ = Scorer(CONFIG).top_k(view, profiles.columns, users, None, 2)
    assert rows.tolist() == [[NO_ROW, NO_ROW]]


def test_a_vector_that_is_not_finite_is_refused() -> None:
    profiles, _, view = a_shop(0)
    columns, scorer = profiles.columns, Scorer(CONFIG)
    users = seen(profiles, view.model, ["u1"])
    with pytest.raises(ValueError, match="excluded"):
        scorer.top_k(view, columns, users, [], 2)
    with pytest.raises(ValueError, match="mask"):
        scorer.top_k(view, columns, users, None, 2, np.ones(1, np.bool_))
    columns.long_term[profiles.rows(["u1"])] = np.nan
    with pytest.raises(DivergedError):
        seen(profiles, view.model, ["u1"])


def test_a_list_asked_for_much_later_begins_a_session() -> None:
    profiles, _, view = a_shop(0)
    rows = profiles.rows(["u0", "u1"])  # u0 has no event yet
    newest = profiles.columns.history_ms[rows, 0]
    for later_ms, begins in ((1_000, [True, False]), (10**8, [True, True])):
        users = Scorer(CONFIG).users(
            view.model, profiles.columns, rows, newest + later_ms, np.zeros(2, np.uint32)
        )
        assert users.begins.tolist() == begins


def test_what_is_said_of_items_alone_is_made_anew_of_all_rows_at_once() -> None:
    profiles, items, view = a_shop(0, described=False)
    before = view.base
    stream = [OneInteraction("u1", f"i{b % 2}", 1_000 + b, 10**9 + b) for b in range(11)]
    fold_batch(profiles, items, columns_of(stream[:1], 0, profiles, items), CONFIG, 0)
    view.apply(items.take_delta())
    assert view.base is not before  # the clock has moved far
    before = view.base
    fold_batch(profiles, items, columns_of(stream[1:9], 0, profiles, items), CONFIG, 0)
    view.apply(items.take_delta())
    assert view.base is before
    fold_batch(profiles, items, columns_of(stream[9:], 0, profiles, items), CONFIG, 0)
    view.apply(items.take_delta())
    assert view.base is not before
    fresh = BaseTerms(items.model, len(items), CONFIG).of([(0, 1, 5, 8)])[0][0]
    np.testing.assert_allclose(view.base.of([(0, 1, 5, 8)])[0][0], fresh, rtol=1e-5, atol=1e-6)


def test_terms_of_items_hang_on_no_cut_into_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    _, items, _ = a_shop(1)
    whole = BaseTerms(items.model, len(items), CONFIG).terms
    monkeypatch.setattr(base_terms, "ROWS_AT_ONCE", 4)
    assert np.array_equal(BaseTerms(items.model, len(items), CONFIG).terms, whole)
    assert np.array_equal(BaseTerms(items.model, 6, CONFIG).terms, whole[:, :6])
    some = np.array([len(items) - 1, 3, 5, 0, 2, 1], np.int32)
    assert np.array_equal(BaseTerms(items.model, some, CONFIG).terms, whole[:, some])


def test_the_weights_of_a_context_are_whole_for_every_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, items, _ = a_shop(0, described=False)
    contexts = [(0, 1, 5, 8), (0, 2, 5, 8), (0, 1, 6, 8), (0, 2, 6, 7)]
    alone = BaseTerms(items.model, len(items), CONFIG)
    expected = {parts: alone.of([parts])[0][alone.of([parts])[1][0]].copy() for parts in contexts}
    base, weigh = BaseTerms(items.model, len(items), CONFIG), BaseTerms._weigh

    def slowly(self: BaseTerms, parts: list[int], out: NDArray[np.float32]) -> None:
        time.sleep(0.01)
        weigh(self, parts, out)

    monkeypatch.setattr(BaseTerms, "_weigh", slowly)

    def asked(number: int) -> bool:
        parts = contexts[number % len(contexts)]
        weighted, (row,) = base.of([parts])
        return bool((weighted[row] == expected[parts]).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(asked, range(16)))


def test_a_view_of_a_table_that_went_back_makes_its_base_anew() -> None:
    _, items, view = a_shop(0, described=False)
    before = view.base
    items.columns.state[N_LEARNED] -= 1
    view.apply(items.take_delta())
    assert view.base is not before


def test_a_change_that_failed_while_it_waited_is_told_to_who_changes() -> None:
    view = ItemView(ModelShape(n_factors=4), FoldConfig(shape=ModelShape(n_factors=4)))

    def fails() -> None:
        raise MemoryError("no room")

    with view.reading():
        view.change(fails)
    with pytest.raises(MemoryError, match="no room"):
        view.change(lambda: None)
    with view.reading():  # and is forgotten then
        view.change(lambda: None)
