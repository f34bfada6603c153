"""implicit's models, fitted anew on everything so far after every tenth of the stream.

Where the package is installed (extra `evaluate`). Between two fits a model stands still, but it is
asked with all that the user has had up to the moment.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.rivals.base import Params, Rival

FITS = 10
"""Fits over the stream."""


def _csr(content: Any, shape: tuple[int, int]) -> Any:
    """A sparse matrix of scipy's, which comes with implicit."""
    return importlib.import_module("scipy.sparse").csr_matrix(content, shape=shape)


class Refitted(Rival):
    """What the three share. A user without history gets the popular items."""

    module = ""
    model = ""

    def start(self) -> None:
        self._users: list[int] = []
        self._items: list[int] = []
        self._had: list[dict[int, int]] = [{} for _ in self.stream.user_ids]
        self._every = max(1, int(self.stream.positive.sum()) // FITS)
        self.fitted: Any = None

    def make(self) -> Any:
        """The library's model with the rival's parameters."""
        made = getattr(importlib.import_module(self.module), self.model)
        return made(**self.arguments(self.params))

    def arguments(self, params: Params) -> dict[str, Any]:
        """Of the library's constructor."""
        raise NotImplementedError

    def values(self, user: int, had: dict[int, int]) -> NDArray[np.float32] | None:
        """Scores of the items that were there at the last fit; None: it knows nothing."""
        raise NotImplementedError

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        self.popularity(out)
        user = int(self.stream.user[b])
        if self.fitted is None or not self._had[user]:
            return
        values = self.values(user, self._had[user])
        if values is not None:
            n = min(len(out), len(values))
            out[n:] += np.float32(values.min() if len(values) else 0)
            out[:n] += values[:n]

    def take(self, b: int, user: int, item: int) -> None:
        self._users.append(user)
        self._items.append(item)
        self._had[user][item] = self._had[user].get(item, 0) + 1
        if len(self._users) % self._every == 0:
            self.fit()

    def fit(self) -> None:
        """On everything so far."""
        self.n_items = max(self._items) + 1
        self.n_users = max(self._users) + 1
        ones = np.ones(len(self._users), np.float32)
        matrix = _csr((ones, (self._users, self._items)), shape=(self.n_users, self.n_items))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads that BLAS has, for speed
            self.fitted = self.make()
            self.fitted.fit(matrix, show_progress=False)

    def row(self, had: dict[int, int]) -> Any:
        """A user's items as a matrix of one row, those known at the last fit."""
        known = [(item, n) for item, n in sorted(had.items()) if item < self.n_items]
        data = np.array([n for _, n in known], np.float32)
        columns = np.array([item for item, _ in known], np.int32)
        return _csr((data, columns, [0, len(known)]), shape=(1, self.n_items))


class RefittedALS(Refitted):
    """ALS; the user's vector is solved anew from the items had so far."""

    name = "implicit ALS, refitted"
    library = "implicit AlternatingLeastSquares, 64 factors, 10 fits"
    module, model = "implicit.cpu.als", "AlternatingLeastSquares"
    learn_grid = tuple({"alpha": alpha} for alpha in (3.0, 10.0, 30.0, 100.0))

    def arguments(self, params: Params) -> dict[str, Any]:
        return {
            "factors": 64, "regularization": 0.05, "alpha": params["alpha"], "iterations": 10,
            "random_state": self.seed, "calculate_training_loss": False, "num_threads": 1,
        }  # fmt: skip

    def values(self, user: int, had: dict[int, int]) -> NDArray[np.float32] | None:
        row = self.row(had)
        if not row.nnz:
            return None
        x = self.fitted.recalculate_user(0, row)
        scores: NDArray[np.float32] = self.fitted.item_factors @ np.ravel(x)
        return scores


class RefittedBPR(Refitted):
    """BPR; a user who came after the fit is the mean of the items had so far."""

    name = "implicit BPR, refitted"
    library = "implicit BayesianPersonalizedRanking, 64 factors, 10 fits"
    module, model = "implicit.cpu.bpr", "BayesianPersonalizedRanking"
    learn_grid = ({"rate": 0.02}, {"rate": 0.05}, {"rate": 0.1})

    def arguments(self, params: Params) -> dict[str, Any]:
        return {
            "factors": 64, "learning_rate": params["rate"], "iterations": 50,
            "random_state": self.seed,
        }  # fmt: skip

    def values(self, user: int, had: dict[int, int]) -> NDArray[np.float32] | None:
        items = self.fitted.item_factors
        known = [item for item in had if item < self.n_items]
        if not known:
            return None
        has_vector = user < self.n_users and self.fitted.user_factors[user].any()
        x = self.fitted.user_factors[user] if has_vector else items[known].mean(axis=0)
        scores: NDArray[np.float32] = items @ x
        return scores


class RefittedCosine(Refitted):
    """Cosine similarity of items; summed over the items had so far."""

    name = "implicit cosine, refitted"
    library = "implicit CosineRecommender, 10 fits"
    module, model = "implicit.nearest_neighbours", "CosineRecommender"
    learn_grid = ({"neighbours": 20}, {"neighbours": 100}, {"neighbours": 500})

    def arguments(self, params: Params) -> dict[str, Any]:
        return {"K": params["neighbours"]}

    def values(self, user: int, had: dict[int, int]) -> NDArray[np.float32] | None:
        row = self.row(had)
        scores: NDArray[np.float32] = np.ravel((row @ self.fitted.similarity).toarray())
        return scores.astype(np.float32)
