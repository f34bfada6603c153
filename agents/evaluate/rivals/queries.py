"""For searches: what was opened after the same query, and after its words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.rivals.base import Rival


class QueryCounts(Rival):
    """The most opened items after the same words; then popularity."""

    name = "query-to-item counts"

    def start(self) -> None:
        self._of_query: dict[object, NDArray[np.float32]] = {}
        self._n: dict[object, float] = {}

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        found = self._of_query.get(self._whole(b))
        if found is not None:
            out += found[: len(out)]

    def take(self, b: int, user: int, item: int) -> None:
        if self.stream.queries[b]:
            self._count(self._whole(b), item)

    def _whole(self, b: int) -> object:
        return tuple(sorted(self.stream.queries[b]))

    def _count(self, key: object, item: int) -> None:
        found = self._of_query.get(key)
        if found is None:
            found = self._of_query[key] = np.zeros(self.stream.n_items, np.float32)
        found[item] += 1
        self._n[key] = self._n.get(key, 0.0) + 1


class QueryWords(QueryCounts):
    """Naive Bayes over the query's words, with the counts of the whole query."""

    name = "naive Bayes over words + counts"
    score_grid = tuple(
        {"mu": mu, "whole": whole} for mu in (1.0, 5.0, 20.0, 60.0) for whole in (0.0, 0.3, 1.0)
    )

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        n = len(out)
        prior = (self.counts[:n] + 0.5) / (self.counts.sum() + 0.5 * n)
        out[:] = np.log(prior)
        mu, whole = self.params["mu"], self.params["whole"]
        for word in self.stream.queries[b]:
            found = self._of_query.get(word)
            if found is not None:
                out += np.log((found[:n] + mu * prior) / (self._n[word] + mu) / prior)
        found = self._of_query.get(self._whole(b))
        if found is not None and whole:
            out += whole * np.log(1 + 1_000 * found[:n] / (self._n[self._whole(b)] + 1))

    def take(self, b: int, user: int, item: int) -> None:
        super().take(b, user, item)
        for word in self.stream.queries[b]:
            self._count(word, item)
