"""Groups of items (categories, brands, price bands): how often each is had, and which comes next.

An item that nobody has had is ranked by its groups: the lift says how much likelier a group is
after the user's last items than it is anyway, the share how much of the user's history lies in it.
Owns the counts of one item table and their bounds. Rows are local to this process; which groups an
item has says `facets`. Counts are of the stream, so no user's facts depend on them.

Size: 549 bytes a group of `MOST_GROUPS` at most, 36 MB; a shop with 2,000 of them has 1.1 MB.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.facets import N_FACETS
from profiles.hashed_rows import HashedRows
from profiles.jit import Integer, Real, compiled, compiled_inner

MOST_GROUPS = 65_536
"""Of all facets together. When all are used, a group gets the row of one that hardly any item has,
if it is seen often (`gate`); else it is unknown, and its items have one term less."""

MOST_NEXT = 64
"""Groups that are counted after one; a full list gives the smallest place to the newcomer."""

DEPTH = 3
"""Newest items of a user whose groups lead to the next one; each weighs half of the newer."""

PRIOR = 5.0
"""Events that a group's share of all events weighs against what was counted after a group."""

MOST_OUT = 20_000.0
"""Where the counts after a group are halved, so that old habits fade."""

MOST_EVENTS = float(1 << 17)
"""Where a facet's counts are halved: a float32 still counts by a hundredth there."""

LEAST = 0.1
"""Events that every group has from the start."""


class Groups(NamedTuple):
    """What kernels work on (G rows). Replaced when the table grows."""

    index_keys: NDArray[np.uint64]  # hash -> row, see `HashIndex`
    index_values: NDArray[np.int32]
    hash: NDArray[np.uint64]  # (G,)
    facet: NDArray[np.uint8]  # (G,)
    counts: NDArray[np.float32]  # (G,) positives of its items
    out: NDArray[np.float32]  # (G,) all that was counted after it
    to: NDArray[np.int32]  # (G, MOST_NEXT) rows of groups of the same facet
    weight: NDArray[np.float32]  # (G, MOST_NEXT)
    n: NDArray[np.int32]  # (G,) how many of them
    changed: NDArray[np.uint8]  # (G,) bits as in `ItemColumns`
    totals: NDArray[np.float32]  # (N_FACETS,) sum of `counts`
    state: NDArray[np.int64]  # (1,) N_GROUPS


N_GROUPS = 0
"""Place in `Groups.state`."""


class GroupScratch(NamedTuple):
    """What of the groups the user's history speaks for; zeros between two events."""

    moved: NDArray[np.float32]  # (G,) counted after the groups of the newest DEPTH items
    held: NDArray[np.float32]  # (G,) items of the history
    moved_total: NDArray[np.float32]  # (N_FACETS,) all that was counted after those groups
    held_total: NDArray[np.float32]  # (N_FACETS,) items whose group is known
    from_known: NDArray[np.uint8]  # (N_FACETS,) whether one of the newest has a group


def group_scratch(n_groups: int) -> GroupScratch:
    """Zeros for that many rows."""
    return GroupScratch(
        np.zeros(n_groups, np.float32),
        np.zeros(n_groups, np.float32),
        np.zeros(N_FACETS, np.float32),
        np.zeros(N_FACETS, np.float32),
        np.zeros(N_FACETS, np.uint8),
    )


@compiled
def gather_groups(
    groups: Groups, facets: NDArray[np.int32], history: NDArray[np.int64], n: Integer,
    s: GroupScratch,
) -> None:  # fmt: skip
    """Fill the scratch from a history. history: rows of the n newest items, -1: not known here.

    facets: (I, N_FACETS) of the item table.
    """
    for facet in range(facets.shape[1]):
        nearness = np.float32(1)
        for a in range(n):
            row = history[a]
            group = np.int64(-1) if row < 0 else np.int64(facets[row, facet])
            if group >= 0:
                s.held[group] += np.float32(1)
                s.held_total[facet] += np.float32(1)
                if a < DEPTH:
                    s.from_known[facet] = 1
                    s.moved_total[facet] += nearness * groups.out[group]
                    for place in range(groups.n[group]):
                        s.moved[groups.to[group, place]] += nearness * groups.weight[group, place]
            nearness *= np.float32(0.5)


@compiled
def clear_groups(
    groups: Groups, facets: NDArray[np.int32], history: NDArray[np.int64], n: Integer,
    s: GroupScratch,
) -> None:  # fmt: skip
    """Zeros again; before anything is counted, so that the same places are found."""
    for facet in range(facets.shape[1]):
        for a in range(n):
            row = history[a]
            group = np.int64(-1) if row < 0 else np.int64(facets[row, facet])
            if group >= 0:
                s.held[group] = 0
                if a < DEPTH:
                    for place in range(groups.n[group]):
                        s.moved[groups.to[group, place]] = 0
        s.moved_total[facet] = 0
        s.held_total[facet] = 0
        s.from_known[facet] = 0


@compiled
def group_chance(groups: Groups, group: Integer) -> Real:
    """P(g): the group's share of its facet's events."""
    total = groups.totals[groups.facet[group]]
    return (groups.counts[group] + np.float32(LEAST)) / (total + np.float32(1))


