"""Interactions: what the fold is given, as columns; kinds of interaction are data.

Made by `agents.translate` from events; knows no JSON, no topic and no user id, only rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_KINDS = 32
"""Codes are 0 to 31: a profile counts each kind in a slot of its own."""

LEAST_WEIGHT = 0.001
MOST_WEIGHT = 1.0
"""Bounds of a weight: below, a history that weighs nothing in float32 would have no direction."""

NO_ITEM = -1
"""`Interactions.item_row` of an interaction without an item (a search)."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of interaction.

    code: the number in records, never given to another kind. weight: of one interaction, in
    [0.001, 1]. positive: it moves vectors and enters the history; otherwise it is counted only, but
    for the two kinds that push an item away.
    """

    name: str
    code: int
    weight: float = 1.0
    positive: bool = True


RETURN, BAD_REVIEW = 4, 5
"""Codes of the kinds that push an item away from who has had it; a return also takes one off the
own table."""

BUILTIN_KINDS: tuple[Kind, ...] = (
    Kind("click", 0),
    Kind("cart", 1),
    Kind("purchase", 2),
    Kind("review", 3),  # of 3 stars or more; a lower one is translated to `bad_review`
    Kind("return", RETURN, positive=False),
    Kind("bad_review", BAD_REVIEW, positive=False),
    Kind("search", 6, positive=False),
)
FIRST_OWN_CODE = 16
"""A shop's own kinds are numbered from here, in the order of the configuration."""


class Kinds:
    """The kinds of one shop, by name and by code.

    >>> kinds = Kinds([Kind("favourite", FIRST_OWN_CODE, weight=0.5)])
    >>> kinds["favourite"].weight, kinds.name(2)
    (0.5, 'purchase')
    """

    def __init__(self, extra: Iterable[Kind] = ()) -> None:
        """Raises ValueError for a name or code given twice, or a code out of range."""
        self.by_name: dict[str, Kind] = {}
        self._names: list[str | None] = [None] * MAX_KINDS
        for kind in (*BUILTIN_KINDS, *extra):
            if kind.name in self.by_name:
                raise ValueError(f"kind {kind.name!r} is there already; give yours another name")
            if not 0 <= kind.code < MAX_KINDS or self._names[kind.code] is not None:
                raise ValueError(f"kind {kind.name!r}: code {kind.code} is taken or out of range")
            if not LEAST_WEIGHT <= kind.weight <= MOST_WEIGHT:
                raise ValueError(
                    f"kind {kind.name!r}: weight {kind.weight} is not in [{LEAST_WEIGHT}, 1]"
                )
            self.by_name[kind.name] = kind
            self._names[kind.code] = kind.name

    def __getitem__(self, name: str) -> Kind:
        return self.by_name[name]

    def name(self, code: int) -> str:
        """The name of a code; ``kind-<code>`` for one that this configuration does not have."""
        return self._names[code] or f"kind-{code}"


@dataclass(slots=True)
class Interactions:
    """B interactions of one partition, in log order.

    user_row: int32 (B,), row in the partition's `ProfileTable`.
    item_row: int32 (B,), row in the `ItemTable`, or `NO_ITEM`.
    item_hash: uint64 (B,), the item's 64-bit hash (0 without an item).
    kind: uint8 (B,). weight: float32 (B,), in [0.001, 1]. positive: uint8 (B,), 0 or 1.
    time_ms: int64 (B,), event time, never after the append time: min(ts, append time).
    offset: int64 (B,), rising; it seeds the negatives together with `partition`.
    token_start: int32 (B + 1,), tokens: uint64 (T,): token hashes of each interaction's query: a
        search's, or the one that a positive interaction says has led to it.
    session: uint32 (B,), hash of the session id, 0 without one; None: no interaction has one.
    rating: float32 (B,), stars, not a number without any; rater: uint64 (B,), hash of the user of
        each that has some; None: no interaction has any.
    """

    partition: int
    user_row: NDArray[np.int32]
    item_row: NDArray[np.int32]
    item_hash: NDArray[np.uint64]
    kind: NDArray[np.uint8]
    weight: NDArray[np.float32]
    positive: NDArray[np.uint8]
    time_ms: NDArray[np.int64]
    offset: NDArray[np.int64]
    token_start: NDArray[np.int32]
    tokens: NDArray[np.uint64]
    session: NDArray[np.uint32] | None = None
    rating: NDArray[np.float32] | None = None
    rater: NDArray[np.uint64] | None = None

    def __len__(self) -> int:
        return len(self.user_row)
