"""Items by what came near them: last-item Markov chain and item-kNN on the recent items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled
from agents.evaluate.rivals.base import Params, Recent, Rival

LIST = 200
"""Neighbours kept of an item; a full list gives up its smallest."""

DEPTH = 20
"""Recent items of a user that are learned from and scored by, at most."""


@compiled
def add(
    neighbour: NDArray[np.int32], weight: NDArray[np.float32], n: NDArray[np.int32],
    total: NDArray[np.float32], item: Any, other: Any, amount: Any,
) -> None:  # fmt: skip
    """Note that `other` came near `item`."""
    total[item] += np.float32(amount)
    found = -1
    for place in range(n[item]):  # to the end: without a way out it is done eight at a time
        found = place if neighbour[item, place] == other else found
    if found >= 0:
        weight[item, found] += np.float32(amount)
        return
    place = 0
    if n[item] < neighbour.shape[1]:
        place = n[item]
        n[item] += 1
    else:
        for smaller in range(1, n[item]):
            if weight[item, smaller] < weight[item, place]:
                place = smaller
    neighbour[item, place] = other
    weight[item, place] = np.float32(amount)


@compiled
def learn_near(
    neighbour: NDArray[np.int32], weight: NDArray[np.float32], n: NDArray[np.int32],
    total: NDArray[np.float32], recent: NDArray[np.int32], n_recent: Any, item: Any,
    depth: Any, decay: Any, back: Any,
) -> None:  # fmt: skip
    """`item` came after the recent ones; `back`: what counts for the other direction."""
    amount = 1.0
    for a in range(min(n_recent, depth)):
        if recent[a] != item:
            add(neighbour, weight, n, total, recent[a], item, amount)
            if back > 0:
                add(neighbour, weight, n, total, item, recent[a], amount * back)
        amount *= decay


@compiled
def score_near(
    neighbour: NDArray[np.int32], weight: NDArray[np.float32], n: NDArray[np.int32],
    total: NDArray[np.float32], recent: NDArray[np.int32], n_recent: Any,
    counts: NDArray[np.float32], depth: Any, decay: Any, power: Any, shrink: Any,
    out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add to out: sum_a decay^a n_hj / (s_h + shrink) / (c_j + 1)^power."""
    amount = 1.0
    for a in range(min(n_recent, depth)):
        h = recent[a]
        scale = amount / (total[h] + shrink)
        for place in range(n[h]):
            j = neighbour[h, place]
            if j < len(out):
                value = scale * weight[h, place]
                if power > 0:
                    value /= (counts[j] + 1.0) ** power
                out[j] += np.float32(value)
        amount *= decay


class ItemKnn(Rival):
    """Decayed co-occurrence with the user's recent items, both directions."""

    name = "item-kNN"
    learn_grid: Sequence[Params] = (
        {"window": 5, "near": 0.5}, {"window": 10, "near": 0.8}, {"window": 20, "near": 0.9},
    )  # fmt: skip
    score_grid: Sequence[Params] = tuple(
        {"depth": 10, "decay": decay, "power": power, "shrink": shrink}
        for decay in (0.25, 0.4, 0.6, 0.8)
        for power in (0.0, 0.1, 0.3, 0.5)
        for shrink in (5.0, 20.0, 60.0)
    )
    back = 1.0

    def start(self) -> None:
        I = self.stream.n_items  # noqa: E741
        self.neighbour = np.zeros((I, LIST), np.int32)
        self.weight = np.zeros((I, LIST), np.float32)
        self.n = np.zeros(I, np.int32)
        self.total = np.zeros(I, np.float32)
        self.recent = Recent(len(self.stream.user_ids), DEPTH)

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        user = self.stream.user[b]
        p = self.params
        score_near(
            self.neighbour, self.weight, self.n, self.total, self.recent.rows[user],
            self.recent.n[user], self.counts, p["depth"], p["decay"], p["power"], p["shrink"], out,
        )  # fmt: skip

    def take(self, b: int, user: int, item: int) -> None:
        if self.recent.rows[user, 0] != item:
            learn_near(
                self.neighbour, self.weight, self.n, self.total, self.recent.rows[user],
                self.recent.n[user], item, self.params["window"], self.params["near"], self.back,
            )  # fmt: skip
            self.recent.push(user, item)


class Markov(ItemKnn):
    """What came next after the current item."""

    name = "last-item Markov"
    learn_grid = ({"window": 1, "near": 1.0},)
    score_grid = ({"depth": 1, "decay": 1.0, "power": 0.0, "shrink": 5.0},)
    back = 0.0
