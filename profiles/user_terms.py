"""A user as the model sees it when a list is made, and what its terms add to scores of items.

For `serving`, which scores whole tables, and `candidate_search`, which doesn't.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.facets import N_FACETS
from profiles.groups import N_GROUPS, PRIOR, Groups, GroupScratch, group_lift, group_share
from profiles.jit import Integer, compiled_inner
from profiles.model import Model
from profiles.profile import ProfileColumns
from profiles.scratch import Constants, Scratch
from profiles.terms import (
    COUNT_FLOOR,
    G_LEAF,
    H_LEAF,
    LFN,
    N_TERMS,
    POPS,
    QT,
    slow_count,
    write_touched_terms,
)

NO_ROW = -1
"""Fills the end of a list that is shorter than asked for."""


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
    most: NDArray[np.float32]  # (N_FACETS,) of a facet's groups


def weighted_for(n_touched: int, n_groups: int) -> Weighted:
    """Zeros, for so many items touched and groups."""
    return Weighted(
        group=np.zeros(n_groups + 1, np.float32),
        touched=np.zeros(n_touched + 1, np.float32),
        phi=np.zeros((1, N_TERMS), np.float32),
        lift=np.zeros(N_FACETS, np.float32),
        share=np.zeros(N_FACETS, np.float32),
        most=np.zeros(N_FACETS, np.float32),
    )


@compiled_inner
def weigh_groups(groups: Groups, s: GroupScratch, weight: NDArray[np.float32], w: Weighted) -> None:
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
def weigh_touched(
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
