"""Laws of the fold: any cut, cache or replay gives the same bytes; the kernel is the maths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.hashing import item_hash
from profiles.items import ItemTable
from profiles.record import decode_profile, facts_of
from profiles.reference import OneInteraction, ReferenceFold, columns_of
from profiles.reference_ratings import ReferenceBias
from profiles.serving import Scorer
from profiles.shape import OWN_FORMAT, RECORD_FORMATS, RECORD_VERSION, FoldConfig, ModelShape
from profiles.table import ProfileTable

CONFIG = FoldConfig(
    shape=ModelShape(n_factors=8, history=3, n_tokens=2, own_items=5),
    n_ring=7,
    n_ring_short=3,
    n_list=3,
)
BEFORE = replace(CONFIG, shape=replace(CONFIG.shape, own_items=0))
"""A generation without own tables: its records may have any format."""
CATALOGUE = {
    "i1": describe("red lamp", ["home", "lamps"], "alder", 20.0),
    "i2": describe("blue lamp", ["home", "lamps"], "birch", 31.0),
    "i3": describe("red rug", ["home", "rugs"], None, 90.0),
    "new": describe("green lamp", ["home", "lamps"], "alder", 21.0),
}
"""What it says of three of the eight items, and of one that nobody has."""
KINDS = {
    "click": (0, 0.5),
    "purchase": (2, 1.0),
    "review": (3, 1.0),
    "return": (4, 1.0),
    "bad review": (5, 0.7),
}
"""Code and weight."""
SLOW = settings(max_examples=60, deadline=None)


@st.composite
def streams(draw: st.DrawFn, most: int = 60) -> list[OneInteraction]:
    """Events of few users on few items, so that both come back; offsets have gaps."""
    stream = []
    offset, time_ms = draw(st.integers(0, 1000)), 1_000_000
    for _ in range(draw(st.integers(1, most))):
        offset += draw(st.integers(1, 3))
        time_ms += draw(st.one_of(st.integers(-5_000, 20_000), st.just(2_000_000)))
        sorts = ["click", "click", "click", "purchase", "review", "return", "bad review", "search"]
        sort = draw(st.sampled_from(sorts))
        user = f"u{draw(st.integers(0, 4))}"
        if sort == "search":
            words = st.one_of(st.integers(3, 6), st.integers(1, 2**64 - 1))
            tokens = tuple(draw(st.lists(words, max_size=3)))
            one = OneInteraction(user, None, offset, time_ms, kind=6, positive=False, tokens=tokens)
        else:
            kind, weight = KINDS[sort]
            one = OneInteraction(
                user,
                f"i{draw(st.integers(0, 7))}",
                offset,
                time_ms,
                kind=kind,
                weight=weight,
                positive=sort in ("click", "purchase", "review"),
                rating=draw(st.sampled_from([None, 0.0, 1.5, 3.0, 5.0])) if "rev" in sort else None,
                tokens=draw(st.sampled_from([(), (), (), (3,), (3, 4)])),
                session=draw(st.integers(0, 2)),
            )
        stream.append(one)
    return stream


def list_of(items: ItemTable, row: int) -> list[tuple[str, float, float]]:
    """The neighbours of an item, in their order."""
    lists = items.lists
    return [
        (items.ids[lists.rows[row, place]], lists.forward[row, place], lists.backward[row, place])
        for place in range(lists.n[row])
    ]


class Folded:
    """A table, its records in a pretended store, and the item table behind them."""

    def __init__(
        self,
        config: FoldConfig = CONFIG,
        keep_cached: bool = True,
        record_format: int = RECORD_VERSION,
    ) -> None:
        self.config = config
        self.keep_cached = keep_cached
        self.profiles = ProfileTable(config.shape, capacity=1, record_format=record_format)
        self.items = ItemTable(config.shape, config, capacity=1)
        self.items.describe(CATALOGUE)
        self.records: dict[str, bytes] = {}
        self.watermark_ms = 0
        self.loss = 0.0
        self.rating_errors: list[float] = []

    def fold(self, stream: Sequence[OneInteraction]) -> Folded:
        missing = self.profiles.missing(one.user for one in stream)
        self.profiles.load(missing, [self.records.get(user) for user in missing])
        columns = columns_of(stream, 0, self.profiles, self.items)
        report = fold_batch(self.profiles, self.items, columns, self.config, self.watermark_ms)
        self.watermark_ms = report.watermark_ms
        self.loss += report.loss_sum
        self.rating_errors += report.rating_errors.tolist()
        users = self.profiles.user_ids(report.user_rows)
        assert sorted(users) == sorted({one.user for one in stream})
        self.records.update(zip(users, self.profiles.pack(report.user_rows), strict=True))
        if not self.keep_cached:
            self.profiles.evict_to(0)
        return self

    def x_of(self, user_ids: list[str]) -> dict[str, NDArray[np.float32]]:
        """The user vectors as a scorer sees them."""
        rows, n = self.profiles.rows(user_ids), len(user_ids)
        now, no_session = np.zeros(n, np.int64), np.zeros(n, np.uint32)
        users = Scorer(self.config).users(
            self.items.model, self.profiles.columns, rows, now, no_session
        )
        return dict(zip(user_ids, users.x, strict=True))

    def item_bytes(self) -> dict[str, bytes]:
        """All that is learned of items, by id; of blend and ratings under no id."""
        columns, ids = self.items.columns, self.items.ids
        once = (*self.items.blend, *self.items.ratings)
        learned = {"": b"".join(column.tobytes() for column in once)}
        for row, item_id in enumerate(ids):
            learned[item_id] = b"".join(
                getattr(columns, name)[row].tobytes()
                for name in ("vectors", "sums", "counts", "fast", "slow", "starts", "first_number",
                             "last_number", "ring_count", "short_count", "rating_sum", "rating_n")
            ) + repr(list_of(self.items, row)).encode()  # fmt: skip
        return learned


@pytest.mark.parametrize("record_format", RECORD_FORMATS)
@given(stream=streams(), cuts=st.lists(st.integers(0, 60)), keep_cached=st.booleans())
@SLOW
def test_any_cut_into_batches_and_any_eviction_gives_the_same_bytes(
    record_format: int, stream: list[OneInteraction], cuts: list[int], keep_cached: bool
) -> None:
    config = CONFIG if record_format >= OWN_FORMAT else BEFORE
    whole = Folded(config, record_format=record_format).fold(stream)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    pieces = Folded(config, keep_cached=keep_cached, record_format=record_format)
    for start, end in pairwise(edges):
        pieces.fold(stream[start:end])
    assert pieces.records == whole.records
    assert pieces.item_bytes() == whole.item_bytes()
    assert pieces.watermark_ms == whole.watermark_ms


@given(stream=streams(), at=st.integers(0, 60))
@SLOW
def test_a_replay_from_a_snapshot_gives_the_same_bytes(
    stream: list[OneInteraction], at: int
) -> None:
    """A graceful stop and a start: records from the store, items from a snapshot."""
    at = min(at, len(stream) - 1)
    whole = Folded().fold(stream)
    first = Folded()
    if at:
        first.fold(stream[:at])
    snapshot = first.items.snapshot(full=True)
    second = Folded()
    second.records, second.watermark_ms = first.records, first.watermark_ms
    second.items = ItemTable.restore(CONFIG.shape, CONFIG, snapshot.header, snapshot.chunks)
    second.fold(stream[at:])
    assert second.records == whole.records
    assert second.item_bytes() == whole.item_bytes()


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(CONFIG, n_recent=0, n_uniform=4),
        replace(CONFIG, retention_ms=30_000),
        replace(CONFIG, popularity_half_life_s=3.0),
        replace(CONFIG, long_term_from=1),
        BEFORE,
    ],
    ids=["8+8", "0+4", "retention", "short half-life", "long term at once", "vector in the record"],
)
@given(stream=streams(most=120))
@settings(max_examples=25, deadline=None)
def test_the_kernel_agrees_with_the_slow_maths(
    config: FoldConfig, stream: list[OneInteraction]
) -> None:
    """Facts exactly; item vectors and the blend to 2e-4, the rounding of float32 over some hundred
    events.

    Vectors of users to 1e-3: a long-term vector is rounded to float16, and where the two differ
    before that they may take neighbours, which are up to 2**-10 of the number apart.
    """
    record_format = OWN_FORMAT if config.shape.own_items else OWN_FORMAT - 1
    folded = Folded(config, record_format=record_format).fold(stream)
    slow = ReferenceFold(config)
    for item_id, description in CATALOGUE.items():
        slow.describe(item_id, description)
    for one in stream:
        slow.fold(one)
    np.testing.assert_allclose(folded.items.blend.theta, slow.blend.theta, rtol=2e-4, atol=2e-4)
    assert folded.items.blend.n.tolist() == slow.blend.n
    assert folded.items.n_learned == slow.n_learned
    assert folded.loss == pytest.approx(slow.loss, rel=1e-3, abs=1e-3)
    np.testing.assert_allclose(folded.rating_errors, slow.rating_errors, rtol=1e-3, atol=1e-3)
    x = folded.x_of(list(slow.users))
    for user, expected in slow.users.items():
        profile = folded.profiles.profile(user)
        np.testing.assert_allclose(x[user], slow.x_of(user), rtol=1e-3, atol=1e-3)
        assert profile.n_by_kind == expected.n_by_kind
        assert profile.history == expected.history
        assert profile.pending == expected.pending
        assert profile.own == expected.own
        assert profile.last_offset == expected.last_offset
        assert (profile.first_ms, profile.last_ms) == (expected.first_ms, expected.last_ms)
        assert profile.stamp == expected.stamp
        kept = expected.vector if record_format < OWN_FORMAT else None
        for ours, theirs in (
            (profile.vector, kept),
            (profile.long_term, expected.long_term),
        ):
            zeros = np.zeros(config.shape.n_factors, np.float32)
            np.testing.assert_allclose(
                zeros if ours is None else ours,
                zeros if theirs is None else theirs,
                rtol=1e-3,
                atol=1e-3,
            )
    for one in stream:
        if one.item in slow.items:
            row = folded.items.intern([one.item_id or ""])[0]
            columns, item = folded.items.columns, slow.items[one.item]
            np.testing.assert_allclose(columns.vectors[row], item.vector, rtol=2e-4, atol=2e-4)
            assert columns.counts[row] == pytest.approx(item.count, rel=1e-6)
            assert columns.n_positive[row] == item.n_positive
            of_ratings = slow.ratings.items.get(one.item, ReferenceBias())
            assert columns.rating_sum[row] == pytest.approx(of_ratings.sum, rel=1e-3, abs=2e-3)
            assert columns.rating_n[row] == of_ratings.n
            assert columns.ring_count[row] == slow.ring.count(one.item)
            assert columns.short_count[row] == slow.pushed[-config.n_ring_short :].count(one.item)
            for name in ("fast", "slow", "starts"):
                count = getattr(columns, name)[row]
                assert count == pytest.approx(getattr(item, name), rel=1e-5, abs=1e-6)
            pairs = slow.lists.of[one.item].pairs if one.item in slow.lists.of else {}
            ours = {item_hash(other): pair for other, *pair in list_of(folded.items, int(row))}
            assert list(ours) == list(pairs)
            for other, pair in pairs.items():
                assert ours[other] == pytest.approx(pair, rel=1e-5)


@given(stream=streams())
@SLOW
def test_facts_do_not_depend_on_the_item_table(stream: list[OneInteraction]) -> None:
    """`learn=False` and another learning rate leave the facts as they are, bit for bit."""
    learned = Folded().fold(stream)
    others = (replace(CONFIG, learn=False), replace(CONFIG, rate=0.5, n_recent=1))
    for config in others:
        folded = Folded(config).fold(stream)
        assert {u: facts_of(r) for u, r in folded.records.items()} == {
            u: facts_of(r) for u, r in learned.records.items()
        }


@given(stream=streams(), at=st.integers(0, 60), long_term_from=st.integers(1, 5))
@SLOW
def test_facts_and_item_vectors_do_not_depend_on_the_record_format(
    stream: list[OneInteraction], at: int, long_term_from: int
) -> None:
    """Half the stream in format 1, the rest in the newest, read back between: as all in that."""
    config = replace(BEFORE, long_term_from=long_term_from)
    whole = Folded(config).fold(stream)
    mixed = Folded(config, keep_cached=False, record_format=1)
    mixed.fold(stream[:at])
    assert {record[0] for record in mixed.records.values()} <= {1}
    mixed.profiles.record_format = RECORD_VERSION
    if stream[at:]:
        mixed.fold(stream[at:])
    back = {one.user for one in stream[at:]}
    assert all(mixed.records[user] == whole.records[user] for user in back)
    assert all(
        facts_of(mixed.records[user]) == facts_of(whole.records[user]) for user in whole.records
    )
    assert mixed.item_bytes() == whole.item_bytes()


@given(stream=streams())
@SLOW
def test_a_long_term_vector_is_zero_until_its_learned_event(stream: list[OneInteraction]) -> None:
    """Exactly zero: a record then has no bytes of it."""
    config = replace(CONFIG, long_term_from=3)
    folded = Folded(config)
    n_learned: dict[str, int] = {}
    newest: dict[str, int] = {}
    for one in stream:
        folded.fold([one])
        if one.positive and newest.get(one.user) != one.item:
            n_learned[one.user] = n_learned.get(one.user, 0) + 1
            newest[one.user] = one.item
        profile = decode_profile(folded.records[one.user], config.shape)
        if n_learned.get(one.user, 0) < config.long_term_from:
            assert profile.long_term is None
            assert profile.long_term_sum == 0
