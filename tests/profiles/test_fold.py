"""What one batch does to facts and vectors, in the cases that people ask about."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from profiles.blend import N_SKIPPED, N_STEPS
from profiles.errors import DivergedError
from profiles.fold import FoldReport, fold_batch
from profiles.hashing import item_hash
from profiles.interactions import BAD_REVIEW, RETURN
from profiles.items import ItemTable
from profiles.profile import HistoryEntry
from profiles.reference import OneInteraction, columns_of
from profiles.serving import Scorer
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from profiles.terms import DOT
from profiles.warmup import warmup

SHAPE = ModelShape(n_factors=8, history=3, n_tokens=2)
CONFIG = FoldConfig(shape=SHAPE)


class Shop:
    """Tables that events are folded into, at most one batch a call."""

    def __init__(self, config: FoldConfig = CONFIG) -> None:
        self.config = config
        self.profiles = ProfileTable(config.shape)
        self.items = ItemTable(config.shape, config)
        self.watermark_ms = 0
        self.n = 0

    def fold(self, *events: tuple[str, str | None, int], **fields: object) -> FoldReport:
        """events: (user, item, event time in s)."""
        stream = [
            replace(OneInteraction(user, item, self.n + b, 1000 * time_s), **fields)  # type: ignore[arg-type]
            for b, (user, item, time_s) in enumerate(events)
        ]
        self.n += len(stream)
        missing = self.profiles.missing(one.user for one in stream)
        self.profiles.load(missing, [None] * len(missing))
        columns = columns_of(stream, 0, self.profiles, self.items)
        report = fold_batch(self.profiles, self.items, columns, self.config, self.watermark_ms)
        self.watermark_ms = report.watermark_ms
        return report


def history(shop: Shop, user: str) -> list[HistoryEntry]:
    return shop.profiles.profile(user).history


def test_the_history_is_newest_first_and_bounded() -> None:
    shop = Shop()
    shop.fold(*(("u", item, t) for t, item in enumerate("abcd", 1)))
    assert [entry.item_hash for entry in history(shop, "u")] == [item_hash(i) for i in "dcb"]
    assert shop.profiles.profile("u").n_by_kind == {0: 4}


def test_a_repeat_of_the_newest_item_refreshes_it_and_learns_nothing() -> None:
    shop = Shop()
    shop.fold(("u", "a", 1), ("u", "b", 2))
    before = shop.items.columns.vectors[:2].copy()
    report = shop.fold(("u", "b", 9), kind=2, weight=0.5)
    assert (report.n_folded, report.n_learned) == (1, 0)
    assert history(shop, "u")[0] == HistoryEntry(item_hash("b"), 9000, 0.5, 2)
    assert len(history(shop, "u")) == 2
    assert (shop.items.columns.vectors[:2] == before).all()


def test_what_is_not_positive_is_counted_only() -> None:
    shop = Shop()
    shop.fold(("u", "a", 1), ("u", "b", 2))
    before, vectors = shop.profiles.profile("u"), shop.items.columns.vectors.copy()
    report = shop.fold(("u", "a", 3), kind=7, positive=False)
    after = shop.profiles.profile("u")
    assert (report.n_learned, shop.items.n_learned) == (0, 2)
    assert after.n_by_kind == {0: 2, 7: 1}
    assert after.history == before.history
    assert (after.last_ms, after.last_offset) == (3000, 2)
    assert (shop.items.columns.vectors == vectors).all()


def in_pairs(n: int) -> Shop:
    """A shop where b follows a, d follows c, and so on, n times."""
    shop = Shop(replace(CONFIG, shape=ModelShape(n_factors=16, history=3)))
    for number in range(n):
        first, second = ("ab", "cd", "ef", "gh")[number % 4]
        shop.fold((f"u{number}", first, number), (f"u{number}", second, number))
    return shop


@pytest.mark.parametrize("kind", [RETURN, BAD_REVIEW])
def test_what_is_given_back_or_reviewed_badly_is_pushed_away_and_not_counted(kind: int) -> None:
    shop = in_pairs(200)
    shop.fold(("z", "a", 300), ("z", "b", 301))
    items, row, before_it = shop.items, shop.items.row("b"), shop.items.row("a")
    counted = [items.columns.counts[row], items.columns.n_positive[row], items.lists.n[before_it]]
    theta = items.blend.theta.tobytes()

    def score() -> float:
        rows, session = shop.profiles.rows(["z"]), np.zeros(1, np.uint32)
        seen = Scorer(shop.config).users(
            items.model, shop.profiles.columns, rows, np.int64([302_000]), session
        )
        return float(seen.x[0] @ items.columns.vectors[row])

    before = score()
    report = shop.fold(("z", "b", 302), kind=kind, positive=False)
    assert report.n_learned == 0
    assert score() < before
    assert items.blend.theta.tobytes() == theta
    assert counted == [
        items.columns.counts[row], items.columns.n_positive[row], items.lists.n[before_it]
    ]  # fmt: skip


def test_only_who_has_had_an_item_can_push_it_away() -> None:
    shop = in_pairs(40)
    shop.fold(("z", "a", 300), ("z", "c", 301))
    vectors = shop.items.columns.vectors.copy()
    shop.fold(("z", "b", 302), ("stranger", "b", 303), kind=BAD_REVIEW, positive=False)
    assert (shop.items.columns.vectors == vectors).all()
    shop.fold(("z", "c", 304), kind=RETURN, positive=False)
    once = shop.items.columns.vectors.copy()
    assert not (once == vectors).all()
    shop.fold(("z", "c", 305), kind=RETURN, positive=False)  # given back already
    assert (shop.items.columns.vectors == once).all()


def test_one_account_pushes_ever_less() -> None:
    """Of two equal shops, in one the account has reviewed badly a hundred times before."""
    moved = []
    for n_before in (0, 100):
        shop = in_pairs(40)
        shop.fold(*(("z", "d", 300 + n) for n in range(1)), ("z", "c", 301))
        for n in range(n_before):  # of an item that it never had: counted, and nothing else
            shop.fold(("z", "h", 302 + n), kind=BAD_REVIEW, positive=False)
        shop.n = 1_000  # the draws are those of the offset
        before = shop.items.columns.vectors.copy()
        shop.fold(("z", "c", 500), kind=BAD_REVIEW, positive=False)
        moved.append(float(np.abs(shop.items.columns.vectors - before).max()))
    assert 0 < moved[1] < moved[0] / 2


def test_a_query_waits_for_the_next_positive_and_the_newer_one_replaces_it() -> None:
    shop = Shop()
    shop.fold(("u", None, 1), kind=6, positive=False, tokens=(5, 6, 7))
    assert shop.profiles.profile("u").pending == [5, 6]
    shop.fold(("u", None, 2), kind=6, positive=False, tokens=(8,))
    assert (shop.profiles.profile("u").pending, shop.profiles.profile("u").pending_ms) == (
        [8],
        2000,
    )
    shop.fold(("u", "a", 3), kind=4, positive=False)
    assert shop.profiles.profile("u").pending == [8]
    shop.fold(("u", "a", 4))
    assert shop.profiles.profile("u").pending == []


def test_retention_starts_a_profile_afresh_by_the_logs_time() -> None:
    shop = Shop(replace(CONFIG, retention_ms=10_000))
    shop.fold(("gone", "a", 1), ("stays", "a", 5), ("other", "b", 12))
    report = shop.fold(("gone", "c", 2), ("stays", "c", 6))
    assert report.n_reset == 1
    assert shop.profiles.profile("gone").n_events == 1
    assert shop.profiles.profile("stays").n_events == 2
    assert report.watermark_ms == 12_000


def test_a_late_event_widens_the_times_and_moves_no_watermark() -> None:
    shop = Shop()
    shop.fold(("u", "a", 10), ("u", "b", 4))
    profile = shop.profiles.profile("u")
    assert (profile.first_ms, profile.last_ms, shop.watermark_ms) == (4000, 10_000, 10_000)


def test_the_report_names_each_changed_user_once_with_the_last_event() -> None:
    shop = Shop()
    report = shop.fold(("a", "x", 1), ("b", "x", 2), ("a", "y", 3))
    assert shop.profiles.user_ids(report.user_rows) == ["b", "a"]
    assert report.last_offset.tolist() == [1, 2]
    assert report.last_time_ms.tolist() == [2000, 3000]
    assert report.last_index.tolist() == [1, 2]


def test_an_empty_batch_changes_nothing() -> None:
    shop = Shop()
    shop.watermark_ms = 7
    report = shop.fold()
    assert (report.n_folded, len(report.user_rows), report.watermark_ms) == (0, 0, 7)


def test_learning_brings_items_together_that_follow_each_other() -> None:
    shop = in_pairs(400)
    rows = shop.items.intern(list("abcdefgh"))
    E = shop.items.columns.vectors[rows]
    S = E @ E.T - 100 * np.eye(8)
    assert S.argmax(axis=1).tolist() == [1, 0, 3, 2, 5, 4, 7, 6]


def test_a_vector_that_is_not_finite_stops_the_fold() -> None:
    shop = Shop()
    shop.fold(("u", "a", 1), ("u", "b", 2))
    shop.items.columns.vectors[0, 3] = np.nan
    with pytest.raises(DivergedError, match="partition 0, offset 2"):
        shop.fold(("u", "c", 3))


def test_a_blend_step_that_is_not_finite_is_left_out_and_counted() -> None:
    shop = Shop()
    shop.fold(*((f"u{b % 3}", f"i{b % 4}", b) for b in range(30)))
    blend = shop.items.blend
    assert blend.state[N_SKIPPED] == 0
    blend.theta[0, DOT] = np.nan
    before = blend.theta.copy(), blend.curvature.copy()
    report = shop.fold(*((f"u{b % 3}", f"i{b % 4}", b) for b in range(30, 40)))
    assert report.n_skipped == blend.state[N_SKIPPED] > 0
    assert blend.theta.tobytes() == before[0].tobytes()
    assert blend.curvature.tobytes() == before[1].tobytes()
    assert np.isfinite(shop.items.columns.vectors[: len(shop.items)]).all()


def test_the_blend_leaves_out_what_nobody_could_have_ranked() -> None:
    shop = Shop()
    shop.fold(*(("u", f"i{b}", b) for b in range(10)))
    assert shop.items.blend.state[N_STEPS] == 0
    shop.fold(("v", "i3", 11))
    assert shop.items.blend.state[N_STEPS] == 1


def test_one_user_alone_does_not_make_an_item() -> None:
    """The ninth positive on an item weighs less, and every later one less again."""
    shop = Shop()
    shop.fold(*(("u", "ab"[b % 2], 0) for b in range(60)))
    expected = sum(min(1.0, 8 / (1 + times)) for times in range(30))
    row = shop.items.row("a")
    assert shop.items.columns.counts[row] == pytest.approx(expected, rel=1e-5)
    assert shop.items.columns.n_positive[row] == 30


def test_a_list_that_has_counted_much_is_halved() -> None:
    shop = Shop()
    shop.fold(*((f"u{b % 200}", f"i{b // 200 % 2}", b) for b in range(4_000)))
    lists, row = shop.items.lists, shop.items.row("i0")
    total = lists.forward_sum[row] + lists.backward_sum[row]
    assert 1_000 <= total <= 2_000
    n = lists.n[row]
    listed = lists.forward[row, :n].sum() + lists.backward[row, :n].sum()
    assert listed == pytest.approx(total, rel=1e-4)


def test_an_absurd_rate_is_cut_short_instead_of_ending_in_nan() -> None:
    shop = Shop(replace(CONFIG, rate=50.0, max_norm=100.0))
    n_clipped = sum(shop.fold((f"u{b % 5}", f"i{b * b % 11}", b)).n_clipped for b in range(500))
    assert n_clipped > 0
    assert np.isfinite(shop.items.columns.vectors[: len(shop.items)]).all()


@pytest.mark.parametrize(
    ("weight", "kept"), [(1e30, 1.0), (-5.0, 0.001), (1e-42, 0.001), (0.5, 0.5)]
)
def test_a_weight_out_of_bounds_is_cut_and_counted(weight: float, kept: float) -> None:
    shop = Shop()
    report = shop.fold(("u", "a", 1), ("u", "b", 2), weight=weight)
    assert report.n_clipped == (0 if weight == kept else 2)
    assert [entry.weight for entry in history(shop, "u")] == [np.float32(kept)] * 2
    assert np.isfinite(shop.items.columns.sums).all()
    with pytest.raises(ValueError, match="not a number"):
        shop.fold(("u", "a", 3), weight=float("nan"))


def test_wrong_rows_and_offsets_that_do_not_rise_are_refused_untouched() -> None:
    shop = Shop()
    shop.fold(("u", "a", 1))
    stream = [OneInteraction("u", "a", 5, 1), OneInteraction("u", "b", 5, 1)]
    columns = columns_of(stream, 0, shop.profiles, shop.items)
    with pytest.raises(ValueError, match="offsets"):
        fold_batch(shop.profiles, shop.items, columns, CONFIG, 0)
    columns.offset[1] = 6
    for name, value in (("user_row", 1), ("item_row", 2), ("kind", 32), ("user_row", -1)):
        column = getattr(columns, name)
        kept = column[0]
        column[0] = value
        with pytest.raises(ValueError, match="range"):
            fold_batch(shop.profiles, shop.items, columns, CONFIG, 0)
        column[0] = kept
    assert shop.profiles.profile("u").n_events == 1


def test_the_fold_lets_other_threads_run() -> None:
    """Heartbeats go on: another thread counts while one long batch is folded."""
    warmup(CONFIG)
    shop = Shop()
    n = 60_000
    users = [f"u{b % 50}" for b in range(n)]
    events = [(user, f"i{b * 31 % 997}", b) for b, user in enumerate(users)]
    started, done, turns = threading.Event(), threading.Event(), 0

    def fold() -> None:
        started.wait()
        fold_batch(shop.profiles, shop.items, columns, CONFIG, 0)
        done.set()

    shop.profiles.load(shop.profiles.missing(users), [None] * 50)
    stream = [OneInteraction(user, item, b, b) for b, (user, item, _) in enumerate(events)]
    columns = columns_of(stream, 0, shop.profiles, shop.items)
    thread = threading.Thread(target=fold)
    thread.start()
    started.set()
    while not done.is_set():
        turns += 1
    thread.join()
    assert turns > 1000


def test_an_item_whose_squares_several_have_faded_below_zero_goes_on_learning() -> None:
    shop = Shop()
    shop.fold(("u", "a", 1), ("u", "b", 2))
    shop.items.columns.sums[:2] = -1
    shop.fold(("u", "a", 3), ("v", "b", 4))
    columns = shop.items.columns
    assert (columns.sums[:2] > 0).all()
    assert np.isfinite(columns.vectors[:2]).all()


def mixed_stream(n: int, seed: int) -> list[OneInteraction]:
    """Searches, looks, ratings, returns and bad reviews of few users, with long silences."""
    random = np.random.default_rng(seed)
    stream = []
    time_ms = 10**9
    for offset in range(n):
        time_ms += int(random.choice([1_000, 10**7], p=[0.95, 0.05]))
        user, item = f"u{random.integers(4)}", f"i{random.integers(9)}"
        one = OneInteraction(user, item, offset, time_ms)
        what = random.random()
        if what < 0.1:
            one = replace(one, item_id=None, positive=False, tokens=(int(random.integers(1, 5)),))
        elif what < 0.2:
            kind = RETURN if what < 0.15 else BAD_REVIEW
            one = replace(one, kind=kind, positive=False)
        elif what < 0.4:
            one = replace(one, rating=float(random.integers(1, 6)), tokens=(3,))
        stream.append(one)
    return stream


@pytest.mark.parametrize(("record_format", "own_items"), [(1, 0), (3, 4)])
def test_a_fold_that_pauses_is_the_same_fold(record_format: int, own_items: int) -> None:
    shape = replace(SHAPE, own_items=own_items)
    config = FoldConfig(shape=shape, retention_ms=5_000_000)
    for seed in range(6):
        random = np.random.default_rng(seed)
        stream = mixed_stream(120, seed)
        found = []
        pauses: list[list[int]] = [
            sorted(random.choice(40, 1 + 3 * seed, replace=False).tolist()) for _ in range(3)
        ]
        for paused in (False, True):
            profiles = ProfileTable(shape, record_format=record_format)
            profiles.load([f"u{u}" for u in range(4)], [None] * 4)
            items = ItemTable(shape, config)
            watermark_ms, told = 0, []
            for part in range(3):
                batch = columns_of(stream[40 * part : 40 * part + 40], 0, profiles, items)
                met: list[int] = []
                at = pauses[part] if paused else []
                report = fold_batch(profiles, items, batch, config, watermark_ms, at, met.append)
                assert met == at
                watermark_ms = report.watermark_ms
                told.append(report)
            nothing = columns_of([], 0, profiles, items)
            assert fold_batch(profiles, items, nothing, config, watermark_ms).n_folded == 0
            records = profiles.pack(profiles.rows([f"u{u}" for u in range(4)]))
            found.append((told, records, items.columns.vectors.copy()))
        (once, records, vectors), (in_parts, same_records, same_vectors) = found
        assert records == same_records
        assert np.array_equal(vectors, same_vectors)
        assert sum(report.n_reset for report in once) > 0
        for one, other in zip(once, in_parts, strict=True):
            assert len(one.rating_errors) > 0
            for name in FoldReport.__slots__:
                if name == "loss_sum":  # added up in another order
                    assert one.loss_sum == pytest.approx(other.loss_sum)
                else:
                    assert np.array_equal(getattr(one, name), getattr(other, name)), name
