"""Catalogue entries -> descriptions: the one place where an `Item` becomes hashes."""

from __future__ import annotations

from profiles.facets import Description, describe
from streams.events import Item


def description_of(item: Item) -> Description:
    """What the model is told of an item."""
    return describe(item.title, item.category, item.brand, item.price)
