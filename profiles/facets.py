"""What a catalogue entry says of an item, as hashes: four groups and a few tokens of text.

Owns which words and groups an item has; `groups` and `tokens` own what is learned of them. Each
facet is hashed in a space of its own: the brand 'Lamp' is neither the category nor the word 'lamp'.
Nothing here is a fact of a user: an entry may change at any time, and its item with it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

LEAF, PARENT, BRAND, PRICE = range(4)
"""The facets: the category path, the path without its last part, the brand, the price band."""

N_FACETS = 4

MOST_TOKENS = 12
"""Tokens of an item: more make each one weaker, and every read of the item slower."""

_GROUP_SEED = 16  # and the three after it, by facet; 0 and 1 are ids and query words (`hashing`)
_TOKEN_SEED = 32  # of a word; 33 to 35: a category path, a brand, a price band

_WORD = re.compile(r"\w+")


class Description(NamedTuple):
    """groups: a hash by facet, 0: unknown. tokens: different hashes, at most `MOST_TOKENS`."""

    groups: tuple[int, ...]
    tokens: tuple[int, ...]


NOTHING = Description((0, 0, 0, 0), ())
"""Of an item that the catalogue does not have."""


def describe(
    title: str | None = None,
    category: Sequence[str] = (),
    brand: str | None = None,
    price: float | None = None,
) -> Description:
    """The groups and tokens of an entry. category: path, from the root.

    Upper and lower case are one. Every part of the path is a token (so that neighbours in the tree
    share some), then brand and price band, then the words of the title while there is room.

    >>> lamp = describe("Red lamp", ["home", "lamps"], "Alder", 20.0)
    >>> other = describe("Blue lamp", ["home", "rugs"], "alder", 21.0)
    >>> [one == two for one, two in zip(lamp.groups, other.groups)]
    [False, True, True, True]
    >>> len(lamp.tokens), len(set(lamp.tokens) & set(other.tokens))
    (6, 4)
    """
    path = [part.casefold() for part in category]
    paths = ["/".join(path[:n]) for n in range(len(path), 0, -1)]
    brand = (brand or "").casefold()
    band = price_band(price)
    names = (paths[0] if paths else "", paths[1] if paths[1:] else "", brand, band)
    tokens = [_hash(name, _TOKEN_SEED + 1) for name in paths[: MOST_TOKENS // 2]]
    tokens += [_hash(name, _TOKEN_SEED + 2 + n) for n, name in enumerate((brand, band)) if name]
    tokens += [_hash(word, _TOKEN_SEED) for word in _WORD.findall((title or "").casefold())]
    groups = (_hash(name, _GROUP_SEED + facet) if name else 0 for facet, name in enumerate(names))
    return Description(tuple(groups), tuple(dict.fromkeys(tokens))[:MOST_TOKENS])


def price_band(price: float | None) -> str:
    """Half an octave of prices: two bands to each doubling; empty for none and for nothing.

    >>> price_band(1.0), price_band(1.42), price_band(1.99), price_band(2.0), price_band(0.0)
    ('0', '1', '1', '2', '')
    """
    return str(math.floor(2 * math.log2(price))) if price else ""


def _hash(name: str, seed: int) -> int:
    return xxhash.xxh3_64_intdigest(name.encode(), seed=seed) or 1
