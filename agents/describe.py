"""Catalogue entries -> descriptions of items: the one place where an `Item` becomes hashes."""

from __future__ import annotations

from profiles.facets import NOTHING, Description, describe
from streams.events import Item


def description_of(item: Item | None) -> Description:
    """What the model is told of an item; of one that the catalogue does not have, nothing."""
    if item is None:
        return NOTHING
    return describe(item.title, item.category, item.brand, item.price)
