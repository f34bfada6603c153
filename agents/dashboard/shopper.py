"""One shopper as people see one: profile, list with reasons, and what a click of ours changes.

Reads the record from the store and ranks with the worker's own `Ranking`, so a page shows what the
scorer would emit now. Events go through Kafka like everybody's: nothing here touches a profile.
A `ShopperDesk` is shared by all pages and keeps nothing of any of them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from agents.dashboard.recent import RecentMessages
from profiles.profile import Profile
from profiles.record import decode_profile
from streams.codec import decode_recommendation
from streams.errors import DecodeError
from streams.events import Event, RankedItem, Recommendation, event_union
from streams.partitioner import partition_of
from streams.topics import TopicSet

if TYPE_CHECKING:
    from agents.app import Worker
    from profiles.shape import ModelShape

LIST_ITEMS = 12
"""Items shown: a screen's worth, with their reasons."""

LOOK_S = 0.005
"""Between two looks for the profile that knows a click: a commit takes about a millisecond."""

PATIENCE_S = 15.0
"""After so long a click that shows nowhere is reported, with the likely cause."""

ITEM_KINDS = ("click", "cart", "purchase", "review", "return")
"""Built-in kinds that name an item, the common ones first."""


class ClickLost(Exception):
    """A click was sent and no profile knew it in time; the message says what to look at."""


@dataclass(frozen=True, slots=True)
class ReasonLine:
    """A past event that speaks for an item, and its share of the score."""

    title: str
    kind: str
    share: float


@dataclass(frozen=True, slots=True)
class ListedItem:
    """One recommended item."""

    rank: int
    item_id: str
    title: str
    subtitle: str
    score: float
    reasons: tuple[ReasonLine, ...] = ()


@dataclass(frozen=True, slots=True)
class PastEvent:
    """One positive event of the history."""

    item_id: str
    title: str
    kind: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class ShopperState:
    """A shopper's profile and the list made of it. known: any event of theirs was folded."""

    user_id: str
    partition: int
    known: bool
    counts: tuple[tuple[str, int], ...] = ()
    history: tuple[PastEvent, ...] = ()
    first_ms: int = 0
    last_ms: int = 0
    last_offset: int = -1
    has_vector: bool = False
    items: tuple[ListedItem, ...] = ()


@dataclass(frozen=True, slots=True)
class Move:
    """How one item of a list stands against an earlier list.

    before: its rank there; None: it was not in it.
    """

    before: int | None
    now: int

    @property
    def text(self) -> str:
        """For people.

        >>> Move(5, 2).text, Move(2, 3).text, Move(4, 4).text, Move(None, 1).text
        ('▲ 3', '▼ 1', '=', 'new')
        """
        if self.before is None:
            return "new"
        by = self.before - self.now
        return f"▲ {by}" if by > 0 else f"▼ {-by}" if by < 0 else "="


@dataclass(frozen=True, slots=True)
class SentEvent:
    """What one event of ours did. ack_ms: until the broker had it; list_ms: until the new list."""

    kind: str
    item_id: str
    title: str
    partition: int
    offset: int
    ack_ms: float
    list_ms: float
    before: ShopperState
    after: ShopperState

    @property
    def summary(self) -> str:
        """What became of the list, in one sentence."""
        moves = moves_between(self.before.items, self.after.items)
        n_new = sum(move.before is None for move in moves.values())
        n_moved = sum(move.before not in (None, move.now) for move in moves.values())
        if not n_new and not n_moved:
            return "The list stayed as it was."
        return f"{n_new} new, {n_moved} moved, {len(moves) - n_new - n_moved} stayed."


def moves_between(before: Sequence[ListedItem], after: Sequence[ListedItem]) -> dict[str, Move]:
    """How each item of a list stands against an earlier one, by item id."""
    ranks = {item.item_id: item.rank for item in before}
    return {item.item_id: Move(ranks.get(item.item_id), item.rank) for item in after}


def gone_between(before: Sequence[ListedItem], after: Sequence[ListedItem]) -> list[ListedItem]:
    """Items that the later list does not have any more."""
    kept = {item.item_id for item in after}
    return [item for item in before if item.item_id not in kept]


