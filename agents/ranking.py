"""From profiles to ranked lists with reasons: what the scorer computes, without any topic.

A user's items to leave out follow the settings; a user without history gets what is popular.
Reasons are the past events whose share of x . e_j is largest. A list that is pushed belongs to the
event before it; one that is asked for, to the time and the query of the request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.catalogue import Catalogue
from agents.list_json import Past, Quoted, Ranked, encode_text, texts_of, write_lists
from agents.translate import query_tokens
from profiles.base_terms import BaseTerms
from profiles.candidates import Candidates
from profiles.interactions import MAX_KINDS, Kinds
from profiles.profile import NO_OFFSET
from profiles.reasons import reasons
from profiles.serving import NO_ROW, Scorer, Users
from profiles.table import ProfileTable
from profiles.view import ItemView
from streams.events import RankedItem

MOST_SCORE = 1e9
"""Below this there is no score; a candidate whose own is not finite comes last."""

LEAST_SHARE = 0.05
"""A reason that carries less than this share of the score explains nothing to a person."""


@dataclass(frozen=True, slots=True)
class RankingRules:
    """Which items are left out, and how much is said about the rest."""

    exclude_out_of_stock: bool = True
    exclude_current: bool = True
    exclude_bought: bool = False
    n_reasons: int = 3


class Ranking:
    """Ranks the items of a view for profiles, given as records. One call at a time."""

    def __init__(
        self,
        view: ItemView,
        catalogue: Catalogue | None,
        kinds: Kinds,
        rules: RankingRules,
        candidates: Candidates | None = None,
    ) -> None:
        """candidates: of the view, for lists that do without scoring every item."""
        self._view = view
        self._candidates = candidates
        self._catalogue = catalogue
        self._kinds = kinds
        self._rules = rules
        self._kind_names = texts_of([encode_text(kinds.name(code)) for code in range(MAX_KINDS)])
        self._quoted = Quoted()
        self._purchase = kinds["purchase"].code
        self._profiles = ProfileTable(view.shape)  # scratch: the users of one call
        self._scorer = Scorer(view.config)
        self._allowed: NDArray[np.bool_] | None = None
        self._allowed_for = (-1, -1, -1)

    @property
    def n_items(self) -> int:
        """Items that are scored for a list."""
        return len(self._view)

    def rank(
        self,
        user_ids: Sequence[str],
        records: Sequence[bytes | None],
        n: int,
        asked_ms: int | Sequence[int] | None = None,
    ) -> list[Ranked]:
        """The best n items of each user; shorter where fewer are left.

        records: in the order of the distinct user_ids; None for a user without a profile, who
        gets what is popular. asked_ms: when the lists are asked for, or each of them; None: with
        each user's newest event. Raises RecordCorrupt and RecordTooNew, which name the user.
        """
        if not user_ids:
            return []
        with self._view.reading():
            users = self._see(self._load(user_ids, records), asked_ms)
            ranked, scores = self._scorer.top_k(
                self._view,
                self._profiles.columns,
                users,
                self._left_out(users),
                n,
                self._in_stock(),
                self._candidates,
            )
            return self._lists(users, ranked, scores)

    def rerank(
        self,
        user_id: str,
        record: bytes | None,
        candidates: Sequence[str],
        n: int | None = None,
        asked_ms: int | None = None,
        query: str | None = None,
    ) -> Ranked:
        """The candidates in the profile's order; items without a vector come last, as given.

        asked_ms: as in `rank`. query: what was searched for, in place of the user's last search.
        """
        distinct = list(dict.fromkeys(candidates))
        with self._view.reading():
            rows = self._view.rows(distinct)
            known = np.flatnonzero(rows != NO_ROW)
            row = self._load([user_id], [record])
            if query is not None:
                self._take_query(int(row[0]), query)
            users = self._see(row, asked_ms)
            model = self._view.model
            base = BaseTerms(model, rows[known], self._view.config)
            scores = self._scorer.scores(model, base, self._profiles.columns, users)[0]
            scores[~np.isfinite(scores)] = -MOST_SCORE
            order = np.argsort(-scores, kind="stable")
            ranked, scores = rows[known[order]], scores[order]
            found = self._lists(users, ranked[None], scores[None])[0]
        lowest = round(float(scores[-1]), 5) if len(scores) else 0.0
        unknown = [item_id for item_id, row in zip(distinct, rows, strict=True) if row == NO_ROW]
        last = [
            RankedItem(item_id=item_id, rank=rank, score=lowest)
            for rank, item_id in enumerate(unknown, len(found) + 1)
        ]
        return found.followed_by(Ranked.of(None, last)).first(n)

    def _load(self, user_ids: Sequence[str], records: Sequence[bytes | None]) -> NDArray[np.int32]:
        self._profiles.clear()
        self._profiles.load(user_ids, records)
        return self._profiles.rows(user_ids)

    def _take_query(self, row: int, query: str) -> None:
        columns = self._profiles.columns
        words = query_tokens(query, columns.pending.shape[1])
        columns.pending[row, : len(words)] = words
        columns.n_pending[row] = len(words)

    def _see(self, rows: NDArray[np.int32], asked_ms: int | Sequence[int] | None) -> Users:
        columns = self._profiles.columns
        times = columns.last_ms[rows] if asked_ms is None else np.zeros(len(rows), np.int64)
        if asked_ms is not None:
            times[:] = asked_ms
        no_session = np.zeros(len(rows), np.uint32)  # a request names none: the time decides
        return self._scorer.users(self._view.model, columns, rows, times, no_session)

    def _lists(
        self,
        users: Users,
        ranked: NDArray[np.int32],
        scores: NDArray[np.float32],
    ) -> list[Ranked]:
        """Lists with their reasons. ranked, scores: (B, n)."""
        columns, view = self._profiles.columns, self._view
        why = reasons(columns, users, view.model, ranked, self._rules.n_reasons)
        version = view.n_restarts
        return write_lists(
            [
                offset if offset != NO_OFFSET else None
                for offset in columns.last_offset[users.row].tolist()
            ],
            ranked,
            self._quoted.of(view.ids, version, ranked),
            scores,
            Past(
                self._quoted.of(view.ids, version, users.history),
                columns.history_ms[users.row],
                columns.history_kind[users.row],
                self._kind_names,
            ),
            why.history,
            why.shares,
            LEAST_SHARE,
        )

    def _left_out(self, users: Users) -> list[NDArray[np.int64]]:
        """For each user the rows that the rules leave out."""
        out = np.full_like(users.history, NO_ROW)
        if self._rules.exclude_bought:
            bought = self._profiles.columns.history_kind[users.row] == self._purchase
            out[bought] = users.history[bought]
        if self._rules.exclude_current:
            out[:, 0] = users.history[:, 0]
        return list(out)

    def _in_stock(self) -> NDArray[np.bool_] | None:
        """Which rows may be shown; None for all. Made anew when catalogue or view have changed."""
        catalogue = self._catalogue
        if catalogue is None or not self._rules.exclude_out_of_stock or not catalogue.out_of_stock:
            return None
        key = (catalogue.version, self._view.n_restarts, len(self._view))
        if key != self._allowed_for:
            allowed = np.ones(len(self._view), np.bool_)
            gone = self._view.rows(list(catalogue.out_of_stock))
            allowed[gone[gone != NO_ROW]] = False
            self._allowed, self._allowed_for = allowed, key
        return self._allowed
