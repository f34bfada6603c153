"""Scores of all items for many users, and top-k of those that can be recommended: exact ones, or of
`candidates`.

The score is the blend's, theta(context) . phi(user, item), with the terms that `terms` gives for
one item (a test compares every item of a random shop). Here they are made for whole tables: a
product with the items' vectors, what is said of the items alone once for all lists (`base_terms`),
a look-up by group and by token, and a correction at the few hundred items that the user touched.
A user without history gets what is popular.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.base_terms import BaseTerms
from profiles.blend import write_parts, write_weights
from profiles.candidate_search import Search
from profiles.candidates import Candidates, Ready
from profiles.embedding import fill_context
from profiles.errors import DivergedError
from profiles.groups import N_GROUPS
from profiles.jit import compiled
from profiles.kernel import forget_touched, touch_items
from profiles.model import Model
from profiles.own import begins_session, minute_of
from profiles.profile import ProfileColumns
from profiles.queries import query_rows
from profiles.scratch import Constants, Scratch, constants_of, scratch_for
from profiles.shape import FoldConfig
from profiles.terms import DOT, N_TERMS
from profiles.tokens import N_TOKENS, TEXT_SHARE, Tokens, read_item
from profiles.user_terms import NO_ROW as NO_ROW
from profiles.user_terms import Users as Users
from profiles.user_terms import Weighted, weigh_groups, weigh_touched, weighted_for
from profiles.view import ItemView

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


class Scorer:
    """Scores for one reader of a model. One call at a time: it keeps working memory."""

    def __init__(self, config: FoldConfig) -> None:
        self._config = config
        self._constants = constants_of(config)
        self._scratch: Scratch | None = None
        self._weighted: Weighted
        self._search: Search | None = None

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
    ) -> NDArray[np.float32]:
        """float32 (B, I): the score of every item of `base` for every user."""
        items, n, picked = model.items, len(base), base.rows
        if base.whole:
            vectors, text = items.vectors[:n], items.text[:n]
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
        candidates: Candidates | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The best `n` items of each user: rows int32 (B, n), scores float32 (B, n).

        Exactly, without candidates, or as long as those are not ready; else the best of them, but
        for a list that they don't fill.
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
        every = np.arange(B)
        if candidates is not None:
            candidates.want(users)
            ready = candidates.ready
            if ready is not None:
                self._find(candidates, ready, view, columns, users, exclude, allowed, rows, best)
                every = np.flatnonzero(rows[:, -1] == NO_ROW) if n else every[:0]
        if len(every):
            self._score_all(view, columns, users, exclude, allowed, every, rows, best)
        return rows, best

    def _score_all(
        self,
        view: ItemView,
        columns: ProfileColumns,
        users: Users,
        exclude: Sequence[NDArray[np.integer[Any]]] | None,
        allowed: NDArray[np.bool_] | None,
        which: NDArray[np.int64],
        rows: NDArray[np.int32],
        best: NDArray[np.float32],
    ) -> None:
        """Fill rows and best, (B, n), of the users `which`, by the scores of all items."""
        n_items, n = len(view), rows.shape[1]
        mask = view.rankable if allowed is None else view.rankable & allowed
        at_once = max(1, SCORES_AT_ONCE // max(1, n_items))
        for first in range(0, len(which), at_once):
            part = which[first : first + at_once]
            some = Users._make(column[part] for column in users)
            S = self.scores(view.model, view.base, columns, some)
            for b, scores in zip(part.tolist(), S, strict=True):
                if exclude is not None and len(exclude[b]):
                    out = exclude[b]
                    scores[out[(out >= 0) & (out < n_items)]] = -np.inf
            found = np.full((len(part), n), NO_ROW, np.int32)
            scored = np.full((len(part), n), -np.inf, np.float32)
            _pick_best(S, mask, found, scored)
            rows[part], best[part] = found, scored

    def _find(
        self,
        candidates: Candidates,
        ready: Ready,
        view: ItemView,
        columns: ProfileColumns,
        users: Users,
        exclude: Sequence[NDArray[np.integer[Any]]] | None,
        allowed: NDArray[np.bool_] | None,
        rows: NDArray[np.int32],
        best: NDArray[np.float32],
    ) -> None:
        """Fill rows and best, (B, n), by candidates."""
        n_rows, n = len(view.model.items.counts), rows.shape[1]
        self._search = candidates.search_for(ready, n_rows, n, self._search)
        exclude = exclude or []
        out = np.full((len(rows), max(map(len, exclude), default=0)), NO_ROW, np.int64)
        for b, left_out in enumerate(exclude):
            out[b, : len(left_out)] = left_out
        s = self._room(view.model)
        candidates.find(
            ready, columns, users, out, allowed, self._constants, s, self._weighted, self._search,
            rows, best,
        )  # fmt: skip

    def _room(self, model: Model) -> Scratch:
        """Working memory for as many items and groups as the model has room for."""
        n_items, n_groups = len(model.items.counts), len(model.groups.counts)
        s = self._scratch
        if s is None or (len(s.touched.at), len(s.groups.moved)) != (n_items, n_groups):
            s = self._scratch = scratch_for(self._config, n_items, n_groups)
            self._weighted = weighted_for(len(s.touched.rows), n_groups)
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
        weigh_touched(columns, model, users, b, c, s, w)
        of_item = base[contexts[b]]
        for j in range(len(picked)):
            S[b, j] += of_item[j] + w.touched[s.touched.at[picked[j]]]
        if has_groups:
            weigh_groups(model.groups, s.groups, users.weight[b], w)
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
