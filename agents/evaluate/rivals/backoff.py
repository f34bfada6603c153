"""item-kNN with back-off to categories and brands: the fair rival to a model that reads text.

P(j | h) = (n_hj + mu B(j | h)) / (s_h + mu), where B goes from h's group to j's group and from
there to j by its share of the group's count, so that an item nobody has had is ranked by its group.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.compiled import compiled
from agents.evaluate.rivals.neighbours import ItemKnn
from streams.events import Item

MOST_GROUPS = 4_096
"""Transitions are kept in a square of them; a facet with more is left out."""


@compiled
def score_groups(
    groups: NDArray[np.int32], moves: NDArray[np.float32], sums: NDArray[np.float32],
    of_group: NDArray[np.float32], sizes: NDArray[np.float32], recent: NDArray[np.int32],
    n_recent: Any, total: NDArray[np.float32], counts: NDArray[np.float32], decay: Any, mu: Any,
    floor: Any, share: Any, out: NDArray[np.float32],
) -> None:  # fmt: skip
    """Add to out what one facet says: groups (I,), moves (G, G), sums, of_group and sizes (G,)."""
    G = len(sums)
    lift = np.zeros(G, np.float32)
    everything = of_group.sum() + 1.0
    amount = 1.0
    found = False
    for a in range(n_recent):
        h = recent[a]
        g = groups[h]
        if g >= 0:
            found = True
            scale = share * amount * mu / (total[h] + mu)
            for other in range(G):
                own = (moves[g, other] + 5.0 * of_group[other] / everything) / (sums[g] + 5.0)
                lift[other] += np.float32(scale * own)
        amount *= decay
    if found:
        for j in range(len(out)):
            g = groups[j]
            if g >= 0:
                inside = (counts[j] + floor) / (of_group[g] + floor * sizes[g])
                out[j] += np.float32(lift[g] * inside)


class _Facet(NamedTuple):
    """One way to group items, with what it counts."""

    groups: NDArray[np.int32]  # (I,) -1: in no group
    moves: NDArray[np.float32]  # (G, G)
    sums: NDArray[np.float32]  # (G,) of moves
    of_group: NDArray[np.float32]  # (G,) events
    sizes: NDArray[np.float32]  # (G,) items


class BackOff(ItemKnn):
    """The facets are the category path, the brand, and the two together."""

    name = "item-kNN + category back-off"
    learn_grid = ({"window": 5, "near": 0.5}, {"window": 10, "near": 0.8})
    score_grid = tuple(
        {"decay": decay, "mu": mu, "floor": floor, "facets": facets}
        for decay in (0.25, 0.5, 0.7)
        for mu in (3.0, 20.0, 60.0, 200.0)
        for floor in (1.0, 3.0, 10.0, 30.0)
        for facets in ((1.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.2, 0.2, 0.6))
    )

    def start(self) -> None:
        super().start()
        items = self.stream.items
        self._facets: list[_Facet | None] = []
        for key in (_category, _brand, _both):
            number: dict[str, int] = {}
            groups = np.full(self.stream.n_items, -1, np.int32)
            for row, item_id in enumerate(self.stream.item_ids):
                name = key(items[item_id]) if item_id in items else None
                if name is not None:
                    groups[row] = number.setdefault(name, len(number))
            n = len(number)
            if not 0 < n <= MOST_GROUPS:
                self._facets.append(None)
                continue
            sizes = np.bincount(groups[groups >= 0], minlength=n).astype(np.float32)
            zeros = np.zeros(n, np.float32)
            moves = np.zeros((n, n), np.float32)
            self._facets.append(_Facet(groups, moves, zeros, zeros.copy(), sizes))

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.params.update(depth=5, power=0.0, shrink=self.params["mu"])
        super().scores(b, out)
        user, p = self.stream.user[b], self.params
        for facet, share in zip(self._facets, p["facets"], strict=True):
            if facet is not None and share:
                score_groups(
                    *facet, self.recent.rows[user], min(int(self.recent.n[user]), 5), self.total,
                    self.counts, p["decay"], p["mu"], p["floor"], share, out,
                )  # fmt: skip

    def take(self, b: int, user: int, item: int) -> None:
        recent = self.recent.rows[user]
        if recent[0] != item:
            for facet in self._facets:
                if facet is None:
                    continue
                groups, moves, sums, of_group, _ = facet
                g = groups[item]
                if g < 0:
                    continue
                of_group[g] += 1
                amount = 1.0
                for h in recent[: min(int(self.recent.n[user]), 3)].tolist():
                    if groups[h] >= 0:
                        moves[groups[h], g] += amount
                        sums[groups[h]] += amount
                    amount *= 0.5
        super().take(b, user, item)


def _category(item: Item) -> str | None:
    return "/".join(item.category) or None


def _brand(item: Item) -> str | None:
    return item.brand


def _both(item: Item) -> str | None:
    return f"{'/'.join(item.category)}|{item.brand}" if item.category and item.brand else None
