"""From profiles to ranked lists with reasons: what the scorer computes, without any topic.

A user's items to leave out follow the settings; a user without history gets what is popular.
Reasons are the past events whose share of x . e_j is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.catalogue import Catalogue
from profiles.interactions import Kinds
from profiles.profile import Profile
from profiles.scoring import NO_ROW, context_of, explain, rank_rows, top_k, user_matrix
from profiles.view import ItemView
from streams.events import RankedItem, Reason

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
    """Ranks the items of a view for profiles."""

    def __init__(
        self,
        view: ItemView,
        catalogue: Catalogue | None,
        kinds: Kinds,
        rules: RankingRules,
    ) -> None:
        self._view = view
        self._catalogue = catalogue
        self._kinds = kinds
        self._rules = rules
        self._purchase = kinds["purchase"].code
        self._allowed: NDArray[np.bool_] | None = None
        self._allowed_for = (-1, -1, -1)

    def rank(self, profiles: Sequence[Profile], n: int) -> list[list[RankedItem]]:
        """The best n items of each profile, exactly; shorter where fewer are left."""
        if not profiles or len(self._view) == 0:
            return [[] for _ in profiles]
        users = user_matrix(profiles, self._view.shape.n_factors)
        exclude = [self._left_out(profile) for profile in profiles]
        rows, scores = top_k(self._view, users, exclude, n, self._in_stock())
        return [
            self._entries(profile, rows[number], scores[number])
            for number, profile in enumerate(profiles)
        ]

    def rerank(
        self, profile: Profile, candidates: Sequence[str], n: int | None = None
    ) -> list[RankedItem]:
        """The candidates in the profile's order; items without a vector come last, as given."""
        distinct = list(dict.fromkeys(candidates))
        rows = self._view.rows(distinct)
        known = np.flatnonzero(rows != NO_ROW)
        x = user_matrix([profile], self._view.shape.n_factors)[0]
        scores = rank_rows(self._view, x, rows[known])
        order = known[np.argsort(-scores, kind="stable")]
        ranked = self._entries(profile, rows[order], np.sort(scores)[::-1])
        lowest = ranked[-1].score if ranked else 0.0
        unknown = [item_id for item_id, row in zip(distinct, rows, strict=True) if row == NO_ROW]
        ranked += [
            RankedItem(item_id=item_id, rank=len(ranked) + 1 + number, score=lowest)
            for number, item_id in enumerate(unknown)
        ]
        return ranked[:n]

    def _entries(
        self, profile: Profile, rows: NDArray[np.int32], scores: NDArray[np.float32]
    ) -> list[RankedItem]:
        kept = rows != NO_ROW
        rows, scores = rows[kept], scores[kept]
        reasons = self._reasons(profile, rows)
        return [
            RankedItem(
                item_id=self._view.ids[row],
                rank=number + 1,
                score=round(float(score), 5),
                reasons=reasons[number],
            )
            for number, (row, score) in enumerate(zip(rows.tolist(), scores, strict=True))
        ]

    def _reasons(self, profile: Profile, rows: NDArray[np.int32]) -> list[list[Reason]]:
        n_reasons = self._rules.n_reasons
        if not profile.history or n_reasons == 0 or not len(rows):
            return [[] for _ in rows]
        context = context_of(profile, self._view)
        shares = explain(context, self._view, rows)
        reasons = []
        for of_item in shares:
            best = np.argsort(-of_item, kind="stable")[:n_reasons]
            reasons.append(
                [
                    Reason(
                        item_id=self._view.ids[context.rows[a]],
                        kind=self._kinds.name(profile.history[a].kind),
                        ts=profile.history[a].time_ms,
                        share=round(float(of_item[a]), 3),
                    )
                    for a in best.tolist()
                    if of_item[a] >= LEAST_SHARE
                ]
            )
        return reasons

    def _left_out(self, profile: Profile) -> NDArray[np.int32]:
        hashes = []
        if self._rules.exclude_current and profile.history:
            hashes.append(profile.history[0].item_hash)
        if self._rules.exclude_bought:
            hashes += [past.item_hash for past in profile.history if past.kind == self._purchase]
        return self._view.rows_of_hashes(hashes)

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