@compiled
def group_lift(groups: Groups, group: Integer, s: GroupScratch) -> Real:
    """Log of how much likelier the group is after the newest items than anyway; 0: can't say."""
    if group < 0:
        return np.float32(0)
    facet = groups.facet[group]
    if s.from_known[facet] == 0:
        return np.float32(0)
    chance = group_chance(groups, group)
    prior = np.float32(PRIOR)
    after = (s.moved[group] + prior * chance) / (s.moved_total[facet] + prior)
    return np.log(after / chance)


@compiled
def group_share(groups: Groups, group: Integer, s: GroupScratch) -> Real:
    """Log of the group's part of the history over its part of all events; 0: can't say."""
    if group < 0:
        return np.float32(0)
    facet = groups.facet[group]
    if s.held_total[facet] == 0:
        return np.float32(0)
    chance = group_chance(groups, group)
    return np.log((s.held[group] + chance) / (s.held_total[facet] + np.float32(1)) / chance)


@compiled_inner
def _count_move(groups: Groups, group: Integer, to: Integer, amount: Real) -> None:
    n = np.int64(groups.n[group])
    place: Integer = np.int64(-1)
    for candidate in range(n):
        if groups.to[group, candidate] == to:
            place = candidate
    if place >= 0:
        groups.weight[group, place] += np.float32(amount)
    else:
        if n < groups.to.shape[1]:
            place = n
            groups.n[group] = n + 1
        else:
            place = 0
            for candidate in range(1, n):
                if groups.weight[group, candidate] < groups.weight[group, place]:
                    place = candidate
        groups.to[group, place] = to
        groups.weight[group, place] = amount
    groups.out[group] += np.float32(amount)
    groups.changed[group] = 3
    if groups.out[group] > np.float32(MOST_OUT):
        groups.out[group] *= np.float32(0.5)
        for candidate in range(groups.n[group]):
            groups.weight[group, candidate] *= np.float32(0.5)


@compiled
def count_groups(
    groups: Groups, facets: NDArray[np.int32], history: NDArray[np.int64], n: Integer,
    item: Integer, weight: Real,
) -> None:  # fmt: skip
    """Count a positive of `item`, whose user had `history` before it (as in `gather_groups`)."""
    for facet in range(facets.shape[1]):
        group = np.int64(facets[item, facet])
        if group < 0:
            continue
        amount = np.float32(weight)
        for a in range(min(n, DEPTH)):
            row = history[a]
            if row >= 0 and facets[row, facet] >= 0:
                _count_move(groups, np.int64(facets[row, facet]), group, amount)
            amount *= np.float32(0.5)
        groups.counts[group] += np.float32(weight)
        groups.changed[group] = 3
        groups.totals[facet] += np.float32(weight)
        if groups.totals[facet] > np.float32(MOST_EVENTS):
            groups.totals[facet] *= np.float32(0.5)
            for other in range(groups.state[N_GROUPS]):
                if groups.facet[other] == facet:
                    groups.counts[other] *= np.float32(0.5)
                    groups.changed[other] = 3


class GroupTable(HashedRows):
    """All groups of one item table."""

    columns: Groups
    once = ("totals", "state")

    def __init__(self, capacity: int = 256, most: int = MOST_GROUPS) -> None:
        super().__init__(capacity, most)

    def intern(
        self, hashes: NDArray[np.uint64], facet: int, *, freed: bool = False
    ) -> NDArray[np.int32]:
        """int32 (N,): rows of one facet's groups, new ones empty; -1 of 0 and when all are used.

        freed: rows that were given up may be taken, too: of what is seen often, here or elsewhere.
        """
        return self._intern(hashes, freed, facet=facet)

    def _begin(self, rows: NDArray[np.int64], hashes: NDArray[np.uint64], **of_row: Any) -> None:
        self.columns.hash[rows] = hashes
        self.columns.facet[rows] = of_row["facet"]
        self.columns.changed[rows] = 3

    def _empty(self, rows: NDArray[np.int64]) -> None:
        """What was counted after others that led here is nobody's from now on."""
        columns, n = self.columns, len(self)
        np.subtract.at(columns.totals, columns.facet[rows], columns.counts[rows])
        np.maximum(columns.totals, 0, out=columns.totals)
        for column in (columns.counts, columns.out, columns.n, columns.weight):
            column[rows] = 0
        columns.changed[rows] = 3
        given_up = np.zeros(n, np.bool_)
        given_up[rows] = True
        led_here = given_up[columns.to[:n]] & (columns.weight[:n] != 0)
        columns.weight[:n][led_here] = 0
        columns.changed[:n][led_here.any(axis=1)] = 3

    def _columns(self, capacity: int) -> Groups:
        return Groups(
            index_keys=self._index.keys,
            index_values=self._index.values,
            hash=np.zeros(capacity, np.uint64),
            facet=np.zeros(capacity, np.uint8),
            counts=np.zeros(capacity, np.float32),
            out=np.zeros(capacity, np.float32),
            to=np.zeros((capacity, MOST_NEXT), np.int32),
            weight=np.zeros((capacity, MOST_NEXT), np.float32),
            n=np.zeros(capacity, np.int32),
            changed=np.zeros(capacity, np.uint8),
            totals=np.zeros(N_FACETS, np.float32),
            state=np.zeros(1, np.int64),
        )
