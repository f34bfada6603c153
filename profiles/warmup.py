"""Compiles every kernel before the first event needs one."""

from __future__ import annotations

import numpy as np

from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.reasons import history_rows, reasons
from profiles.scoring import top_k
from profiles.seen import SeenRing
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.view import ItemView


def warmup(config: FoldConfig | None = None) -> None:
    """Compile all that folding and ranking need, or load it from the cache of an earlier run.

    Some 20 s the first time, about one after that: call it in a thread while the broker starts.
    """
    config = config or FoldConfig()
    profiles = ProfileTable(config.shape, capacity=1)
    items = ItemTable(config.shape, config, capacity=1)
    profiles.load(["warm", "up"], [None, None])
    item_row = items.intern(["a", "b", "c"])
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
    records: list[bytes | None] = list(profiles.pack(report.user_rows))
    profiles.load(profiles.user_ids(report.user_rows), records)
    SeenRing(n_slots=1).filter([0], [1], start=0, end=1)
    view = ItemView(config.shape, config)
    view.apply(items.take_delta())
    rows = profiles.rows(["warm", "up"])
    vectors = np.ascontiguousarray(profiles.columns.vector[rows])
    ranked, _ = top_k(view, vectors, None, 2)
    reasons(profiles, rows, view, history_rows(profiles, rows, view), ranked, 1)
