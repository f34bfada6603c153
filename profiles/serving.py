"""Scores of all items for many users, and exact top-k of those that can be recommended.

The score is the blend's, theta(context) . phi(user, item), with the terms that `terms` gives for
one item (a test compares every item of a random shop). Here they are made for whole tables: a
product with the items' vectors, what is said of the items alone once for all lists (`base_terms`),
a look-up by group and by token, and a correction at the few hundred items that the user touched.
A user without history gets what is popular.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.base_terms import BaseTerms
from profiles.blend import write_parts, write_weights
from profiles.embedding import fill_context
from profiles.errors import DivergedError
from profiles.facets import N_FACETS
from profiles.groups import N_GROUPS, PRIOR, Groups, GroupScratch, group_lift, group_share
from profiles.jit import Integer, compiled, compiled_inner
from profiles.kernel import forget_touched, touch_items
from profiles.model import Model
from profiles.own import begins_session, minute_of
from profiles.profile import ProfileColumns
from profiles.queries import query_rows
from profiles.scratch import Constants, Scratch, constants_of, scratch_for
from profiles.shape import FoldConfig
from profiles.terms import (
    COUNT_FLOOR,
    DOT,
    G_LEAF,
    H_LEAF,
    LFN,
    N_TERMS,
    POPS,
    QT,
    slow_count,
    write_touched_terms,
)
from profiles.tokens import N_TOKENS, TEXT_SHARE, Tokens, read_item
from profiles.view import ItemView

NO_ROW = -1
"""Fills the end of a list that is shorter than asked for."""

SCORES_AT_ONCE = 1 << 22
"""Scores in memory at a time, 16 MB: many users at a large catalogue are taken in blocks."""

TILE = 64
"""BLAS adds up the last rows of a product, beyond a multiple of its tile, in another order: an
item's score would hang on how many items there are, and a trial on how its batch was cut."""

READ_FOR = 8
"""Users from which on it is cheaper to read each item's text once than to look up each token for
each user."""

ROWS_READ = 4_096
"""Items whose vectors are read at a time: 1 MB at K = 64, which stays in the cache."""


class Users(NamedTuple):
    """B users as the model sees them when their lists are made (K factors, H history, F terms)."""

    row: NDArray[np.int32]  # (B,) in the profile columns
    x: NDArray[np.float32]  # (B, K)
    history: NDArray[np.int64]  # (B, H) rows of items, newest first; NO_ROW: none, or not known
    coefficient: NDArray[np.float32]  # (B, H) c_a
    parts: NDArray[np.int64]  # (B, 4) active parts of the blend
    weight: NDArray[np.float32]  # (B, F) their sum
    begins: NDArray[np.bool_]  # (B,) whether a session begins
    minute: NDArray[np.int64]  # (B,) of now


class Weighted(NamedTuple):
    """What terms add to scores, for one user. Kept between calls."""

    group: NDArray[np.float32]  # (G + 1,) to a group's items; the last one, for -1, stays 0
    touched: NDArray[np.float32]  # (M + 1,) to an item at its place + 1; the first one stays 0
    phi: NDArray[np.float32]  # (1, F)
    lift: NDArray[np.float32]  # (N_FACETS,) to items of groups that nothing leads to
    share: NDArray[np.float32]  # (N_FACETS,) to items of groups that the user has nothing of


