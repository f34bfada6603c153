"""Events -> Interactions: the one place where the wire's words become the fold's columns.

Runs in the model thread, because it gives new items their rows, and that thread is the item
table's only writer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import session_hash, token_hash, user_hash
from profiles.interactions import MAX_KINDS, NO_ITEM, Interactions, Kinds
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
        self._kinds = kinds
        self._bad_review = kinds["bad_review"].code
        self._weights = np.zeros(MAX_KINDS, np.float32)
        self._positive = np.zeros(MAX_KINDS, np.uint8)
        for kind in kinds.by_name.values():
            self._weights[kind.code] = kind.weight
            self._positive[kind.code] = kind.positive
        self._code_of: dict[type[Event], int] = {}
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
        classes: list[type[Event]] = list(map(type, events))
        seen = set(classes)
        for new in seen - self._code_of.keys():
            self._code_of[new] = self._kinds[str(new.__struct_config__.tag)].code
        kind = np.array(list(map(self._code_of.__getitem__, classes)), np.uint8)
        rating = rater = None
        if Review in seen:
            rating, rater = _ratings(events)
            kind[[number for number, event in enumerate(events) if is_bad_review(event)]] = (
                self._bad_review
            )
        item_row = np.full(len(events), NO_ITEM, np.int32)
        item_hash = np.zeros(len(events), np.uint64)
        if Search in seen:
            at = [number for number, event in enumerate(events) if isinstance(event, ItemEvent)]
            item_row[at] = items.intern([events[number].item_id for number in at])  # type: ignore[attr-defined]
            item_hash[at] = items.hashes[item_row[at]]
        elif events:
            item_row = items.intern([event.item_id for event in events])  # type: ignore[attr-defined]
            item_hash = items.hashes[item_row]
        token_start, tokens = self._queries(events, kind)
        return Interactions(
            partition=partition,
            user_row=profiles.rows([event.user_id for event in events]),
            item_row=item_row,
            item_hash=item_hash,
            kind=kind,
            weight=self._weights[kind],
            positive=self._positive[kind],
            time_ms=np.minimum(
                np.array([event.ts for event in events], np.int64),
                np.array(appended_ms, np.int64),
            ),
            offset=np.array(offsets, np.int64),
            token_start=token_start,
            tokens=tokens,
            session=_sessions(events),
            rating=rating,
            rater=rater,
        )

    def _queries(
        self, events: Sequence[Event], kind: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Tokens of each query: a search's, and one that led to a positive event."""
        token_start = np.zeros(len(events) + 1, np.int32)
        queries: list[str | None] = [event.query for event in events]  # type: ignore[attr-defined]
        tokens: list[int] = []
        if any(queries):
            of_search = self._kinds["search"].code
            speaks = (self._positive[kind] | (kind == of_search)).tolist()
            for number, query in enumerate(queries):
                if query and speaks[number]:
                    tokens += query_tokens(query, self._n_tokens)
                token_start[number + 1] = len(tokens)
        return token_start, np.array(tokens, np.uint64)


def _ratings(events: Sequence[Event]) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Stars of each review that has some, and the hash of its user."""
    rating, rater = np.full(len(events), np.nan, np.float32), np.zeros(len(events), np.uint64)
    for number, event in enumerate(events):
        if isinstance(event, Review) and event.rating is not None:
            rating[number], rater[number] = event.rating, user_hash(event.user_id)
    return rating, rater


def _sessions(events: Sequence[Event]) -> NDArray[np.uint32]:
    """The hash of each event's session id, 0 without one."""
    ids: list[str | None] = [event.session_id for event in events]  # type: ignore[attr-defined]
    if not any(ids):
        return np.zeros(len(ids), np.uint32)
    return np.fromiter(map(session_hash, ids), np.uint32, len(ids))


def is_bad_review(event: Event) -> bool:
    """Whether an event is a review that speaks against its item.

    >>> is_bad_review(Review(user_id="u", item_id="i", ts=0, rating=2.5))
    True
    >>> is_bad_review(Review(user_id="u", item_id="i", ts=0))
    False
    """
    return isinstance(event, Review) and event.rating is not None and event.rating < GOOD_RATING


def query_tokens(query: str, most: int) -> list[int]:
    """The hashes of a query's first words.

    >>> query_tokens("Red LAMP", 8) == query_tokens("red, lamp!", 2)
    True
    """
    return [token_hash(word) for word in _WORD.findall(query.casefold())[:most]]
