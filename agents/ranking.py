"""From profiles to ranked lists with reasons: what the scorer computes, without any topic.

A user's items to leave out follow the settings; a user without history gets what is popular.
Reasons are the past events whose share of x . e_j is largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.catalogue import Catalogue
from profiles.interactions import MAX_KINDS, Kinds
from profiles.profile import NO_OFFSET
from profiles.reasons import history_rows, reasons
from profiles.scoring import NO_ROW, rank_rows, top_k
from profiles.table import ProfileTable
from profiles.view import ItemView
from streams.events import RankedItem

encode_text = msgspec.json.Encoder().encode

LEAST_SHARE = 0.05
"""A reason that carries less than this share of the score explains nothing to a person."""


@dataclass(frozen=True, slots=True)
class RankingRules:
    """Which items are left out, and how much is said about the rest."""

    exclude_out_of_stock: bool = True
    exclude_current: bool = True
    exclude_bought: bool = False
    n_reasons: int = 3


class Ranked(NamedTuple):
    """One user's list. profile_offset: of the newest event behind it, None without a profile.

    entries: each a `RankedItem` as JSON, best first.
    """

    profile_offset: int | None
    entries: list[str]

    @property
    def items(self) -> list[RankedItem]:
        """The list for who looks at it here."""
        return msgspec.json.decode(self._raw, type=list[RankedItem])

    @property
    def sendable(self) -> list[RankedItem]:
        """The list for who only sends it on: msgspec writes it out as it is."""
        return cast("list[RankedItem]", self._raw)

    @property
    def _raw(self) -> msgspec.Raw:
        return msgspec.Raw(f"[{','.join(self.entries)}]".encode())


class Ranking:
    """Ranks the items of a view for profiles, given as records. One call at a time."""

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
        self._kind_names = [encode_text(kinds.name(code)).decode() for code in range(MAX_KINDS)]
        self._purchase = kinds["purchase"].code
        self._profiles = ProfileTable(view.shape)  # scratch: the users of one call
        self._allowed: NDArray[np.bool_] | None = None
        self._allowed_for = (-1, -1, -1)

    @property
    def n_items(self) -> int:
        """Items that can be ranked."""
        return len(self._view)

    def rank(
        self, user_ids: Sequence[str], records: Sequence[bytes | None], n: int
    ) -> list[Ranked]:
        """The best n items of each user, exactly; shorter where fewer are left.

        records: in the order of the distinct user_ids; None for a user without a profile, who
        gets what is popular. Raises RecordCorrupt and RecordTooNew, which name the user.
        """
        if not user_ids:
            return []
        users = self._load(user_ids, records)
        history = history_rows(self._profiles, users, self._view)
        vectors = np.ascontiguousarray(self._profiles.columns.vector[users])
        ranked, scores = top_k(
            self._view, vectors, self._left_out(users, history), n, self._in_stock()
        )
        return self._entries(users, history, ranked, scores)

    def rerank(
        self, user_id: str, record: bytes | None, candidates: Sequence[str], n: int | None = None
    ) -> Ranked:
        """The candidates in the profile's order; items without a vector come last, as given."""
        distinct = list(dict.fromkeys(candidates))
        users = self._load([user_id], [record])
        rows = self._view.rows(distinct)
        scores = rank_rows(self._view, self._profiles.columns.vector[users[0]], rows)
        known = np.flatnonzero(rows != NO_ROW)
        order = known[np.argsort(-scores[known], kind="stable")]
        history = history_rows(self._profiles, users, self._view)
        found = self._entries(users, history, rows[None, order], scores[None, order])[0]
        lowest = float(scores[order[-1]]) if len(order) else 0.0
        unknown = [item_id for item_id, row in zip(distinct, rows, strict=True) if row == NO_ROW]
        last = [
            encode_text(RankedItem(item_id=item_id, rank=rank, score=round(lowest, 5))).decode()
            for rank, item_id in enumerate(unknown, len(found.entries) + 1)
        ]
        return Ranked(found.profile_offset, (found.entries + last)[:n])

    def _load(self, user_ids: Sequence[str], records: Sequence[bytes | None]) -> NDArray[np.int32]:
        self._profiles.clear()
        self._profiles.load(user_ids, records)
        return self._profiles.rows(user_ids)

    def _entries(
        self,
        users: NDArray[np.int32],
        history: NDArray[np.int32],
        ranked: NDArray[np.int32],
        scores: NDArray[np.float32],
    ) -> list[Ranked]:
        """Lists as JSON, written out here: a list has 20 items with 60 reasons, and made of
        structs it costs as much as ranking 3,000 items (a test decodes them again)."""
        why = reasons(self._profiles, users, self._view, history, ranked, self._rules.n_reasons)
        why.history[why.shares < LEAST_SHARE] = -1
        columns, quoted = self._profiles.columns, self._quoted
        lists = []
        for offset, past, times, kinds, rows, row_scores, places, shares in zip(
            columns.last_offset[users].tolist(),
            history.tolist(),
            columns.history_ms[users].tolist(),
            columns.history_kind[users].tolist(),
            ranked.tolist(),
            np.round(scores.astype(np.float64), 5).tolist(),
            why.history.tolist(),
            np.round(why.shares.astype(np.float64), 3).tolist(),
            strict=True,
        ):
            reason = [
                f'{{"item_id":{quoted(past[a])},"kind":{self._kind_names[kinds[a]]},'
                f'"ts":{times[a]},"share":'
                if past[a] != NO_ROW
                else ""
                for a in range(len(past))
            ]
            entries = [
                f'{{"item_id":{quoted(row)},"rank":{number},"score":{score!r},"reasons":['
                + ",".join([f"{reason[a]}{of!r}}}" for a, of in zip(at, share) if a >= 0])  # noqa: B905
                + "]}"
                for number, (row, score, at, share) in enumerate(
                    zip(rows, row_scores, places, shares, strict=True), 1
                )
                if row != NO_ROW
            ]
            lists.append(Ranked(offset if offset != NO_OFFSET else None, entries))
        return lists

    def _quoted(self, row: int) -> str:
        """An item's id as JSON."""
        return encode_text(self._view.ids[row]).decode()

    def _left_out(
        self, users: NDArray[np.int32], history: NDArray[np.int32]
    ) -> list[NDArray[np.int32]] | None:
        """For each user the rows that the rules leave out."""
        out = np.full_like(history, NO_ROW)
        if self._rules.exclude_bought:
            bought = self._profiles.columns.history_kind[users] == self._purchase
            out[bought] = history[bought]
        if self._rules.exclude_current:
            out[:, 0] = history[:, 0]
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
