"""river's online factorizations, FunkMF and BiasedMF, taught with negatives drawn from seen items.

Their vectors are river's own; scoring all items is one matrix product of these instead of a
`predict_one` for each, which gives the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import river
from numpy.typing import NDArray
from river import optim, reco

from agents.evaluate.rivals.base import Rival

FACTORS = 32


class FunkMF(Rival):
    """1 for what the user had, 0 for draws from the items seen."""

    name = "river FunkMF"
    library = f"river {river.__version__} FunkMF, {FACTORS} factors"
    learn_grid = tuple(
        {"rate": rate, "negatives": negatives} for rate in (0.05, 0.2, 0.5) for negatives in (1, 4)
    )

    def start(self) -> None:
        self._random = np.random.default_rng(self.seed)
        self._model: Any = self.model(self.params["rate"])
        self._E = np.zeros((self.stream.n_items, FACTORS), np.float32)
        self._n_seen = 0

    def model(self, rate: float) -> Any:
        """river's model."""
        return reco.FunkMF(
            n_factors=FACTORS,
            optimizer=optim.SGD(rate),
            l2=0.01,
            initializer=optim.initializers.Normal(sigma=0.1, seed=self.seed),
        )

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        x = self._model.u_latents[int(self.stream.user[b])].astype(np.float32)
        np.matmul(self._E[: len(out)], x, out=out)

    def take(self, b: int, user: int, item: int) -> None:
        self._n_seen = max(self._n_seen, item + 1)
        self._teach(user, item, 1.0)
        for other in self._random.integers(self._n_seen, size=self.params["negatives"]).tolist():
            if other != item:
                self._teach(user, other, 0.0)

    def _teach(self, user: int, item: int, target: float) -> None:
        self._model.learn_one(user=user, item=item, y=target)
        self._E[item] = self._model.i_latents[item]


class BiasedMF(FunkMF):
    """The same with biases; the user's bias and the mean are the same for all items."""

    name = "river BiasedMF"
    library = f"river {river.__version__} BiasedMF, {FACTORS} factors"

    def start(self) -> None:
        super().start()
        self._bias = np.zeros(self.stream.n_items, np.float32)

    def model(self, rate: float) -> Any:
        return reco.BiasedMF(
            n_factors=FACTORS,
            bias_optimizer=optim.SGD(rate),
            latent_optimizer=optim.SGD(rate),
            l2_bias=0.01,
            l2_latent=0.01,
            latent_initializer=optim.initializers.Normal(sigma=0.1, seed=self.seed),
        )

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        super().scores(b, out)
        out += self._bias[: len(out)]

    def _teach(self, user: int, item: int, target: float) -> None:
        super()._teach(user, item, target)
        self._bias[item] = self._model.i_biases[item]
