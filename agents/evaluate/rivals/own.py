"""The user's own items again: those had most often, or those had last."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.rivals.base import Rival


class OwnFrequency(Rival):
    """How often this user had the item, the newer the better; then popularity."""

    name = "own frequency"

    def start(self) -> None:
        self._own: list[dict[int, list[float]]] = [{} for _ in self.stream.user_ids]

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        for item, (count, at) in self._own[self.stream.user[b]].items():
            if item < len(out):
                out[item] = self.value(count, at, b)

    def value(self, count: float, at: float, b: int) -> float:
        """What an own item is worth; at: the event of the last time."""
        return count + 1 / (2 + b - at)

    def take(self, b: int, user: int, item: int) -> None:
        own = self._own[user].setdefault(item, [0, b])
        own[0] += 1
        own[1] = b


class OwnRecency(OwnFrequency):
    """The item that this user had last; then popularity."""

    name = "own recency"

    def value(self, count: float, at: float, b: int) -> float:
        return 1 / (1 + b - at)
