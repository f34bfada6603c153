"""The shoppers of the simulated shop: groups, drifting tastes, and how an item is chosen.

A shopper's taste at a time is the group's taste, which turns slowly from one anchor to another
and back, plus what is the shopper's own. An item is chosen among a few candidates, drawn from
the popular items and from the categories that suit the taste, by the softmax of its affinity.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.simulate.catalogue import Catalogue, unit_rows

OWN_SHARE = 0.6
"""Length of a shopper's own taste beside the group's of length 1."""

N_CANDIDATES = 12
"""Items looked at for one choice: half popular ones, half from fitting categories."""

CHOICE_SHARPNESS = 5.0
CATEGORY_SHARPNESS = 6.0
"""Factors before the cosine in the two softmaxes: the best of twelve wins about half the time."""


class Shoppers:
    """U shoppers in G groups over K latent dimensions.

    drift_period_s: event time in which a group's taste goes full circle.
    """

    def __init__(
        self,
        n_users: int,
        n_groups: int,
        catalogue: Catalogue,
        drift_period_s: float,
        rng: np.random.Generator,
    ) -> None:
        self._catalogue = catalogue
        self._drift_period_s = drift_period_s
        n_categories, n_factors = catalogue.centres.shape
        self.group = rng.integers(0, n_groups, n_users).astype(np.int32)
        """int32 (U,): the group of each shopper."""
        own = rng.standard_normal((n_users, n_factors), dtype=np.float32)
        self._own = own * np.float32(OWN_SHARE / np.sqrt(n_factors))
        liked = rng.random((2, n_groups, n_categories)) ** 6  # a few categories each
        self._anchors = [unit_rows(weights @ catalogue.centres) for weights in liked]
        self._phase = rng.random(n_groups)
        self._cumulated = np.cumsum(catalogue.popularity)
        self._sizes = np.array([len(members) for members in catalogue.members])
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)[:-1]])
        self._members = np.concatenate(catalogue.members)
        self._can_choose = self._sizes > 0

    def __len__(self) -> int:
        return len(self.group)

    def tastes(self, users: NDArray[np.int64], time_s: float) -> NDArray[np.float32]:
        """Unit taste vectors (B, K) of some shoppers at a time (seconds since the start)."""
        angle = 2 * np.pi * (time_s / self._drift_period_s + self._phase)
        first, second = self._anchors
        centre = np.cos(angle)[:, None] ** 2 * first + np.sin(angle)[:, None] ** 2 * second
        return unit_rows(unit_rows(centre)[self.group[users]] + self._own[users])

    def choose(
        self,
        tastes: NDArray[np.float32],
        near: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """One item for each of B shoppers, and its affinity (cosine with the taste).

        tastes: (B, K). near: (B,), an item whose category the shopper stays in, or -1.
        """
        n = len(tastes)
        half = N_CANDIDATES // 2
        popular = np.searchsorted(self._cumulated, rng.random((n, half)))
        popular = np.minimum(popular, len(self._catalogue) - 1)
        weights = np.exp(CATEGORY_SHARPNESS * (tastes @ self._catalogue.centres.T))
        weights *= self._can_choose
        edges = np.cumsum(weights, axis=1)
        wanted = (edges < rng.random((n, 1)) * edges[:, -1:]).sum(axis=1)
        stays = near >= 0
        wanted[stays] = self._catalogue.category[near[stays]]
        # The cube puts half of the draws on the first eighth of a category's items.
        place = (self._sizes[wanted, None] * rng.random((n, half)) ** 3).astype(np.int64)
        fitting = self._members[self._starts[wanted, None] + place]
        candidates = np.concatenate([popular, fitting], axis=1)
        affinity = np.einsum("bk,bmk->bm", tastes, self._catalogue.vectors[candidates])
        chance = rng.gumbel(size=affinity.shape).astype(np.float32)
        best = np.argmax(CHOICE_SHARPNESS * affinity + chance, axis=1)
        rows = np.arange(n)
        return candidates[rows, best], affinity[rows, best]
