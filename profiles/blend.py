"""The weights of the blend, by context, and how they are learned online (docs/model.md).

A context has four active parts of nine; its weights are their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, Real, compiled_inner
from profiles.terms import (
    DOT,
    G_BRAND,
    G_LEAF,
    LF,
    LFN,
    MK,
    N_TERMS,
    OWNC,
    POPM,
    QT,
    QW,
    RL,
    START,
)

ALL, HISTORY_0, HISTORY_1, HISTORY_2, HISTORY_5, BEGINS, WITHIN, QUERY, NO_QUERY = range(9)
"""The parts: always; history of 0, 1, 2 to 4, 5 and more items; the first event of a session or
not; a query pending or not."""

N_PARTS = 9

N_STEPS, N_SKIPPED = range(2)
"""Places in `Blend.state`: blend steps made, and steps left out because one was not finite."""

START_WEIGHTS = {
    DOT: 0.8, POPM: 0.1, RL: 0.1, START: 0.1, LFN: 0.5, LF: 0.3, MK: 0.05, OWNC: 0.3,
    G_LEAF: 0.2, G_BRAND: 0.2, QW: 0.2, QT: 0.4,
}  # fmt: skip
"""Of the part `ALL`; the others start at 0."""

EAGER = 2_000
"""Of so many positives each makes a blend step; then every `FoldConfig.blend_every`-th, and every
other step takes in the spread."""

N_UNIFORM, N_RECENT, N_TOUCHED = 16, 8, 8
"""Draws of a blend step, from the rankable items, the ring and the touched items."""

FIRST_DRAW = 1_024
"""Number of a blend step's first draw: those of the embedding come before."""

MEMORY = 0.996
"""What the covariance of the terms keeps at each step that takes in the spread."""

DAMPING = 0.05
"""Added to the covariance's diagonal. With .02 terms that are seldom on run away early, .2 is slow
(docs/ablations.md)."""

SWEEPS = 3
"""Of Gauss and Seidel, over the terms."""

FIRST_STEPS, LEAST_RATE = 200.0, 0.0005
"""The rate after n steps is 1 / (n + FIRST_STEPS), and not below LEAST_RATE: an endless stream goes
on being learned."""

PART_RATE = 0.3
"""What all parts but ALL learn by: they see less and correct more."""

MOST_STEP, MOST_THETA = 5.0, 6.0
"""Bounds, not reached on honest data."""

LEAST_SHARE = 0.001
"""Candidates with a smaller q are left out of the spread."""


class Blend(NamedTuple):
    """What kernels work on."""

    theta: NDArray[np.float32]  # (9, F)
    curvature: NDArray[np.float32]  # (9, F, F) decayed covariance of the terms
    n: NDArray[np.int64]  # (9,) steps of each part
    state: NDArray[np.int64]  # (2,)


def new_blend() -> Blend:
    """The weights of a shop that nothing is known of."""
    theta = np.zeros((N_PARTS, N_TERMS), np.float32)
    for term, weight in START_WEIGHTS.items():
        theta[ALL, term] = weight
    return Blend(
        theta=theta,
        curvature=np.zeros((N_PARTS, N_TERMS, N_TERMS), np.float32),
        n=np.zeros(N_PARTS, np.int64),
        state=np.zeros(2, np.int64),
    )


def average_theta(said: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]]) -> Any:
    """What processes that fold have learned, each by its steps, for one that does not.

    said: theta and n of each, at least one. float32 (9, F); a part that nobody has made a step in
    is as it starts.
    """
    steps = np.array([n for _, n in said], np.float64)  # (S, 9)
    share = steps / np.maximum(steps.sum(0), 1)
    theta = np.einsum("sp,spf->pf", share, np.array([theta for theta, _ in said], np.float64))
    return np.where(steps.sum(0)[:, None] > 0, theta, new_blend().theta).astype(np.float32)


class BlendScratch(NamedTuple):
    """Working memory of one step (N candidates, F terms)."""

    row: NDArray[np.int64]  # (N,) the candidates, the positive first
    phi: NDArray[np.float32]  # (N, F) their terms
    share: NDArray[np.float32]  # (N,) what is taken off their scores, then z, then q
    weight: NDArray[np.float32]  # (F,) theta of the context
    mean: NDArray[np.float32]  # (F,)
    gradient: NDArray[np.float32]  # (F,)
    step: NDArray[np.float32]  # (F,)
    rest: NDArray[np.float32]  # (F,)
    spread: NDArray[np.float32]  # (F, F)
    parts: NDArray[np.int64]  # (4,) the active ones


def blend_scratch(n_candidates: int) -> BlendScratch:
    """For at most so many candidates."""
    return BlendScratch(
        row=np.zeros(n_candidates, np.int64),
        phi=np.zeros((n_candidates, N_TERMS), np.float32),
        share=np.zeros(n_candidates, np.float32),
        weight=np.zeros(N_TERMS, np.float32),
        mean=np.zeros(N_TERMS, np.float32),
        gradient=np.zeros(N_TERMS, np.float32),
        step=np.zeros(N_TERMS, np.float32),
        rest=np.zeros(N_TERMS, np.float32),
        spread=np.zeros((N_TERMS, N_TERMS), np.float32),
        parts=np.zeros(4, np.int64),
    )


