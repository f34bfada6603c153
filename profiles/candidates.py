"""Lists of large catalogues without scoring every item, kept up while the table moves.

Owns when they are used, and their freshness: `refresh`, called again and again in a thread of its
own, puts items that moved where they belong and notes anew what is said of items alone. The score
of what is listed is the full one, of the moment; only who is a candidate can be seconds old.

Size: some 100 bytes an item and 4 more for each context asked for (docs/decisions/0058).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.base_terms import BaseTerms
from profiles.blend import ALL, BEGINS, HISTORY_0, NO_QUERY
from profiles.candidate_search import Known, Search, Wanted, find_best, list_groups, search_for
from profiles.facets import N_FACETS
from profiles.groups import DEPTH, N_GROUPS
from profiles.profile import ProfileColumns
from profiles.scratch import Constants, Scratch
from profiles.terms import MOST_TOUCHED
from profiles.user_terms import Users, Weighted
from profiles.vector_index import SAMPLE_A_CELL, VectorIndex, n_cells_for, read_items
from profiles.view import ItemView

EXACT_ITEMS = 30_000
"""Up to so many, scoring every item holds 1,000 lists/s on two cores (docs/decisions/0058)."""

N_POPULAR = 1_000
"""Items asked for that score best by themselves, in each context."""

N_OF_GROUP = 24
"""Items asked for of each group of the newest items: the best by themselves."""

N_READ = 12_000
"""Items of the index that are looked at for a list."""

N_BEST, BEST_A_PLACE = 128, 4
"""Candidates that get the full score: so many, or so many for each place of a longer list."""

AT_ONCE = 8_192
"""Items that are moved while readers wait: two milliseconds."""

SWEEP = 64
"""Refreshes in which every item is looked at, moved or not: tokens move what they describe."""

KNOWN_S = 2.0
"""What is said of items alone is made anew after so long."""

GROWN = 1.5
"""Times the items that the cells were made for: then they are made anew."""

CELLS_MOVED = 2.0
"""Times that every item has been given a cell anew: so are they then."""

FIRST_CONTEXT = (ALL, HISTORY_0, BEGINS, NO_QUERY)
"""Known before anybody asks: of somebody new."""


class _Stopped(Exception):
    """Nobody waits for this refresh any more."""


class Built(NamedTuple):
    """An index. n_restarts: of the view that it follows. n_items: when its cells were made."""

    vectors: VectorIndex
    n_restarts: int
    n_items: int


class Ready(NamedTuple):
    """What lists are made from."""

    built: Built
    known: Known
    context: dict[tuple[int, ...], int]  # of `known`, by its parts of the blend
    at_s: float


class Candidates:
    """Of one view. `refresh` for one thread, `find` for those that read the view."""

    def __init__(
        self,
        view: ItemView,
        exact_items: int = EXACT_ITEMS,
        n_read: int = N_READ,
        n_best: int = N_BEST,
    ) -> None:
        """exact_items: up to so many items every one is scored. n_read, n_best: items of the index
        looked at, and candidates with a full score, for each list."""
        self._view = view
        self._exact_items = exact_items
        self._n_read = n_read
        self._n_best = n_best
        self._ready: Ready | None = None
        self._wanted: set[tuple[int, ...]] = {FIRST_CONTEXT}
        self._swept = 0
        self._n_homeless = 0  # given a cell since the cells were made
        self._stopped = False

    @property
    def ready(self) -> Ready | None:
        """What lists are made from now; None: score every item. For who reads the view."""
        ready = self._ready
        if (
            ready is None
            or ready.built.n_restarts != self._view.n_restarts
            or len(self._view) <= self._exact_items
        ):
            return None
        return ready

    def stop(self) -> None:
        """End a refresh that is under way within milliseconds, and make every later one do nothing.

        What is ready stays as it is.
        """
        self._stopped = True

    def want(self, users: Users) -> None:
        """Have the contexts of these users known from the next refresh on."""
        parts = list(map(tuple, users.parts.tolist()))
        if not self._wanted.issuperset(parts):
            self._wanted = self._wanted.union(parts)  # replaced: `_note` may be looking at it

    def refresh(self, now_s: float) -> None:
        """Bring everything up to the view as it is; the first time takes 20 s a million items.

        now_s: a clock that rises. Takes the view's readers no time but `ItemView.change`.
        """
        with suppress(_Stopped):
            self._refresh(now_s)

    def _refresh(self, now_s: float) -> None:
        view = self._view
        with view.reading():
            n, n_restarts, moved = len(view), view.n_restarts, view.take_moved()
        if n <= self._exact_items or n == 0:
            self._ready = None
            return
        ready = self._ready
        built = None if ready is None else ready.built
        if (
            built is None
            or built.n_restarts != n_restarts
            or n > GROWN * built.n_items
            or self._n_homeless > CELLS_MOVED * n
        ):
            built = self._build()
            if built is None:
                return
        else:
            first = self._swept
            self._swept = (first + n // SWEEP + 1) % n
            sweep = np.arange(first, min(n, first + n // SWEEP + 1), dtype=np.int32)
            self._move(built, np.union1d(moved, sweep).astype(np.int32), view.change)
        if ready is None or built is not ready.built or now_s - ready.at_s >= KNOWN_S:
            self._ready = self._note(built, now_s)

    def search_for(self, ready: Ready, n_rows: int, n: int, present: Search | None) -> Search:
        """Working memory of one reader, for a table with room for n_rows and lists of n: the
        present one if it will do."""
        n_cells = len(ready.built.vectors.cells.tail)
        n_best = max(self._n_best, BEST_A_PLACE * n)
        if present is not None:
            sizes = (len(present.mark), len(present.order), len(present.row))
            if sizes == (n_rows, n_cells, n_best):
                return present
        n_asked = MOST_TOUCHED + N_POPULAR + DEPTH * N_FACETS * N_OF_GROUP
        return search_for(n_rows, n_asked, n_cells, n_best, self._view.shape.n_factors)

    def find(
        self,
        ready: Ready,
        columns: ProfileColumns,
        users: Users,
        out: NDArray[np.int64],
        allowed: NDArray[np.bool_] | None,
        c: Constants,
        s: Scratch,
        w: Weighted,
        search: Search,
        rows: NDArray[np.int32],
        best: NDArray[np.float32],
    ) -> None:
        """Lists as `Scorer.top_k` returns them, into rows and best: (B, n), -1 and -inf before.

        By who reads the view. out: (B, O) rows to leave out, -1 is passed over.
        """
        parts = list(map(tuple, users.parts.tolist()))
        wanted = Wanted(
            context=np.array([ready.context.get(one, 0) for one in parts], np.int64),
            out=out,
            allowed=np.zeros(0, np.bool_) if allowed is None else allowed,
            n_read=self._n_read,
        )
        find_best(
            columns, self._view.model, users, wanted, ready.known, ready.built.vectors.cells,
            c, s, w, search, rows, best,
        )  # fmt: skip

    def _build(self) -> Built | None:
        """A new index of all items; None without any, of some when the table was replaced in the
        meantime."""
        view, random = self._view, np.random.default_rng(0)
        with view.reading():
            n, n_restarts = len(view), view.n_restarts
            if not n:
                return None
            n_cells = n_cells_for(n)
            rows = random.choice(n, min(n, SAMPLE_A_CELL * n_cells), replace=False)
            sample = read_items(view.model, rows.astype(np.int32))
        vectors = VectorIndex(sample, n_cells, on_block=self._go_on)
        built = Built(vectors, n_restarts, n)
        # Nobody searches it yet, so it needn't wait for readers.
        self._move(built, np.arange(n, dtype=np.int32), lambda change: change())
        self._n_homeless = self._swept = 0
        return built

    def _move(
        self, built: Built, rows: NDArray[np.int32], change: Callable[[Callable[[], None]], None]
    ) -> None:
        """Put rows where they belong, unless they are another table's by now."""
        vectors = built.vectors
        for first in range(0, len(rows), AT_ONCE):
            self._go_on()
            with self._view.reading():
                if self._view.n_restarts != built.n_restarts:
                    return
                move = vectors.move_of(self._view.model, rows[first : first + AT_ONCE])
            self._n_homeless += int(np.count_nonzero(move.cell >= 0))
            change(partial(vectors.apply, move))

    def _go_on(self) -> None:
        if self._stopped:
            raise _Stopped

    def _note(self, built: Built, now_s: float) -> Ready | None:
        """The index, and what is said of items alone now; None when the table was replaced."""
        view = self._view
        contexts = sorted(self._wanted)
        with view.reading():
            if view.n_restarts != built.n_restarts:
                return None
            n, n_groups = len(view), int(view.model.groups.state[N_GROUPS])
            rankable, facets = view.rankable, view.model.items.facets[:n]
            weighted, numbers = BaseTerms(view.model, n, view.config).of(contexts)
        known = Known(
            base=weighted[: len(contexts)],
            popular=np.full((len(contexts), N_POPULAR), -1, np.int32),
            rest=np.zeros(len(contexts), np.float32),
            of_group=np.full((n_groups, N_OF_GROUP), -1, np.int32),
        )
        some = min(N_POPULAR, n)
        for number in numbers:
            score = np.where(rankable, weighted[number], np.float32(-np.inf))
            order = np.argpartition(-score, some - 1)
            known.popular[number, :some] = order[:some]
            rest = score[order[some:]].max(initial=-np.inf)
            known.rest[number] = rest if np.isfinite(rest) else 0
        if n_groups:
            best = np.full(known.of_group.shape, -np.inf, np.float32)
            list_groups(facets, score, known.of_group, best)
        return Ready(built, known, dict(zip(contexts, numbers, strict=True)), now_s)
