"""Live test-then-learn: the updater ranks a sample of events before it learns them.

`LiveTrials.fold` is `fold_batch` with a look in between: what it folds and learns is the same, for
the cut of batches changes nothing. Which events are looked at is a hash of partition and offset,
so a replay looks at the same. Beside ours stand the ranks by popularity and by item-kNN, which
learns every event for it; its lists live in this process only and begin anew with it.

What is measured is no fact: trials are sent after the commit, and those of the last moments before
a crash are lost.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
import structlog
from mode import Service

from agents.evaluate.judge import TOP
from agents.evaluate.live import learn_batch, rank_three, recent_rows, sampled
from agents.evaluate.rivals.neighbours import LIST, score_near
from profiles.fold import FoldReport, fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.trials import TrialScorer
from streams.errors import BrokerAway
from streams.producer import Producer
from streams.trials import MISS, Trial, TrialBatch, encode_trials

logger = structlog.get_logger(__name__)

NEAR, NEAR_DECAY, NEAR_BACK = 5, 0.5, 1.0
DEPTH, DECAY, SHRINK = 10, 0.4, 5.0
"""item-kNN as the first halves of two public streams chose it (`evaluate` chooses for each)."""

MOST_WAITING = 50_000
"""Trials that wait for a broker that is away; beyond it the oldest are dropped."""


class LiveTrials:
    """The trials of one worker. Used in the model thread only."""

    def __init__(self, share: float) -> None:
        """share: of the events, in (0, 1]."""
        self._share = share
        self._items: ItemTable | None = None
        self._scorer: TrialScorer

    def fold(
        self,
        profiles: ProfileTable,
        items: ItemTable,
        interactions: Interactions,
        config: FoldConfig,
        watermark_ms: int,
    ) -> tuple[FoldReport, list[Trial]]:
        """Fold a batch as `fold_batch` does, and rank the sampled events before they are learned.

        An event is ranked when its item is not the user's current one. Raises as `fold_batch`.
        """
        if items is not self._items:
            self._begin(items)
            self._scorer = TrialScorer(config)
        self._grow(len(items.hashes), profiles)
        chosen: list[int] = np.flatnonzero(
            sampled(interactions.partition, interactions.offset, self._share)
            & (interactions.positive != 0)
        ).tolist()
        trials: list[Trial] = []
        ends = iter([*(b for b in chosen if b), len(interactions)])

        def look(b: int) -> None:
            trial = self._rank(profiles, items, interactions, b)
            if trial is not None:
                trials.append(trial)
            self._learn(profiles, items, interactions, b, next(ends))

        if 0 not in chosen:
            self._learn(profiles, items, interactions, 0, next(ends))
        report = fold_batch(profiles, items, interactions, config, watermark_ms, chosen, look)
        return report, trials

    def _begin(self, items: ItemTable) -> None:
        """Another item table has other rows: neighbours begin anew."""
        self._items = items
        self._neighbour = np.zeros((0, LIST), np.int32)
        self._weight = np.zeros((0, LIST), np.float32)
        self._n = np.zeros(0, np.int32)
        self._total = np.zeros(0, np.float32)
        self._before = np.zeros(0, np.int32)

    def _grow(self, n_items: int, profiles: ProfileTable) -> None:
        more = n_items - len(self._n)
        if more > 0:
            self._neighbour = np.pad(self._neighbour, ((0, more), (0, 0)))
            self._weight = np.pad(self._weight, ((0, more), (0, 0)))
            self._n = np.pad(self._n, (0, more))
            self._total = np.pad(self._total, (0, more))
        if len(self._before) < profiles.end_row:
            self._before = np.full(2 * profiles.end_row, -1, np.int32)

    def _learn(
        self,
        profiles: ProfileTable,
        items: ItemTable,
        interactions: Interactions,
        first: int,
        end: int,
    ) -> None:
        """What item-kNN learns from events that are about to be folded."""
        part = slice(first, end)
        learn_batch(
            self._neighbour, self._weight, self._n, self._total, profiles.columns.history_hash,
            profiles.columns.n_history, items.columns.index_keys, items.columns.index_values,
            interactions.user_row[part], interactions.item_row[part], interactions.positive[part],
            self._before, NEAR, NEAR_DECAY, NEAR_BACK,
        )  # fmt: skip

    def _rank(
        self, profiles: ProfileTable, items: ItemTable, batch: Interactions, b: int
    ) -> Trial | None:
        user, item = int(batch.user_row[b]), int(batch.item_row[b])
        columns, known = profiles.columns, items.columns
        n_history = int(columns.n_history[user])
        if item < 0 or (n_history and columns.history_hash[user, 0] == batch.item_hash[b]):
            return None
        recent = np.zeros(DEPTH, np.int32)
        n_recent = recent_rows(
            columns.history_hash[user], n_history, known.index_keys, known.index_values, recent
        )
        near = np.zeros(len(items), np.float32)
        score_near(
            self._neighbour, self._weight, self._n, self._total, recent, n_recent,
            near, DEPTH, DECAY, 0.0, SHRINK, near,
        )  # fmt: skip
        ours = self._scorer.scores(items, columns, batch, b)
        ranks = np.zeros(3)
        top = np.zeros(TOP, np.int32)
        n_seen = rank_three(
            known.seen[: items.n_seen], known.rankable_at, known.n_positive, ours, near, item,
            int(recent[0]) if n_recent else -1, ranks, top,
        )  # fmt: skip
        found = [rank if np.isfinite(rank) else MISS for rank in ranks.tolist()]
        return Trial(
            offset=int(batch.offset[b]),
            ts=int(batch.time_ms[b]),
            rank=found[0],
            popularity=found[1],
            iknn=found[2],
            n_history=n_history,
            n_item=int(known.n_positive[item]),
            n_seen=n_seen,
            top=[items.ids[row] for row in top.tolist() if row >= 0],
        )


class TrialLog(Service):
    """Sends trials to their topic, in the background."""

    def __init__(self, producer: Producer) -> None:
        super().__init__()
        self._producer = producer
        self._waiting: deque[tuple[int, Trial]] = deque(maxlen=MOST_WAITING)

    def note(self, partition: int, trials: Sequence[Trial]) -> None:
        """Trials of a batch that has been committed."""
        self._waiting.extend((partition, trial) for trial in trials)

    async def on_stop(self) -> None:
        await self._send()

    @Service.timer(0.25)
    async def _send_regularly(self) -> None:
        await self._send()

    async def _send(self) -> None:
        while self._waiting:
            partition = self._waiting[0][0]
            batch: list[Trial] = []
            while self._waiting and self._waiting[0][0] == partition and len(batch) < 200:
                batch.append(self._waiting.popleft()[1])
            try:
                await self._producer.send_trials(
                    partition, encode_trials(TrialBatch(partition=partition, trials=batch))
                )
            except BrokerAway as away:
                logger.warning("trials dropped", trials=len(batch), reason=str(away))
                return
