"""Compiles every kernel before the first event needs one."""

from __future__ import annotations

import numpy as np

from profiles.candidates import Candidates
from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.reasons import reasons
from profiles.seen import SeenRing
from profiles.serving import READ_FOR, Scorer
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.view import ItemView


def warmup(config: FoldConfig | None = None) -> None:
    """Compile all that folding and ranking need, or load it from the cache of an earlier run.

    A minute or two the first time, about a second after that: call it in a thread while the broker
    starts.
    """
    config = config or FoldConfig()
    profiles = ProfileTable(config.shape, capacity=1)
    items = ItemTable(config.shape, config, capacity=1)
    profiles.load(["warm", "up"], [None, None])
    item_row = items.intern(["a", "b", "c"])
    items.describe({"a": describe("warm up", ["kernels"])})
    items.share()
    interactions = Interactions(
        partition=0,
        user_row=profiles.rows(["warm", "up", "warm"]),
        item_row=item_row,
        item_hash=items.hashes[item_row],
        kind=np.zeros(3, np.uint8),
        weight=np.ones(3, np.float32),
        positive=np.ones(3, np.uint8),
        time_ms=np.arange(3, dtype=np.int64),
        offset=np.arange(3, dtype=np.int64),
        token_start=np.zeros(4, np.int32),
        tokens=np.zeros(0, np.uint64),
    )
    report = fold_batch(profiles, items, interactions, config, watermark_ms=0)
    other = ItemTable(config.shape, config, capacity=1)
    other.add_positives(items.take_positives(1))
    other.queries.intern(np.ones(1, np.uint64), 0)
    packed = profiles.packed(report.user_rows)
    packed.mset(b"key:")
    profiles.load(packed.user_ids, [record for _, record in packed])
    SeenRing(n_slots=1).filter([0], [1], start=0, end=1)
    view = ItemView(config.shape, config)
    view.apply(items.take_delta())
    scorer, columns = Scorer(config), profiles.columns
    for n in (1, READ_FOR):  # items' texts are read in two ways
        rows = np.repeat(profiles.rows(["warm"]), n)
        times, sessions = np.zeros(n, np.int64), np.zeros(n, np.uint32)
        users = scorer.users(view.model, columns, rows, times, sessions)
        ranked, _ = scorer.top_k(view, columns, users, None, 2)
    candidates = Candidates(view, exact_items=0)
    candidates.refresh(now_s=0)
    candidates.refresh(now_s=0)  # moves
    scorer.top_k(view, columns, users, None, 2, candidates=candidates)
    reasons(columns, users, view.model, ranked, 1)
