"""Which messages the table holds: each sender's are numbered, each number is added once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from agents.exchange.messages import (
    ITEMS,
    TOKENS,
    WORDS,
    Learned,
    from_rows,
    positives_of,
    weights_of,
)
from profiles.blend import average_theta
from profiles.items import ItemTable
from profiles.store_items import Lineage
from streams.item_deltas import ItemDeltas

KEPT_SENDERS = 256
"""Senders of whom the last number is kept, and the last weights; the topic forgets sooner than so
many come and go."""

logger = structlog.get_logger(__name__)


@dataclass(slots=True)
class Received:
    """What a round of reading brought. n_missed: numbers that were passed over."""

    n_rows: int = 0
    n_missed: int = 0
    covers: list[dict[int, int]] = field(default_factory=list)
    bases: set[str] = field(default_factory=set)


class Ledger:
    """Read and written in the model thread only, together with the table."""

    def __init__(self, sender: str) -> None:
        self._sender = sender
        self._included: dict[str, int] = {}
        self._next_offset: int | None = None
        self._n_made = 0
        self._weights: dict[str, Learned] = {}  # by sender, its blend as last told

    def restart(self, lineage: Lineage | None) -> None:
        """The table is that of a snapshot; None: it is empty."""
        self._included = dict(lineage.included) if lineage is not None else {}
        self._next_offset = lineage.next_offset if lineage is not None else None

    def lineage(self, base: str | None) -> Lineage:
        """What is in the table now."""
        included = dict(list(self._included.items())[-KEPT_SENDERS:])
        return Lineage(base, included, self._next_offset)

    def number(self, message: ItemDeltas) -> ItemDeltas:
        """The next one of ours: it is made of what the table holds, so it is in there."""
        self._n_made += 1
        self._included[self._sender] = self._n_made
        return msgspec.structs.replace(message, seq=self._n_made)

    def add(self, inbox: Sequence[tuple[int, ItemDeltas]], items: ItemTable, base: str) -> Received:
        """Add messages, in their order; those that the table holds are passed over."""
        received = Received()
        for offset, message in inbox:
            self._next_offset = offset + 1
            last = self._included.get(message.sender, 0)
            if message.seq <= last:
                continue
            received.bases.add(message.base)
            if base == "" and message.base != "":
                continue  # of a table that we have no beginning of; its snapshot comes first
            if message.seq > last + 1:
                received.n_missed += message.seq - last - 1
            self._included.pop(message.sender, None)  # the newest ones last
            self._included[message.sender] = message.seq
            try:
                received.n_rows += _add(message, items)
                weights = weights_of(message)
                if weights is not None:
                    self._weights.pop(message.sender, None)  # the newest ones last
                    self._weights[message.sender] = weights
                    for sender in list(self._weights)[:-KEPT_SENDERS]:
                        del self._weights[sender]
            except ValueError as error:
                logger.warning("deltas passed over", sender=message.sender, reason=str(error))
                continue
            if message.covers:
                received.covers.append(message.covers)
        return received

    def take_weights(self, items: ItemTable, heard: Collection[str]) -> None:
        """Give a table that nothing is folded into the average of the senders' blends.

        heard: senders that are still there; of others only while there are none.
        """
        there = {sender: said for sender, said in self._weights.items() if sender in heard}
        self._weights = there or self._weights
        if self._weights:
            items.blend.theta[:] = average_theta(list(self._weights.values()))


def _add(message: ItemDeltas, items: ItemTable) -> int:
    positives = positives_of(message)
    n_rows = 0
    add = {
        ITEMS: items.add_changes,
        TOKENS: items.add_token_changes,
        WORDS: items.add_word_changes,
    }
    for rows in message.tables:
        if rows.table in add:
            changes = from_rows(rows, message.clock_ms, items.shape.n_factors)
            n_rows += len(changes) - add[rows.table](changes)
    if positives.n_learned or len(positives):
        items.add_positives(positives)
    return n_rows
