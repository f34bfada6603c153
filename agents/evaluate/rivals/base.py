"""What rivals share: the user's recent items, counts of items, and a grid to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.evaluate.stream import Stream

Params = Mapping[str, Any]

NO_GRID: tuple[Params, ...] = ({},)

FLOOR = 1e-7
"""Weight of popularity where a model has nothing to say: it orders ties and decides nothing."""


class Rival:
    """A rival: `begin`, `scores`, `learn` (see `protocol.Ranker`), and what is tried of it.

    learn_grid: parameters that change what is learned. score_grid: those that only change how it is
    scored, so that all of them are tried in one pass. Every rival is given both as attributes.
    """

    name = ""
    library = "own code"
    learn_grid: Sequence[Params] = NO_GRID
    score_grid: Sequence[Params] = NO_GRID

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.about = self.library
        self.configure({**self.learn_grid[0], **self.score_grid[0]})

    def configure(self, params: Params) -> None:
        """Take parameters of the grids."""
        self.params = {**getattr(self, "params", {}), **params}

    def begin(self, stream: Stream) -> None:
        """Forget everything, and count from here."""
        self.stream = stream
        self.counts: NDArray[np.float32] = np.zeros(stream.n_items, np.float32)
        self.start()

    def start(self) -> None:
        """What a rival has besides counts."""

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        """Popularity, where nothing better is known."""
        out[:] = self.counts[: len(out)]

    def learn(self, b: int) -> None:
        """Positive events only; a rival's own learning is `take`."""
        stream = self.stream
        if stream.positive[b]:
            self.take(b, int(stream.user[b]), int(stream.item[b]))
            self.counts[stream.item[b]] += 1

    def take(self, b: int, user: int, item: int) -> None:
        """Learn that this user had this item."""

    def popularity(self, out: NDArray[np.float32]) -> None:
        """Fill `out` with a floor of popularity."""
        np.multiply(self.counts[: len(out)], FLOOR / max(1.0, float(self.counts.sum())), out=out)


class Recent:
    """The last items of each user, newest first, none twice in a row."""

    def __init__(self, n_users: int, length: int) -> None:
        self.rows: NDArray[np.int32] = np.full((n_users, length), -1, np.int32)
        self.n: NDArray[np.int32] = np.zeros(n_users, np.int32)

    def push(self, user: int, item: int) -> None:
        """The newest item."""
        row = self.rows[user]
        if row[0] != item:
            row[1:] = row[:-1].copy()
            row[0] = item
            self.n[user] = min(self.n[user] + 1, len(row))