@compiled_inner
def write_parts(n_history: Integer, begins: bool, n_query: Integer, parts: NDArray[Any]) -> None:
    """The four active parts. n_history: items of the user's history; n_query: pending words."""
    parts[0] = ALL
    parts[1] = HISTORY_0 + min(n_history, 2) + (1 if n_history >= 5 else 0)
    parts[2] = BEGINS if begins else WITHIN
    parts[3] = QUERY if n_query > 0 else NO_QUERY


@compiled_inner
def write_weights(
    theta: NDArray[np.float32], parts: NDArray[np.int64], weight: NDArray[np.float32]
) -> None:
    """The weights of a context: the sum of its parts'."""
    for term in range(N_TERMS):
        weight[term] = 0
    for part in parts:
        for term in range(N_TERMS):
            weight[term] += theta[part, term]


@compiled_inner
def _softmax(phi: NDArray[np.float32], n: Integer, s: BlendScratch) -> None:
    """s.share = q of the n candidates by their terms and weights; it holds what is taken off."""
    largest = np.float32(-np.inf)
    for j in range(n):
        z = -s.share[j]
        for term in range(N_TERMS):
            z += s.weight[term] * phi[j, term]
        s.share[j] = z
        largest = max(largest, z)
    total = np.float32(0)
    for j in range(n):
        s.share[j] = np.exp(s.share[j] - largest)
        total += s.share[j]
    for j in range(n):
        s.share[j] /= total


@compiled_inner
def _spread(phi: NDArray[np.float32], n: Integer, s: BlendScratch) -> None:
    """s.spread = sum_j q_j (phi_j - m)(phi_j - m)^T; who has next to no q is left out."""
    F = N_TERMS
    for term in range(F):
        for other in range(F):
            s.spread[term, other] = 0
    for j in range(n):
        if s.share[j] > np.float32(LEAST_SHARE):
            for term in range(F):
                away = s.share[j] * (phi[j, term] - s.mean[term])
                if away == 0:  # a term that this shop has nothing for
                    continue
                for other in range(F):
                    s.spread[term, other] += away * (phi[j, other] - s.mean[other])


@compiled_inner
def _solve(curvature: NDArray[np.float32], part: Integer, s: BlendScratch) -> Real:
    """s.step = y of (C + DAMPING I) y = G, by sweeps from 0; returns a sum that shows a NaN.

    s.rest is G - C y all the while.
    """
    F = N_TERMS
    for term in range(F):
        s.step[term] = 0
        s.rest[term] = s.gradient[term]
    total = np.float32(0)
    for _ in range(SWEEPS):
        total = np.float32(0)
        for term in range(F):
            own = curvature[part, term, term]
            if own == 0 and s.rest[term] == 0:  # never on: no number of its row is other than 0
                continue
            y = (s.rest[term] + own * s.step[term]) / (own + np.float32(DAMPING))
            change = y - s.step[term]
            s.step[term] = y
            for other in range(F):  # C is symmetric: its row instead of a sum over a column
                s.rest[other] -= change * curvature[part, term, other]
            total += abs(s.step[term])
    return total


@compiled_inner
def learn_weights(blend: Blend, n: Integer, with_spread: bool, s: BlendScratch) -> None:
    """One step of the damped natural gradient, a part of the context after the other.

    s holds n candidates' terms, what is taken off their scores, and the active parts. A step that
    is not finite changes nothing and is counted.
    """
    F = N_TERMS
    blend.state[N_STEPS] += 1
    write_weights(blend.theta, s.parts, s.weight)
    _softmax(s.phi, n, s)
    for term in range(F):
        s.mean[term] = 0
    for j in range(n):
        for term in range(F):
            s.mean[term] += s.share[j] * s.phi[j, term]
    total = np.float32(0)
    for term in range(F):
        s.gradient[term] = s.mean[term] - s.phi[0, term]
        total += abs(s.gradient[term])
    if with_spread:
        _spread(s.phi, n, s)
        for term in range(F):
            total += s.spread[term, term]
    if not np.isfinite(total):
        blend.state[N_SKIPPED] += 1
        return
    for part in s.parts:
        if with_spread:
            for term in range(F):
                for other in range(F):
                    blend.curvature[part, term, other] += np.float32(1 - MEMORY) * (
                        s.spread[term, other] - blend.curvature[part, term, other]
                    )
        blend.n[part] += 1
        if not np.isfinite(_solve(blend.curvature, part, s)):
            blend.state[N_SKIPPED] += 1
            return
        rate = max(1.0 / (np.float64(blend.n[part]) + FIRST_STEPS), LEAST_RATE)
        if part != ALL:
            rate *= PART_RATE
        for term in range(F):
            y = min(max(s.step[term], np.float32(-MOST_STEP)), np.float32(MOST_STEP))
            theta = blend.theta[part, term] - np.float32(rate) * y
            blend.theta[part, term] = min(
                max(theta, np.float32(-MOST_THETA)), np.float32(MOST_THETA)
            )
