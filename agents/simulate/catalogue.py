"""The catalogue of the simulated shop: titles, categories, brands, prices, latent vectors.

Item j is a point near its category's centre in a latent space; a shopper likes what lies in the
direction of the shopper's taste. Popularity is Zipf's law over a random order of the items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streams.events import Item

DEPARTMENTS = {
    "home": ("lamps", "rugs", "mugs", "clocks", "blankets"),
    "garden": ("planters", "seeds", "lanterns", "benches"),
    "sport": ("shoes", "bikes", "tents", "balls"),
    "electronics": ("headphones", "phones", "cameras", "speakers", "chargers"),
    "fashion": ("jackets", "shirts", "scarves", "bags"),
    "toys": ("puzzles", "robots", "blocks", "dolls"),
    "kitchen": ("knives", "pans", "kettles", "bowls"),
}
# fmt: off
QUALITIES = [
    "red", "blue", "green", "white", "black", "golden", "small", "large", "classic", "modern",
    "vintage", "soft", "light", "heavy", "quiet", "bright", "folding", "wooden", "steel",
    "glass", "woven", "travel", "family", "kids", "pocket", "outdoor",
]
# fmt: on
# fmt: off
BRANDS = [
    "alder", "birch", "cedar", "dune", "ember", "fjord", "grove", "heron", "iris", "juniper",
    "kestrel", "lumen",
]
# fmt: on
CATEGORIES = [(department, name) for department, names in DEPARTMENTS.items() for name in names]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """I items over C categories in K latent dimensions.

    vectors: float32 (I, K), rows about unit length. category: int32 (I,), index into `CATEGORIES`.
    centres: float32 (C, K), unit rows. price: float64 (I,). popularity: float64 (I,), sums to 1.
    members: for each category the rows of its items, most popular first.
    """

    item_ids: list[str]
    titles: list[str]
    brands: list[str]
    category: NDArray[np.int32]
    price: NDArray[np.float64]
    popularity: NDArray[np.float64]
    vectors: NDArray[np.float32]
    centres: NDArray[np.float32]
    members: list[NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.item_ids)

    def items(self) -> list[Item]:
        """The entries as they go to the catalogue topic."""
        return [
            Item(
                item_id=item_id,
                title=self.titles[row],
                category=list(CATEGORIES[self.category[row]]),
                brand=self.brands[row],
                price=float(self.price[row]),
            )
            for row, item_id in enumerate(self.item_ids)
        ]


def make_catalogue(
    n_items: int, n_factors: int, zipf: float, rng: np.random.Generator
) -> Catalogue:
    """Draw a catalogue. zipf: exponent of the popularity, about 1 in real shops."""
    n_categories = len(CATEGORIES)
    centres = unit_rows(rng.standard_normal((n_categories, n_factors)))
    # Every category has an item as soon as there are enough; the rest falls where it may.
    category = rng.permutation(np.arange(n_items) % n_categories).astype(np.int32)
    vectors = unit_rows(
        centres[category] + 0.6 * rng.standard_normal((n_items, n_factors)) / np.sqrt(n_factors)
    )
    rank = rng.permutation(n_items)
    weight = (rank + 1.0) ** -zipf
    popularity = np.asarray(weight / weight.sum(), dtype=np.float64)
    base_price = np.exp(rng.normal(3.0, 0.8, n_categories))
    price = np.round(base_price[category] * np.exp(rng.normal(0, 0.4, n_items)), 2) + 0.5
    brand = rng.integers(0, len(BRANDS), n_items)
    first = rng.integers(0, len(QUALITIES), n_items)
    second = (first + 1 + rng.integers(0, len(QUALITIES) - 1, n_items)) % len(QUALITIES)
    by_popularity = np.argsort(rank, kind="stable")
    return Catalogue(
        item_ids=[f"i{row}" for row in range(n_items)],
        titles=[
            f"{BRANDS[brand[row]]} {QUALITIES[first[row]]} {QUALITIES[second[row]]} "
            f"{CATEGORIES[category[row]][1]}"
            for row in range(n_items)
        ],
        brands=[BRANDS[number] for number in brand],
        category=category,
        price=price,
        popularity=popularity,
        vectors=vectors,
        centres=centres,
        members=[by_popularity[category[by_popularity] == c] for c in range(n_categories)],
    )


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows scaled to length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / lengths, dtype=np.float32)
