"""Shops with shoppers of a taste, folded: tables that learned something, for tests of lists."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.facets import describe
from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.view import ItemView

BATCH = 2_000
A_TOPIC = 40
"""Items of a topic; shoppers keep to three."""


@dataclass
class Shop:
    """config: sizes are the real ones. view: as of the last batch folded."""

    config: FoldConfig
    profiles: ProfileTable
    items: ItemTable
    view: ItemView
    random: np.random.Generator
    tastes: NDArray[np.int64]  # (U, 3) topics
    n_topics: int  # number % n_topics is that of an item
    n_items: int = 0
    n_events: int = 0
    time_ms: int = 1_600_000_000_000

    def shop(self, n: int) -> None:
        """n more clicks, in sessions of four."""
        for first in range(0, n, BATCH):
            self._fold(min(BATCH, n - first))
            self.view.apply(self.items.take_delta())

    def arrive(self, n: int, described: bool) -> None:
        """n new items, described or not."""
        names = [f"i{number}" for number in range(self.n_items, self.n_items + n)]
        self.items.intern(names)
        if described:
            first = self.n_items
            said = {name: _entry(first + j, self.random) for j, name in enumerate(names)}
            self.items.describe(said)
        self.n_items += n
        self.view.apply(self.items.take_delta())

    def rush(self, item: int, n: int) -> None:
        """n clicks on one item."""
        self._fold(n, item)
        self.view.apply(self.items.take_delta())

    def _fold(self, n: int, only: int | None = None) -> None:
        random, U = self.random, len(self.tastes)
        session = np.arange(n) // 4
        user = random.integers(U, size=n // 4 + 1)[session]
        topic = self.tastes[user, random.integers(3, size=n // 4 + 1)[session]]
        stray = random.random(n) < 0.1
        topic[stray] = random.integers(self.n_topics, size=int(stray.sum()))
        rank = np.minimum(random.geometric(0.08, size=n) - 1, A_TOPIC - 1)
        if self.n_items > A_TOPIC * self.n_topics:  # a tenth of the clicks are on what came later
            newer = random.random(n) < 0.1
            most = self.n_items // self.n_topics
            rank[newer] = random.integers(A_TOPIC, most + 1, size=int(newer.sum()))
        item = np.minimum(topic + rank * self.n_topics, self.n_items - 1).astype(np.int32)
        if only is not None:
            item[:] = only
        interactions = Interactions(
            partition=0,
            user_row=self.profiles.rows([f"u{number}" for number in user.tolist()]),
            item_row=item,
            item_hash=self.items.hashes[item],
            kind=np.zeros(n, np.uint8),
            weight=np.ones(n, np.float32),
            positive=np.ones(n, np.uint8),
            time_ms=self.time_ms + 1_000 * np.arange(n, dtype=np.int64),
            offset=self.n_events + np.arange(n, dtype=np.int64),
            token_start=np.zeros(n + 1, np.int32),
            tokens=np.zeros(0, np.uint64),
            session=(self.n_events + session + 1).astype(np.uint32),
        )
        fold_batch(self.profiles, self.items, interactions, self.config, 0)
        self.n_events += n
        self.time_ms += 1_000 * n


def a_learned_shop(n_items: int, n_events: int, described: bool) -> Shop:
    """A shop after so many clicks of 1,500 shoppers; described: with groups and texts."""
    config, random = FoldConfig(), np.random.default_rng(7)
    shop = Shop(
        config=config,
        profiles=ProfileTable(config.shape),
        items=ItemTable(config.shape, config),
        view=ItemView(config.shape, config),
        random=random,
        tastes=random.integers(n_items // A_TOPIC, size=(1_500, 3)),
        n_topics=n_items // A_TOPIC,
    )
    users = [f"u{number}" for number in range(len(shop.tastes))]
    shop.profiles.load(users, [None] * len(users))
    shop.arrive(n_items, described)
    shop.shop(n_events)
    return shop


def _entry(number: int, random: np.random.Generator):  # type: ignore[no-untyped-def]
    topic = number % 500
    return describe(
        f"word{topic} word{random.integers(300)}",
        [f"p{topic // 10}", f"t{topic}"],
        f"b{random.integers(80)}",
        float(random.integers(1, 90)),
    )
