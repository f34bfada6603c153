"""Everything that is learned of the stream, as one tuple: what kernels and serving take."""

from __future__ import annotations

from typing import NamedTuple

from profiles.blend import Blend
from profiles.groups import Groups
from profiles.item_columns import ItemColumns
from profiles.lists import Lists
from profiles.queries import Queries
from profiles.ratings import Ratings
from profiles.tokens import Tokens


class Model(NamedTuple):
    """Of `ItemTable` the state itself, of `ItemView` a copy."""

    items: ItemColumns
    lists: Lists
    groups: Groups
    tokens: Tokens  # of items' texts
    queries: Queries  # words and whole queries: their vectors and lists
    blend: Blend
    ratings: Ratings
