"""The weights of the blend, by context, and how they are learned online (docs/model.md).

A context has four active parts of nine; its weights are their sum.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

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