class ShopperDesk:
    """Looks shoppers up, finds items, sends events and watches what they change."""

    def __init__(self, worker: Worker, n_items: int = LIST_ITEMS) -> None:
        settings = worker.settings
        self._worker = worker
        self.n_items = n_items
        self._kinds = settings.kinds_table()
        own = [kind.name for kind in settings.kinds]
        self.kinds = (*ITEM_KINDS, *own)
        self._events: Any = event_union(own)
        self._titles: Mapping[str, str] = {}
        self._titles_version = -1
        topics = TopicSet(settings.topic_prefix, settings.partitions)
        self._lists = RecentMessages(settings.kafka, topics.recommendations)

    @property
    def shape(self) -> ModelShape:
        """Sizes of a record."""
        assert self._worker.view is not None  # every worker with pages has one
        return self._worker.view.shape

    async def close(self) -> None:
        """Close the client of the lists' topic."""
        await self._lists.close()

    def partition(self, user_id: str) -> int:
        """The partition that owns a user."""
        return partition_of(user_id, self._worker.settings.partitions)

    async def look(self, user_id: str) -> ShopperState:
        """The shopper as of now. Raises StoreAway, RecordTooNew, RecordCorrupt."""
        partition = self.partition(user_id)
        return self._state(user_id, partition, await self._record(user_id, partition))

    async def send(self, user_id: str, kind: str, item_id: str) -> SentEvent:
        """Send one event through Kafka and wait until the shopper's list knows it.

        Raises msgspec.ValidationError (ids or kind out of bounds), BrokerAway, StoreAway,
        ClickLost.
        """
        event: Event = msgspec.convert(
            {
                "type": kind,
                "user_id": user_id,
                "item_id": item_id,
                "ts": time.time_ns() // 1_000_000,
                "event_id": f"dashboard-{uuid.uuid4().hex}",
            }
            | ({"rating": 5.0} if kind == "review" else {}),
            type=self._events,
        )
        before = await self.look(user_id)
        began = time.perf_counter()
        where = await self._worker.producer.send_event(event)
        ack_ms = (time.perf_counter() - began) * 1_000
        while True:
            record = await self._record(user_id, where.partition)
            if (
                record is not None
                and decode_profile(record, self.shape, user_id).last_offset >= where.offset
            ):
                break
            if time.perf_counter() - began > PATIENCE_S:
                raise ClickLost(
                    f"partition {where.partition}, offset {where.offset}: appended, and not "
                    f"folded within {PATIENCE_S:g} s; look at that partition on the overview"
                )
            await asyncio.sleep(LOOK_S)
        after = self._state(user_id, where.partition, record)
        return SentEvent(
            kind=kind,
            item_id=item_id,
            title=self._title(item_id),
            partition=where.partition,
            offset=where.offset,
            ack_ms=ack_ms,
            list_ms=(time.perf_counter() - began) * 1_000,
            before=before,
            after=after,
        )

    async def find_items(self, text: str, n: int = 8) -> list[tuple[str, str]]:
        """Up to n (item id, title) whose id is, or whose title or id contains, the text."""
        text = text.strip().casefold()
        if not text:
            return []
        titles = self._current_titles()
        ids = self._worker.view.ids if self._worker.view is not None else []
        # A scan of 100,000 titles takes some 20 ms: beside the loop, on what doesn't change.
        return await asyncio.to_thread(_matches, text, titles, ids, n)

    async def recent_users(self, n: int = 12) -> list[str]:
        """Shoppers who got a list lately, newest first. Raises BrokerAway."""
        per_partition = max(1, 2 * n // self._worker.settings.partitions)
        users = [
            (message.key or b"").decode("utf-8", "replace")
            for message in await self._lists.last(per_partition)
        ]
        return list(dict.fromkeys(filter(None, users)))[:n]

    async def last_pushed(self, user_id: str, within: int = 200) -> Recommendation | None:
        """The last list that the scorer pushed to this user, if it is among the newest.

        within: messages looked at, from the end of the user's partition. Raises BrokerAway.
        """
        key = user_id.encode()
        for message in await self._lists.last(within, self.partition(user_id)):
            if message.key != key:
                continue
            try:
                recommendation = decode_recommendation(message.value)
            except DecodeError:
                continue  # somebody else's message: not ours to judge here
            if recommendation.kind == "push":
                return recommendation
        return None

    async def _record(self, user_id: str, partition: int) -> bytes | None:
        return (await self._worker.store.read_many(partition, [user_id]))[0]

    def _state(self, user_id: str, partition: int, record: bytes | None) -> ShopperState:
        assert self._worker.ranking is not None  # every worker with pages has one
        ranked = self._worker.ranking.rank([user_id], [record], self.n_items)[0]
        items = tuple(self._listed(item) for item in ranked.items)
        if record is None:
            return ShopperState(user_id, partition, known=False, items=items)
        profile = decode_profile(record, self.shape, user_id)
        counts = sorted(profile.n_by_kind.items(), key=lambda pair: (-pair[1], pair[0]))
        return ShopperState(
            user_id=user_id,
            partition=partition,
            known=True,
            counts=tuple((self._kinds.name(code), n) for code, n in counts if n),
            history=self._history(profile),
            first_ms=profile.first_ms,
            last_ms=profile.last_ms,
            last_offset=profile.last_offset,
            has_vector=bool(profile.history),
            items=items,
        )

    def _history(self, profile: Profile) -> tuple[PastEvent, ...]:
        view = self._worker.view
        assert view is not None
        with view.reading():
            rows = view.rows_of_hashes([past.item_hash for past in profile.history]).tolist()
            # A view from a snapshot can be seconds behind the record.
            item_ids = [
                view.ids[row] if row >= 0 else f"#{past.item_hash:016x}"
                for past, row in zip(profile.history, rows, strict=True)
            ]
        return tuple(
            PastEvent(item_id, self._title(item_id), self._kinds.name(past.kind), past.time_ms)
            for past, item_id in zip(profile.history, item_ids, strict=True)
        )

    def _listed(self, ranked: RankedItem) -> ListedItem:
        return ListedItem(
            rank=ranked.rank,
            item_id=ranked.item_id,
            title=self._title(ranked.item_id),
            subtitle=self._subtitle(ranked.item_id),
            score=ranked.score,
            reasons=tuple(
                ReasonLine(self._title(reason.item_id), reason.kind, reason.share)
                for reason in ranked.reasons
            ),
        )

    def _title(self, item_id: str) -> str:
        catalogue = self._worker.catalogue
        return item_id if catalogue is None else catalogue.title(item_id)

    def _subtitle(self, item_id: str) -> str:
        """What else tells items apart: id, brand, price."""
        catalogue = self._worker.catalogue
        item = None if catalogue is None else catalogue.get(item_id)
        if item is None:
            return item_id
        parts = [item_id if item.title else "", item.brand or ""]
        if item.price is not None:
            parts.append(f"{item.price:,.2f}")
        return " · ".join(filter(None, parts))

    def _current_titles(self) -> Mapping[str, str]:
        """A copy of the titles, made anew only when the catalogue has changed."""
        catalogue = self._worker.catalogue
        if catalogue is not None and catalogue.version != self._titles_version:
            self._titles_version = catalogue.version
            self._titles = catalogue.titles()
        return self._titles


def _matches(
    text: str, titles: Mapping[str, str], ids: Sequence[str], n: int
) -> list[tuple[str, str]]:
    """The exact id first, then titles that begin with the text, then any that contain it."""
    exact, begins, contains = [], [], []
    for item_id, title in titles.items():
        lower = title.casefold()
        if item_id.casefold() == text:
            exact.append((item_id, title))
        elif lower.startswith(text):
            begins.append((item_id, title))
        elif text in lower or text in item_id.casefold():
            contains.append((item_id, title))
        if len(begins) >= n:
            break
    found = dict(exact + begins + contains)
    for item_id in list(ids):  # items that events name and no catalogue entry describes
        if len(found) >= n:
            break
        if text in item_id.casefold():
            found.setdefault(item_id, item_id)
    return list(found.items())[:n]
