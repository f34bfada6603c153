"""Events -> Interactions: the one place where the wire's words become the fold's columns.

Runs in the model thread, because it gives new items their rows, and that thread is the item
table's only writer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from profiles.hashing import token_hash
from profiles.interactions import NO_ITEM, Interactions, Kinds
from profiles.items import ItemTable
from profiles.table import ProfileTable
from streams.events import Event, ItemEvent, Review, Search

GOOD_RATING = 3.0
"""A review from here on speaks for its item; one without a rating counts as exactly this."""

_WORD = re.compile(r"\w+")


class Translator:
    """Translates the events of a shop; knows its kinds of interaction."""

    def __init__(self, kinds: Kinds, n_tokens: int) -> None:
        """n_tokens: how many words of a query a profile keeps pending."""
        self._columns = {
            name: (kind.code, kind.weight, kind.positive) for name, kind in kinds.by_name.items()
        }
        self._n_tokens = n_tokens

    def translate(
        self,
        partition: int,
        events: Sequence[Event],
        offsets: Sequence[int],
        appended_ms: Sequence[int],
        profiles: ProfileTable,
        items: ItemTable,
    ) -> Interactions:
        """The columns of B events in log order; every user must be loaded in `profiles`.

        offsets, appended_ms: of the events' messages. A late or a future clock can't move
        anything: the event time is never after the append time.
        """
        user_row = profiles.rows([event.user_id for event in events])
        kinds = [self._columns[_kind_name(event)] for event in events]
        item_ids: list[str] = []
        at: list[int] = []
        token_start = np.zeros(len(events) + 1, np.int32)
        tokens: list[int] = []
        for number, event in enumerate(events):
            if isinstance(event, ItemEvent):
                item_ids.append(event.item_id)
                at.append(number)
            elif isinstance(event, Search):
                tokens.extend(self._tokens(event.query))
            token_start[number + 1] = len(tokens)
        item_row = np.full(len(events), NO_ITEM, np.int32)
        item_row[at] = items.intern(item_ids)
        item_hash = np.zeros(len(events), np.uint64)
        item_hash[at] = items.hashes[item_row[at]]
        return Interactions(
            partition=partition,
            user_row=user_row,
            item_row=item_row,
            item_hash=item_hash,
            kind=np.array([kind[0] for kind in kinds], np.uint8),
            weight=np.array([kind[1] for kind in kinds], np.float32),
            positive=np.array([kind[2] for kind in kinds], np.uint8),
            time_ms=np.minimum(
                np.array([event.ts for event in events], np.int64),
                np.array(appended_ms, np.int64),
            ),
            offset=np.array(offsets, np.int64),
            token_start=token_start,
            tokens=np.array(tokens, np.uint64),
        )

    def _tokens(self, query: str) -> list[int]:
        words = _WORD.findall(query.casefold())
        return [token_hash(word) for word in words[: self._n_tokens]]


def _kind_name(event: Event) -> str:
    """The kind that an event counts as: its tag, but for a bad review."""
    if isinstance(event, Review) and event.rating is not None and event.rating < GOOD_RATING:
        return "bad_review"
    return str(event.__struct_config__.tag)
