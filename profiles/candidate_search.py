"""The compiled search for a list's candidates, and their full score.

Asked are the items that the user touched, those that score best by themselves, the best of the
groups of the newest items, and the cells of the vector index that point where the user does. They
are compared by about their score: codes in place of vectors, what is said of items alone as of some
seconds ago. The best of them get the score that `serving` gives, from the model as it stands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.groups import DEPTH, N_GROUPS
from profiles.jit import Integer, Real, compiled, compiled_inner
from profiles.kernel import forget_touched, touch_items
from profiles.model import Model
from profiles.profile import ProfileColumns
from profiles.queries import query_rows
from profiles.scratch import Constants, Scratch
from profiles.terms import DOT, LAST, N_TERMS, POPF, write_item_terms
from profiles.tokens import read_item
from profiles.user_terms import Users, Weighted, weigh_groups, weigh_touched
from profiles.vector_index import BLOCK, Cells


class Known(NamedTuple):
    """What was said of the first n items alone at one moment, in X contexts.

    An item that is newer gets `rest`: better to look at it once too often.
    """

    base: NDArray[np.float32]  # (X, n) it adds to a score
    popular: NDArray[np.int32]  # (X, P) rows of the largest, -1 at the end
    rest: NDArray[np.float32]  # (X,) the largest of the others, if there are any
    of_group: NDArray[np.int32]  # (G, N) rows of the largest of each group, -1 at the end


class Wanted(NamedTuple):
    """B lists that are asked for."""

    context: NDArray[np.int64]  # (B,) of `Known`
    out: NDArray[np.int64]  # (B, O) rows to leave out, -1: passed over
    allowed: NDArray[np.bool_]  # (I,) what may be shown; empty: everything
    n_read: int  # items of the index to look at, for each list


class Search(NamedTuple):
    """Working memory (I items, A asked for by themselves, C cells, R best). Kept between calls."""

    mark: NDArray[np.int32]  # (I,) number of the list that last looked at the item
    number: NDArray[np.int32]  # (1,) of the newest list
    asked: NDArray[np.int32]  # (A,)
    promise: NDArray[np.float32]  # (C,) what x . e is in the middle of each cell
    order: NDArray[np.int32]  # (C,) a heap of cells, the most promising first
    row: NDArray[np.int32]  # (R,) a heap of the best, the least first
    about: NDArray[np.float32]  # (R,) about their scores
    n: NDArray[np.int64]  # (1,) how many they are
    x: NDArray[np.float32]  # (K,)
    e: NDArray[np.float32]  # (K,)
    phi: NDArray[np.float32]  # (1, F)


def search_for(n_items: int, n_asked: int, n_cells: int, n_best: int, n_factors: int) -> Search:
    """Nothing looked at, for so many items."""
    return Search(
        mark=np.zeros(n_items, np.int32),
        number=np.zeros(1, np.int32),
        asked=np.zeros(n_asked, np.int32),
        promise=np.zeros(n_cells, np.float32),
        order=np.zeros(n_cells, np.int32),
        row=np.zeros(n_best, np.int32),
        about=np.zeros(n_best, np.float32),
        n=np.zeros(1, np.int64),
        x=np.zeros(n_factors, np.float32),
        e=np.zeros(n_factors, np.float32),
        phi=np.zeros((1, N_TERMS), np.float32),
    )


@compiled
def find_best(
    columns: ProfileColumns, model: Model, users: Users, wanted: Wanted, known: Known,
    cells: Cells, c: Constants, s: Scratch, w: Weighted, k: Search, rows: NDArray[np.int32],
    best: NDArray[np.float32],
) -> None:  # fmt: skip
    """The lists as `serving` makes them, of the candidates alone, into rows and best: (B, n)."""
    items = model.items
    facets = items.facets
    has_groups = model.groups.state[N_GROUPS] > 0
    for b in range(len(users.row)):
        user = np.int64(users.row[b])
        n_words = np.int64(columns.n_pending[user])
        for a in range(columns.n_history[user]):
            s.history_row[a] = users.history[b, a]
        query_rows(model.queries, columns.pending[user], n_words, s.query_row)
        touch_items(columns, model, user, c, s)
        weigh_touched(columns, model, users, b, c, s, w)
        length = np.float32(0)
        for f in range(len(k.x)):
            k.x[f] = users.x[b, f] * users.weight[b, DOT]
            length += k.x[f] * k.x[f]
        of_groups: Real = np.float32(0)
        if has_groups:
            weigh_groups(model.groups, s.groups, users.weight[b], w)
            of_groups = _most_of_groups(model, w)
        _begin(k, wanted.out[b])
        n_asked = _ask(model, known, wanted.context[b], np.int64(columns.n_history[user]), s, k)
        _look_at_asked(model, wanted, known, wanted.context[b], cells, n_asked, s, w, k)
        if length > 0:
            _read_cells(model, wanted, known, wanted.context[b], cells, of_groups, w, k)
        for j in range(k.n[0]):
            row = np.int64(k.row[j])
            read_item(items.vectors, items.text, model.tokens, row, k.e)
            score = np.float32(0)
            for f in range(len(k.x)):
                score += k.x[f] * k.e[f]
            write_item_terms(items, row, c.speeds, k.phi, 0)
            of_item = np.float32(0)
            for term in range(POPF, LAST + 1):
                of_item += users.weight[b, term] * k.phi[0, term]
            score += of_item + w.touched[s.touched.at[row]]
            if has_groups:
                for facet in range(facets.shape[1]):
                    score += w.group[facets[row, facet]]
            _list(rows[b], best[b], row, score)
        forget_touched(columns, model, user, s)


@compiled_inner
def _begin(k: Search, out: NDArray[np.int64]) -> None:
    """A new list. What it leaves out counts as looked at."""
    if k.number[0] == np.int32(2**31 - 1):
        k.mark[:] = 0
        k.number[0] = 0
    k.number[0] += 1
    k.n[0] = 0
    for row in out:
        if 0 <= row < len(k.mark):
            k.mark[row] = k.number[0]


@compiled_inner
def _most_of_groups(model: Model, w: Weighted) -> Real:
    """What groups can add to a score at most."""
    most = w.most
    for facet in range(len(most)):
        most[facet] = 0
    for group in range(model.groups.state[N_GROUPS]):
        of = np.int64(model.groups.facet[group])
        most[of] = max(most[of], w.group[group])
    total = np.float32(0)
    for facet in range(len(most)):
        total += most[facet]
    return total


@compiled_inner
def _note(k: Search, row: Integer, n: Integer) -> Integer:
    """Ask for an item that was not yet looked at; returns how many are asked for."""
    if row >= 0 and k.mark[row] != k.number[0] and n < len(k.asked):
        k.mark[row] = k.number[0]
        k.asked[n] = row
        return n + 1
    return n


@compiled_inner
def _ask(
    model: Model, known: Known, context: Integer, n_history: Integer, s: Scratch, k: Search
) -> Integer:
    """The items that no vector has to lead to; returns how many."""
    facets = model.items.facets
    n = np.int64(0)
    for place in range(s.touched.n[0]):
        n = _note(k, s.touched.rows[place], n)
    for place in range(known.popular.shape[1]):
        n = _note(k, np.int64(known.popular[context, place]), n)
    for a in range(min(DEPTH, n_history)):
        row = s.history_row[a]
        if row >= 0:
            for facet in range(facets.shape[1]):
                group = np.int64(facets[row, facet])
                if 0 <= group < len(known.of_group):
                    for place in range(known.of_group.shape[1]):
                        n = _note(k, np.int64(known.of_group[group, place]), n)
    return n


@compiled
def _look_at_asked(
    model: Model, wanted: Wanted, known: Known, context: Integer, cells: Cells, n_asked: Integer,
    s: Scratch, w: Weighted, k: Search,
) -> None:  # fmt: skip
    base, most_base = known.base[context], known.rest[context]
    items, facets = model.items, model.items.facets
    has_groups = model.groups.state[N_GROUPS] > 0
    for number in range(n_asked):
        row = np.int64(k.asked[number])
        if items.rankable_at[row] < 0 or (len(wanted.allowed) > 0 and not wanted.allowed[row]):
            continue
        about: Real = np.float32(0)
        place = np.int64(-1)
        if row < len(cells.place):
            place = np.int64(cells.place[row])
        if place >= 0:
            block, at = place // BLOCK, place % BLOCK
            for f in range(len(k.x)):
                about += k.x[f] * np.float32(cells.code[block, at, f])
            about *= cells.scale[block, at]
        else:  # new
            read_item(items.vectors, items.text, model.tokens, row, k.e)
            for f in range(len(k.x)):
                about += k.x[f] * k.e[f]
        about += base[row] if row < len(base) else most_base
        about += w.touched[s.touched.at[row]]
        if has_groups:
            for facet in range(facets.shape[1]):
                about += w.group[facets[row, facet]]
        if np.isfinite(about):
            _offer(k, row, about)


@compiled
def _read_cells(
    model: Model, wanted: Wanted, known: Known, context: Integer, cells: Cells, of_groups: Real,
    w: Weighted, k: Search,
) -> None:  # fmt: skip
    """The cells where x . e is largest, until enough items were looked at."""
    rankable_at, facets = model.items.rankable_at, model.items.facets
    has_groups = model.groups.state[N_GROUPS] > 0
    base, most_base, mark, number = known.base[context], known.rest[context], k.mark, k.number[0]
    n_left: Integer = len(cells.tail)
    for cell in range(n_left):
        promise = np.float32(0)
        for f in range(len(k.x)):
            promise += k.x[f] * cells.middle[cell, f]
        k.promise[cell] = promise
        k.order[cell] = cell
    for place in range(n_left // 2 - 1, -1, -1):
        _sink_cell(k, place, n_left)
    n_read: Integer = np.int64(0)
    while n_left > 0 and n_read < wanted.n_read:
        chosen = np.int64(k.order[0])
        n_left -= 1
        k.order[0] = k.order[n_left]
        _sink_cell(k, 0, n_left)
        n_read += cells.n[chosen]
        block = np.int64(cells.tail[chosen])
        n_here: Integer = (np.int64(cells.n[chosen]) - 1) % BLOCK + 1
        while block >= 0:
            least = k.about[0] if k.n[0] == len(k.row) else np.float32(-np.inf)
            code = cells.code[block]
            for at in range(n_here):
                about: Real = np.float32(0)
                for f in range(len(k.x)):
                    about += k.x[f] * np.float32(code[at, f])
                about *= cells.scale[block, at]
                if about + most_base + of_groups <= least:
                    continue  # whatever is said of it besides; an item of a larger base was asked
                row = np.int64(cells.row[block, at])
                about += base[row] if row < len(base) else most_base
                if about + of_groups <= least or mark[row] == number:
                    continue
                if has_groups:
                    for facet in range(facets.shape[1]):
                        about += w.group[facets[row, facet]]
                if (
                    about > least
                    and rankable_at[row] >= 0
                    and (len(wanted.allowed) == 0 or wanted.allowed[row])
                ):
                    mark[row] = number
                    _offer(k, row, about)
                    if k.n[0] == len(k.row):
                        least = k.about[0]
            block = np.int64(cells.before[block])
            n_here = BLOCK


@compiled_inner
def _offer(k: Search, row: Integer, about: Real) -> None:
    """Keep the item if it is among the best so far."""
    most = len(k.row)
    place = k.n[0]
    if place < most:
        k.n[0] += 1
        while place > 0 and k.about[(place - 1) // 2] > about:
            above = (place - 1) // 2
            k.about[place] = k.about[above]
            k.row[place] = k.row[above]
            place = above
    elif about > k.about[0]:
        place = 0
        below = 1
        while below < most:
            if below + 1 < most and k.about[below + 1] < k.about[below]:
                below += 1
            if k.about[below] >= about:
                break
            k.about[place] = k.about[below]
            k.row[place] = k.row[below]
            place = below
            below = 2 * place + 1
    else:
        return
    k.about[place] = about
    k.row[place] = row


@compiled_inner
def _sink_cell(k: Search, place: Integer, n: Integer) -> None:
    """Let the cell at a place of the heap of n sink to where it belongs."""
    sinking = k.order[place]
    below = 2 * place + 1
    while below < n:
        if below + 1 < n and k.promise[k.order[below + 1]] > k.promise[k.order[below]]:
            below += 1
        if k.promise[k.order[below]] <= k.promise[sinking]:
            break
        k.order[place] = k.order[below]
        place = below
        below = 2 * place + 1
    k.order[place] = sinking


@compiled_inner
def _list(rows: NDArray[np.int32], best: NDArray[np.float32], row: Integer, score: Real) -> None:
    """Put an item into a list, largest first, ties by row. Free places: -1, -inf."""
    if not np.isfinite(score):
        return
    place = len(rows) - 1
    if rows[place] >= 0 and (score < best[place] or (score == best[place] and row > rows[place])):
        return
    while place > 0 and (
        rows[place - 1] < 0
        or score > best[place - 1]
        or (score == best[place - 1] and row < rows[place - 1])
    ):
        best[place] = best[place - 1]
        rows[place] = rows[place - 1]
        place -= 1
    best[place] = score
    rows[place] = row


@compiled
def list_groups(
    facets: NDArray[np.int32], base: NDArray[np.float32], of_group: NDArray[np.int32],
    best: NDArray[np.float32],
) -> None:  # fmt: skip
    """The items with the largest base of each group into of_group, best first; best: (G, N), -inf.

    facets: (n, N_FACETS). base: (n,); an item without a finite one is passed over.
    """
    last = of_group.shape[1] - 1
    for row in range(len(base)):
        for facet in range(facets.shape[1]):
            group = np.int64(facets[row, facet])
            if 0 <= group < len(of_group) and base[row] > best[group, last]:
                _list(of_group[group], best[group], row, base[row])
