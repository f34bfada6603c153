"""Test, then learn: what the model would have ranked, asked before it is told.

Owns the moment of a trial: an event's own time, session and query, on the item table as it stands.
The score itself is `serving`'s, the one that serves shoppers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.base_terms import BaseTerms
from profiles.interactions import Interactions
from profiles.item_columns import CLOCK_MS
from profiles.items import ItemTable
from profiles.profile import ProfileColumns
from profiles.serving import Scorer
from profiles.shape import FoldConfig


class TrialScorer:
    """Scores events that are about to be folded. For the thread that folds."""

    def __init__(self, config: FoldConfig) -> None:
        self._config = config
        self._scorer = Scorer(config)

    def scores(
        self, table: ItemTable, columns: ProfileColumns, batch: Interactions, b: int
    ) -> NDArray[np.float32]:
        """float32 (I,): the score of every item of the table just before event b of the batch.

        Does what the fold would do first with this event: the clock, and the query that led to it.
        So the event must be folded next, as it is. A profile that retention is about to start
        afresh is scored as it still is.
        """
        model = table.model
        user, time_ms = int(batch.user_row[b]), int(batch.time_ms[b])
        model.items.state[CLOCK_MS] = max(table.clock_ms, time_ms)
        words = batch.tokens[batch.token_start[b] : batch.token_start[b + 1]]
        if len(words):
            n = min(len(words), columns.pending.shape[1])
            columns.pending[user, :n] = words[:n]
            columns.n_pending[user], columns.pending_ms[user] = n, time_ms
        session = 0 if batch.session is None else int(batch.session[b])
        users = self._scorer.users(
            model,
            columns,
            np.array([user], np.int32),
            np.array([time_ms], np.int64),
            np.array([session], np.uint32),
        )
        base = BaseTerms(model, len(table), self._config)
        found: NDArray[np.float32] = self._scorer.scores(model, base, columns, users)[0]
        return found
