"""Our model in the protocol: the product's tables, translation, fold and score; no copy of any."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from agents.describe import description_of
from agents.describer import PORTION
from agents.evaluate.stream import Stream
from agents.translate import Translator
from profiles.fold import fold_batch
from profiles.interactions import Interactions, Kinds
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.trials import TrialScorer


class FoldRanker:
    """`fold_batch` and `serving`'s scores, event by event."""

    name = "FOLD"

    def __init__(self, config: FoldConfig, kinds: Kinds | None = None, seed: int = 0) -> None:
        """seed: the partition whose draws are taken; another one, other negatives."""
        self._config = config
        self._kinds = kinds or Kinds()
        self._seed = seed
        self.about = (
            f"foldstream: K={config.shape.n_factors}, history {config.shape.history},"
            f" {config.n_recent}+{config.n_uniform} negatives, nothing tuned on this stream"
        )

    def begin(self, stream: Stream) -> None:
        """Fresh tables; every item of stream and catalogue has a row, the stream's."""
        self._stream = stream
        self._items = ItemTable(self._config.shape, self._config, capacity=stream.n_items)
        self._items.intern(stream.item_ids)
        entries = sorted(stream.items.items())
        for first in range(0, len(entries), PORTION):  # as a worker is told
            self._items.describe(
                {
                    item_id: description_of(item)
                    for item_id, item in entries[first : first + PORTION]
                }
            )
        self._profiles = ProfileTable(self._config.shape, capacity=len(stream.user_ids))
        self._profiles.load(stream.user_ids, [None] * len(stream.user_ids))
        self._scorer = TrialScorer(self._config)
        self._translator = Translator(self._kinds, self._config.shape.n_tokens)
        self._watermark_ms = 0
        self._batch: Interactions
        self._batch_of = -1

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        """As recommendations are scored."""
        self._translate(b)
        columns = self._profiles.columns
        out[:] = self._scorer.scores(self._items, columns, self._batch, 0)[: len(out)]

    def learn(self, b: int) -> None:
        """Fold one event."""
        self._translate(b)
        report = fold_batch(
            self._profiles, self._items, self._batch, self._config, self._watermark_ms
        )
        self._watermark_ms = report.watermark_ms

    def _translate(self, b: int) -> None:
        if b != self._batch_of:
            event = self._stream.events[b]
            self._batch = self._translator.translate(
                self._seed, [event], [b], [event.ts], self._profiles, self._items
            )
            self._batch_of = b


def measured_config(config: FoldConfig, n_negatives: int | None) -> FoldConfig:
    """The configuration with so many negatives of each sort; None: as the worker's settings say."""
    if n_negatives is None:
        return config
    return dataclasses.replace(config, n_recent=n_negatives, n_uniform=n_negatives)
