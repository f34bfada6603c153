"""Items by how often they were had: since the beginning, or lately."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.rivals.base import Rival


class Popularity(Rival):
    """Counts since the beginning."""

    name = "popularity"


class RecentPopularity(Rival):
    """Counts in the last `window` positive events; the rest by all counts."""

    name = "recent popularity"
    learn_grid = tuple({"window": window} for window in (250, 1_000, 5_000, 20_000))

    def start(self) -> None:
        self._ring = np.full(self.params["window"], -1, np.int64)
        self._recent = np.zeros(self.stream.n_items, np.float32)
        self._next = 0

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        out += self._recent[: len(out)]

    def take(self, b: int, user: int, item: int) -> None:
        place = self._next % len(self._ring)
        if self._ring[place] >= 0:
            self._recent[self._ring[place]] -= 1
        self._ring[place] = item
        self._recent[item] += 1
        self._next += 1
