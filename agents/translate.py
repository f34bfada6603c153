"""Events -> Interactions: the one place where the wire's words become the fold's columns.

Runs in the model thread, because it gives new items their rows, and that thread is the item
table's only writer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from profiles.hashing import session_hash, token_hash, user_hash
from profiles.interactions import MAX_KINDS, NO_ITEM, Interactions, Kinds
from profiles.items import ItemTable
from profiles.table import ProfileTable
from streams.event_columns import EventColumns
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
        self._types: list[type[Event]] = []  # met by `translate`
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
        item_ids = [event.item_id if isinstance(event, ItemEvent) else "" for event in events]
        columns = EventColumns(
            partition,
            start=0,
            end=0,
            user_ids=[event.user_id for event in events],
            item_ids=item_ids,
            tags=np.array([self._tag(type(event)) for event in events], np.uint8),
            times_ms=np.array([event.ts for event in events], np.int64),
            offsets=np.array(offsets, np.int64),
            appended_ms=np.array(appended_ms, np.int64),
            repeat_hashes=np.zeros(len(events), np.uint64),
            sessions=np.zeros(len(events), np.uint32),
            events=dict(enumerate(events)),
            rejects=[],
        )
        rows = profiles.rows(columns.user_ids)
        return self.translate_columns(columns, self._types, rows, items)

    def _tag(self, of: type[Event]) -> int:
        if of not in self._types:
            self._types.append(of)
        return self._types.index(of)

    def translate_columns(
        self,
        columns: EventColumns,
        types: Sequence[type[Event]],
        user_rows: NDArray[np.int32],
        items: ItemTable,
    ) -> Interactions:
        """The same of B events that are columns already.

        types: what `columns.tags` name. user_rows: int32 (B,), of `columns.user_ids`.
        """
        kind = self._codes(types)[columns.tags]
        session = columns.sessions
        token_start, tokens = np.zeros(len(columns) + 1, np.int32), np.zeros(0, np.uint64)
        searches: list[int] = []
        ratings: dict[int, Review] = {}
        if columns.events:
            session = session.copy()
            for at, event in columns.events.items():
                session[at] = session_hash(event.session_id)  # type: ignore[attr-defined]
                if isinstance(event, Search):
                    searches.append(at)
                elif isinstance(event, Review) and event.rating is not None:
                    ratings[at] = event
                    if is_bad_review(event):
                        kind[at] = self._bad_review
            token_start, tokens = self._queries(columns.events, kind)
        rating, rater = _ratings(ratings, len(columns)) if ratings else (None, None)
        if searches:
            item_row = np.full(len(columns), NO_ITEM, np.int32)
            item_hash = np.zeros(len(columns), np.uint64)
            named = np.ones(len(columns), np.bool_)
            named[searches] = False
            item_row[named] = items.intern(list(compress(columns.item_ids, named.tolist())))
            item_hash[named] = items.hashes[item_row[named]]
        else:
            item_row = items.intern(columns.item_ids)
            item_hash = items.hashes[item_row]
        return Interactions(
            partition=columns.partition,
            user_row=user_rows,
            item_row=item_row,
            item_hash=item_hash,
            kind=kind,
            weight=self._weights[kind],
            positive=self._positive[kind],
            time_ms=np.minimum(columns.times_ms, columns.appended_ms),
            offset=columns.offsets,
            token_start=token_start,
            tokens=tokens,
            session=session,
            rating=rating,
            rater=rater,
        )

    def _codes(self, types: Sequence[type[Event]]) -> NDArray[np.uint8]:
        """The code of each type's kind."""
        codes = [self._kinds[str(one.__struct_config__.tag)].code for one in types]
        return np.array(codes, np.uint8)

    def _queries(
        self, events: Mapping[int, Event], kind: NDArray[np.uint8]
    ) -> tuple[NDArray[np.int32], NDArray[np.uint64]]:
        """Tokens of each query: a search's, and one that led to a positive event.

        events: by place in rising order, all that may have a query.
        """
        n_tokens = np.zeros(len(kind) + 1, np.int32)
        tokens: list[int] = []
        of_search = self._kinds["search"].code
        for at, event in events.items():
            query: str | None = event.query  # type: ignore[attr-defined]
            if query and (kind[at] == of_search or self._positive[kind[at]]):
                before = len(tokens)
                tokens += query_tokens(query, self._n_tokens)
                n_tokens[at + 1] = len(tokens) - before
        return np.cumsum(n_tokens, dtype=np.int32), np.array(tokens, np.uint64)


def _ratings(
    reviews: Mapping[int, Review], n: int
) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Stars of each review that has some, by place among n events, and the hash of its user."""
    rating, rater = np.full(n, np.nan, np.float32), np.zeros(n, np.uint64)
    for at, review in reviews.items():
        rating[at], rater[at] = review.rating, user_hash(review.user_id)
    return rating, rater


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