class Scorer:
    """Scores for one reader of a model. One call at a time: it keeps working memory."""

    def __init__(self, config: FoldConfig) -> None:
        self._config = config
        self._constants = constants_of(config)
        self._scratch: Scratch | None = None
        self._weighted: Weighted

    def users(
        self,
        model: Model,
        columns: ProfileColumns,
        rows: NDArray[np.int32],
        time_ms: NDArray[np.int64],
        session: NDArray[np.uint32],
    ) -> Users:
        """The users of rows, int32 (B,), as the model sees them at their times.

        time_ms: int64 (B,), of the event or request that the list is for; it says whether a session
        begins. session: uint32 (B,), hash of that one's session id, 0 without one.
        Raises DivergedError for a user vector that is not finite.
        """
        B, shape = len(rows), self._config.shape
        users = Users(
            row=rows,
            x=np.zeros((B, shape.n_factors), np.float32),
            history=np.full((B, shape.history), NO_ROW, np.int64),
            coefficient=np.zeros((B, shape.history), np.float32),
            parts=np.zeros((B, 4), np.int64),
            weight=np.zeros((B, N_TERMS), np.float32),
            begins=np.zeros(B, np.bool_),
            minute=np.zeros(B, np.int64),
        )
        _see(columns, model, time_ms, session, self._constants, self._room(model), users)
        if not np.isfinite(users.x).all():
            raise DivergedError("a user vector to score is not finite")
        return users

    def scores(
        self,
        model: Model,
        base: BaseTerms,
        columns: ProfileColumns,
        users: Users,
        picked: NDArray[np.int32] | None = None,
    ) -> NDArray[np.float32]:
        """float32 (B, I): the score of every item of `base` for every user; float32 (B, N) of the
        rows `picked` only, if given."""
        items, n = model.items, len(base)
        if picked is None:
            vectors, text = items.vectors[:n], items.text[:n]
            picked = base.rows
        else:
            vectors, text = items.vectors[picked], items.text[picked]
        with np.errstate(over="ignore", invalid="ignore"):  # no list has what is no number
            S = _products(vectors, text, model.tokens, users.x * users.weight[:, DOT, None])
        weighted, contexts = base.of(list(map(tuple, users.parts.tolist())))
        _add_terms(
            columns, model, users, weighted, np.array(contexts, np.int64), picked,
            self._constants, self._room(model), self._weighted, S,
        )  # fmt: skip
        return S

    def top_k(
        self,
        view: ItemView,
        columns: ProfileColumns,
        users: Users,
        exclude: Sequence[NDArray[np.integer[Any]]] | None,
        n: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best `n` items of each user, exactly: rows int32 (B, n), scores float32 (B, n).

        exclude: for each user the rows to leave out (-1 is passed over), or None. allowed: bool
        (I,), items that may be shown, or None for all; of them those that are `view.rankable`.
        Equal scores are ordered by row; an item whose score is not finite is left out. A list with
        fewer than n items ends in NO_ROW, -inf. Raises ValueError for a wrong shape.
        """
        B, n_items = len(users.row), len(view)
        if exclude is not None and len(exclude) != B:
            raise ValueError(f"{B} users, {len(exclude)} lists of excluded rows")
        if allowed is not None and len(allowed) != n_items:
            raise ValueError(f"a mask of {len(allowed)} items for a view of {n_items}")
        rows = np.full((B, n), NO_ROW, np.int32)
        best = np.full((B, n), -np.inf, np.float32)
        mask = view.rankable if allowed is None else view.rankable & allowed
        at_once = max(1, SCORES_AT_ONCE // max(1, n_items))
        for first in range(0, B, at_once):
            part = slice(first, first + at_once)
            some = Users._make(column[part] for column in users)
            S = self.scores(view.model, view.base, columns, some)
            for b, scores in enumerate(S):
                if exclude is not None and len(exclude[first + b]):
                    out = exclude[first + b]
                    scores[out[(out >= 0) & (out < n_items)]] = -np.inf
            _pick_best(S, mask, rows[part], best[part])
        return rows, best

    def _room(self, model: Model) -> Scratch:
        """Working memory for as many items and groups as the model has room for."""
        n_items, n_groups = len(model.items.counts), len(model.groups.counts)
        s = self._scratch
        if s is None or (len(s.touched.at), len(s.groups.moved)) != (n_items, n_groups):
            s = self._scratch = scratch_for(self._config, n_items, n_groups)
            self._weighted = Weighted(
                group=np.zeros(n_groups + 1, np.float32),
                touched=np.zeros(len(s.touched.rows) + 1, np.float32),
                phi=np.zeros((1, N_TERMS), np.float32),
                lift=np.zeros(N_FACETS, np.float32),
                share=np.zeros(N_FACETS, np.float32),
            )
        return s


def _products(
    vectors: NDArray[np.float32],
    text: NDArray[np.int32],
    tokens: Tokens,
    X: NDArray[np.float32],
) -> NDArray[np.float32]:
    """float32 (B, N): x . e of every item, e being its row and what its text adds.

    vectors: (N, K). text: (N, T). X: (B, K).
    """
    n_tokens = int(tokens.state[N_TOKENS])
    if not n_tokens:
        return _tiled(X, vectors)
    if len(X) < READ_FOR:
        S = _tiled(X, vectors)
        _add_text(S, text, _tiled(X, tokens.vectors[:n_tokens]))
        return S
    S = np.empty((len(X), len(vectors)), np.float32)
    E = np.zeros((ROWS_READ, vectors.shape[1]), np.float32)
    for first in range(0, len(vectors), ROWS_READ):
        n = min(ROWS_READ, len(vectors) - first)
        _read_items(vectors[first : first + n], text[first : first + n], tokens, E)
        S[:, first : first + n] = (X @ E.T)[:, :n]
    return S


def _tiled(X: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """X @ vectors.T, each column of which depends on its own vector alone."""
    n = len(vectors)
    whole = n // TILE * TILE
    if whole == n:
        return X @ vectors.T
    S = np.empty((len(X), n), np.float32)
    S[:, :whole] = X @ vectors[:whole].T
    rest = np.zeros((TILE, vectors.shape[1]), np.float32)
    rest[: n - whole] = vectors[whole:]
    S[:, whole:] = (X @ rest.T)[:, : n - whole]
    return S


@compiled
def _see(
    columns: ProfileColumns, model: Model, time_ms: NDArray[np.int64], session: NDArray[np.uint32],
    c: Constants, s: Scratch, users: Users,
) -> None:  # fmt: skip
    for b in range(len(users.row)):
        user = np.int64(users.row[b])
        n = np.int64(columns.n_history[user])
        fill_context(columns, model, user, c, s)
        for k in range(len(s.x)):
            users.x[b, k] = s.x[k]
        for a in range(n):
            users.history[b, a] = s.history_row[a]
            users.coefficient[b, a] = s.coefficient[a]
        users.begins[b] = begins_session(columns, user, session[b], time_ms[b])
        users.minute[b] = minute_of(time_ms[b])
        write_parts(n, users.begins[b], columns.n_pending[user], users.parts[b])
        write_weights(model.blend.theta, users.parts[b], users.weight[b])


@compiled_inner
def _weigh_groups(
    groups: Groups, s: GroupScratch, weight: NDArray[np.float32], w: Weighted
) -> None:
    """What each group adds to the scores of its items.

    Nothing leads to most groups, and what those add is the same for a whole facet.
    """
    lift, share = w.lift, w.share
    for facet in range(len(s.moved_total)):
        lift[facet] = 0
        share[facet] = 0
        if s.from_known[facet] != 0:
            prior = np.float32(PRIOR)
            lift[facet] = weight[G_LEAF + facet] * np.log(prior / (s.moved_total[facet] + prior))
        if s.held_total[facet] != 0:
            share[facet] = -weight[H_LEAF + facet] * np.log(s.held_total[facet] + np.float32(1))
    for group in range(groups.state[N_GROUPS]):
        of = np.int64(groups.facet[group])
        of_lift = lift[of]
        of_share = share[of]
        if s.moved[group] != 0:
            of_lift = weight[G_LEAF + of] * group_lift(groups, group, s)
        if s.held[group] != 0:
            of_share = weight[H_LEAF + of] * group_share(groups, group, s)
        w.group[group] = of_lift + of_share


@compiled_inner
def _weigh_touched(
    columns: ProfileColumns, model: Model, users: Users, b: Integer, c: Constants, s: Scratch,
    w: Weighted,
) -> None:  # fmt: skip
    """What each touched item gets for it, at its place + 1."""
    t = s.touched
    user = np.int64(users.row[b])
    begins = bool(users.begins[b])
    for place in range(t.n[0]):
        slow = slow_count(model.items, t.rows[place], c.speeds)
        w.phi[0, POPS] = np.log(slow + np.float32(COUNT_FLOOR))
        write_touched_terms(columns, user, begins, users.minute[b], t, np.int64(place), w.phi, 0)
        total = np.float32(0)
        for term in range(LFN, QT + 1):
            total += users.weight[b, term] * w.phi[0, term]
        w.touched[place + 1] = total


@compiled
def _add_terms(
    columns: ProfileColumns, model: Model, users: Users, base: NDArray[np.float32],
    contexts: NDArray[np.int64], picked: NDArray[np.int32], c: Constants, s: Scratch, w: Weighted,
    S: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add all terms but DOT to S: (B, N), of the rows picked. base: of items alone, by context."""
    facets = model.items.facets
    has_groups = model.groups.state[N_GROUPS] > 0
    for b in range(len(S)):
        user = np.int64(users.row[b])
        n_words = np.int64(columns.n_pending[user])
        for a in range(columns.n_history[user]):
            s.history_row[a] = users.history[b, a]
        query_rows(model.queries, columns.pending[user], n_words, s.query_row)
        touch_items(columns, model, user, c, s)
        _weigh_touched(columns, model, users, b, c, s, w)
        of_item = base[contexts[b]]
        for j in range(len(picked)):
            row = picked[j]
            S[b, j] += of_item[row] + w.touched[s.touched.at[row]]
        if has_groups:
            _weigh_groups(model.groups, s.groups, users.weight[b], w)
            for j in range(len(picked)):
                total = np.float32(0)
                for facet in range(facets.shape[1]):
                    total += w.group[facets[picked[j], facet]]  # the last one for -1
                S[b, j] += total
        forget_touched(columns, model, user, s)


@compiled
def _add_text(
    S: NDArray[np.float32], text: NDArray[np.int32], of_token: NDArray[np.float32]
) -> None:
    """Add what the text of each item says. S: (B, N). of_token: (B, W), x . X of every token."""
    for b in range(len(S)):
        for j in range(len(text)):
            total = np.float32(0)
            n = 0
            while n < text.shape[1] and text[j, n] >= 0:
                total += of_token[b, text[j, n]]
                n += 1
            S[b, j] += np.float32(TEXT_SHARE) / np.float32(max(n, 1)) * total


@compiled
def _read_items(
    vectors: NDArray[np.float32], text: NDArray[np.int32], tokens: Tokens, E: NDArray[np.float32]
) -> None:
    """Write the items' effective vectors into the first rows of E."""
    for row in range(len(vectors)):
        read_item(vectors, text, tokens, row, E[row])


@compiled
def _pick_best(
    S: NDArray[np.float32],
    allowed: NDArray[np.bool_],
    rows: NDArray[np.int32],
    best: NDArray[np.float32],
) -> None:
    """The largest finite scores of each row of S, largest first, ties by row, into rows and best.

    allowed: of length I. One pass: most scores lose against the worst of the
    list so far and cost one comparison.
    """
    n = rows.shape[1]
    for b in range(S.shape[0]):
        n_found = 0
        for j in range(S.shape[1]):
            score = S[b, j]
            if n_found == n and score <= best[b, n - 1]:
                continue
            if not np.isfinite(score) or not allowed[j]:
                continue
            place = n_found if n_found < n else n - 1
            while place > 0 and score > best[b, place - 1]:
                best[b, place] = best[b, place - 1]
                rows[b, place] = rows[b, place - 1]
                place -= 1
            best[b, place] = score
            rows[b, place] = j
            n_found = min(n_found + 1, n)
