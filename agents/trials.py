"""Live test-then-learn: the updater ranks a sample of events before it learns them.

`LiveTrials.fold` is `fold_batch` with a look in between: what it folds and learns is the same, for
the cut of batches changes nothing. Which events are looked at is a hash of partition and offset,
so a replay looks at the same. Beside ours stand the ranks by popularity and by item-kNN, which
learns every event for it; its lists live in this process only and begin anew with it.

What is measured is no fact: trials are sent after the commit, and those of the last moments before
a crash are lost.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence

import numpy as np
import structlog
from mode import Service
from numpy.typing import NDArray

from agents.evaluate.judge import TOP, judge
from agents.evaluate.live import learn_batch, recent_rows, sampled
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

NO_ROWS: NDArray[np.int32] = np.zeros(0, np.int32)


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
        chosen = np.flatnonzero(
            sampled(interactions.partition, interactions.offset, self._share)
            & (interactions.positive != 0)
        ).tolist()
        trials: list[Trial] = []
        reports: list[tuple[int, FoldReport]] = []
        starts = [0, *(b for b in chosen if b)]
        for start, end in zip(starts, [*starts[1:], len(interactions)], strict=True):
            if chosen and start == chosen[0]:
                trial = self._rank(profiles, items, interactions, chosen.pop(0))
                if trial is not None:
                    trials.append(trial)
            part = _part(interactions, start, end)
            self._learn(profiles, items, part)
            report = fold_batch(profiles, items, part, config, watermark_ms)
            watermark_ms = report.watermark_ms
            reports.append((start, report))
        return _merged(reports), trials

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

    def _learn(self, profiles: ProfileTable, items: ItemTable, part: Interactions) -> None:
        learn_batch(
            self._neighbour, self._weight, self._n, self._total, profiles.columns.history_hash,
            profiles.columns.n_history, items.columns.index_keys, items.columns.index_values,
            part.user_row, part.item_row, part.positive, self._before, NEAR, NEAR_DECAY, NEAR_BACK,
        )  # fmt: skip

    def _rank(
        self, profiles: ProfileTable, items: ItemTable, batch: Interactions, b: int
    ) -> Trial | None:
        user, item = int(batch.user_row[b]), int(batch.item_row[b])
        columns, known = profiles.columns, items.columns
        n_history = int(columns.n_history[user])
        if item < 0 or (n_history and columns.history_hash[user, 0] == batch.item_hash[b]):
            return None
        seen = known.seen[: items.n_seen]
        seen = seen[known.rankable_at[seen] >= 0]  # no list has what the catalogue has lost
        place_of = np.full(len(items), -1, np.int32)
        place_of[seen] = np.arange(len(seen), dtype=np.int32)
        counts = known.n_positive[seen].astype(np.float32)
        recent = np.zeros(DEPTH, np.int32)
        n_recent = recent_rows(
            columns.history_hash[user], n_history, known.index_keys, known.index_values, recent
        )
        near = np.zeros(len(items), np.float32)
        score_near(
            self._neighbour, self._weight, self._n, self._total, recent, n_recent,
            near, DEPTH, DECAY, 0.0, SHRINK, near,
        )  # fmt: skip
        near = near[seen] + counts * np.float32(1e-7 / max(1.0, float(counts.sum())))
        place = int(place_of[item])
        current = int(place_of[recent[0]]) if n_recent else -1
        top = np.zeros(TOP, np.int32)
        found: list[float] = []
        ours_top: list[int] = []
        ours = self._scorer.scores(items, columns, batch, b)[seen]
        for scores in (ours, counts, near):
            ranks = np.full(3, np.inf)
            if place >= 0:
                judge(scores, len(seen), place, current, NO_ROWS, ranks, top)
            elif len(seen):
                judge(scores, len(seen), len(seen), current, NO_ROWS, ranks, top)
            else:
                top[:] = -1
            found.append(float(ranks[0]) if np.isfinite(ranks[0]) else MISS)
            if not ours_top:
                ours_top = seen[top[top >= 0]].tolist() or [-1]
        return Trial(
            offset=int(batch.offset[b]),
            ts=int(batch.time_ms[b]),
            rank=found[0],
            popularity=found[1],
            iknn=found[2],
            n_history=n_history,
            n_item=int(known.n_positive[item]),
            n_seen=len(seen),
            top=[items.ids[row] for row in ours_top if row >= 0],
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


def _part(interactions: Interactions, start: int, end: int) -> Interactions:
    """Events start to end of a batch, as a batch."""
    if start == 0 and end == len(interactions):
        return interactions
    i = interactions
    return dataclasses.replace(
        i,
        user_row=i.user_row[start:end],
        item_row=i.item_row[start:end],
        item_hash=i.item_hash[start:end],
        kind=i.kind[start:end],
        weight=i.weight[start:end],
        positive=i.positive[start:end],
        time_ms=i.time_ms[start:end],
        offset=i.offset[start:end],
        token_start=i.token_start[start : end + 1],
        session=None if i.session is None else i.session[start:end],
        rating=None if i.rating is None else i.rating[start:end],
        rater=None if i.rater is None else i.rater[start:end],
    )


def _merged(reports: Sequence[tuple[int, FoldReport]]) -> FoldReport:
    """One report of consecutive parts, each with the number of its first event."""
    if len(reports) == 1:
        return reports[0][1]
    last: dict[int, tuple[int, int, int]] = {}
    for start, report in reports:
        for row, offset, ms, index in zip(
            report.user_rows.tolist(), report.last_offset.tolist(),
            report.last_time_ms.tolist(), report.last_index.tolist(), strict=True,
        ):  # fmt: skip
            last.pop(row, None)
            last[row] = (offset, ms, start + index)
    parts = [report for _, report in reports]
    return FoldReport(
        n_folded=sum(part.n_folded for part in parts),
        n_learned=sum(part.n_learned for part in parts),
        loss_sum=sum(part.loss_sum for part in parts),
        n_clipped=sum(part.n_clipped for part in parts),
        n_skipped=sum(part.n_skipped for part in parts),
        n_reset=sum(part.n_reset for part in parts),
        user_rows=np.array(list(last), np.int32),
        last_offset=np.array([offset for offset, _, _ in last.values()], np.int64),
        last_time_ms=np.array([ms for _, ms, _ in last.values()], np.int64),
        last_index=np.array([index for _, _, index in last.values()], np.int32),
        watermark_ms=parts[-1].watermark_ms,
        rating_errors=np.concatenate([part.rating_errors for part in parts]),
    )
