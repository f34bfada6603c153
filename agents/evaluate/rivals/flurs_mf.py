"""FluRS' online factorizations, where the package is installed (extra `evaluate`)."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.rivals.base import Rival

FACTORS = 40


class FlursMF(Rival):
    """Incremental matrix factorization of positives only (ISGD)."""

    name = "FluRS MF"
    library = f"FluRS MFRecommender, {FACTORS} factors"
    recommender = "MFRecommender"
    l2 = 0.01
    learn_grid: Any = ({"rate": 0.03}, {"rate": 0.1}, {"rate": 0.3})

    def start(self) -> None:
        np.random.seed(self.seed)  # FluRS draws from numpy's global generator
        self._of = importlib.import_module("flurs.data.entity")
        made = getattr(importlib.import_module("flurs.recommender"), self.recommender)
        self._model: Any = made(k=FACTORS, l2_reg=self.l2, learn_rate=self.params["rate"])
        self._model.initialize()

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        user = self._of.User(int(self.stream.user[b]))
        if self._model.is_new_user(user.index):
            self.popularity(out)
            return
        n = min(len(out), self._model.n_item)
        out[:] = -np.inf
        # Its score is the distance from 1; the ranking is by the smallest.
        out[:n] = self.value(self._model.score(user, np.arange(n)))

    def value(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """FluRS' score as one of which the largest is best."""
        return -score

    def take(self, b: int, user: int, item: int) -> None:
        model, of = self._model, self._of
        if model.is_new_user(user):
            model.register(of.User(user))
        while model.n_item <= item:  # its rows are in the order of registration, as ours are
            model.register(of.Item(model.n_item))
        known = model.users[user]["known_items"]
        known.add(item)
        if len(known) == model.n_item:  # nothing to draw as a negative
            return
        model.update(of.Event(of.User(user), of.Item(item)))


class FlursBPR(FlursMF):
    """One pairwise step against a draw from what the user does not have."""

    name = "FluRS BPRMF"
    library = f"FluRS BPRMFRecommender, {FACTORS} factors"
    recommender = "BPRMFRecommender"
    learn_grid: Any = ({"rate": 0.1}, {"rate": 0.3}, {"rate": 1.0})
    l2 = 0.0  # it adds the decay instead of taking it off

    def value(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        return score
