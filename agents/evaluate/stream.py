"""A stream of events as columns, made from a data folder or a file; what the protocol asks of it.

Rows are numbered by first mention in a positive event, so "all items seen before event b" is a
prefix: rows 0 to n_seen[b] - 1. Items that only the catalogue knows, or that nobody has touched
within the limit, come after them. Nothing here says what a model may look at: a model that ranks
event b may use everything about events before b, and of b its user, time, session and query.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.errors import UsageError
from agents.translate import is_bad_review
from profiles.interactions import Kinds
from streams.errors import MappingError
from streams.events import Event, Item, ItemEvent, Search
from streams.mappings.reader import EventFile, own_kinds, scan_file

NOTHING = -1
"""A row that is not there: no item (a search), no session, no current item."""

LIMITS = {"online-retail": 200_000}
"""Positive events of a data set whose protocol takes a part of it (by mapping)."""

DATA_FILES = ("*.csv", "*.csv.gz", "*.jsonl", "*.jsonl.gz")

_WORD = re.compile(r"\w+")


@dataclass(slots=True)
class Stream:
    """B events in order. The arrays are of length B unless said otherwise.

    user, item: rows, item -1 for a search. positive: it is ranked and learned. session: number of
    its session, or -1. weight: of its kind.
    current: the user's newest positive item before the event, or -1. n_earlier: the user's earlier
    positives. n_seen: different items in earlier positives. item_n: earlier positives of the item.
    new: the item is in none of the user's earlier positives. n_had: how many of `had(user)` come
    before the event.
    queries: for each event, the words known with it: its own or the user's last search's.
    items: catalogue entries by item id.
    """

    name: str
    events: list[Event]
    user_ids: list[str]
    item_ids: list[str]
    items: dict[str, Item]
    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time_ms: NDArray[np.int64]
    weight: NDArray[np.float32]
    positive: NDArray[np.bool_]
    session: NDArray[np.int32]
    queries: list[tuple[str, ...]]
    current: NDArray[np.int32] = field(init=False)
    n_earlier: NDArray[np.int32] = field(init=False)
    n_seen: NDArray[np.int32] = field(init=False)
    item_n: NDArray[np.int32] = field(init=False)
    new: NDArray[np.bool_] = field(init=False)
    n_had: NDArray[np.int32] = field(init=False)
    _had: list[NDArray[np.int32]] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.events)
        self.current = np.full(n, NOTHING, np.int32)
        self.n_earlier = np.zeros(n, np.int32)
        self.n_seen = np.zeros(n, np.int32)
        self.item_n = np.zeros(n, np.int32)
        self.new = np.zeros(n, np.bool_)
        self.n_had = np.zeros(n, np.int32)
        had: list[dict[int, None]] = [{} for _ in self.user_ids]
        current = [NOTHING] * len(self.user_ids)
        count = [0] * len(self.user_ids)
        item_count = [0] * len(self.item_ids)
        n_seen = 0
        users, items, positive = self.user.tolist(), self.item.tolist(), self.positive.tolist()
        for b in range(n):
            u, i = users[b], items[b]
            self.current[b] = current[u]
            self.n_earlier[b] = count[u]
            self.n_seen[b] = n_seen
            self.n_had[b] = len(had[u])
            if i < 0:
                continue
            self.item_n[b] = item_count[i]
            self.new[b] = i not in had[u]
            if positive[b]:
                n_seen += item_count[i] == 0
                current[u] = i
                count[u] += 1
                item_count[i] += 1
                had[u][i] = None
        self._had = [np.fromiter(rows, np.int32, len(rows)) for rows in had]

    def __len__(self) -> int:
        return len(self.events)

    @property
    def n_items(self) -> int:
        """Items of stream and catalogue."""
        return len(self.item_ids)

    def had(self, b: int) -> NDArray[np.int32]:
        """int32: the different items that the user had before event b, in order."""
        rows: NDArray[np.int32] = self._had[self.user[b]][: self.n_had[b]]
        return rows

    def first(self, n_positive: int) -> Stream:
        """The stream up to its `n_positive`-th positive event."""
        ends = np.flatnonzero(self.positive)
        return self if n_positive >= len(ends) else self.cut(int(ends[n_positive - 1]) + 1)

    def cut(self, end: int) -> Stream:
        """The first `end` events; users and items keep their rows."""
        return Stream(
            self.name, self.events[:end], self.user_ids, self.item_ids, self.items,
            self.user[:end], self.item[:end], self.time_ms[:end], self.weight[:end],
            self.positive[:end], self.session[:end], self.queries[:end],
        )  # fmt: skip

    def paced(self, events_per_s: float) -> Stream:
        """The same events in their order, at even steps of event time from the first one's on."""
        first = self.events[0].ts
        times = [first + int(b * 1_000 / events_per_s) for b in range(len(self))]
        events = [
            msgspec.structs.replace(event, ts=ts)
            for event, ts in zip(self.events, times, strict=True)
        ]
        return Stream(
            self.name, events, self.user_ids, self.item_ids, self.items, self.user, self.item,
            np.array(times, np.int64), self.weight, self.positive, self.session, self.queries,
        )  # fmt: skip


def stream_of(
    name: str, events: Sequence[Event], items: Iterable[Item] = (), kinds: Kinds | None = None
) -> Stream:
    """Columns of events in their order. Raises UsageError when nothing in them can be ranked."""
    kinds = kinds or Kinds()
    catalogue = {item.item_id: item for item in items}
    code = {kind.name: kind for kind in kinds.by_name.values()}
    of_event = [
        kinds["bad_review"] if is_bad_review(e) else code[str(type(e).__struct_config__.tag)]
        for e in events
    ]
    positive = np.array([kind.positive for kind in of_event], np.bool_)
    if not positive.any():
        raise UsageError(f"{name}: no clicks, carts or purchases to rank")
    user_row: dict[str, int] = {}
    item_row: dict[str, int] = {}
    session_row: dict[str, int] = {}
    for number in np.flatnonzero(positive).tolist():
        item_row.setdefault(events[number].item_id, len(item_row))  # type: ignore[attr-defined]
    for event in events:
        if isinstance(event, ItemEvent):
            item_row.setdefault(event.item_id, len(item_row))
    for item_id in catalogue:
        item_row.setdefault(item_id, len(item_row))
    user, item, session = [], [], []
    queries: list[tuple[str, ...]] = []
    pending: dict[str, tuple[str, ...]] = {}
    for event, kind in zip(events, of_event, strict=True):
        user.append(user_row.setdefault(event.user_id, len(user_row)))
        named: str | None = getattr(event, "item_id", None)
        item.append(NOTHING if named is None else item_row[named])
        session_id: str | None = getattr(event, "session_id", None)
        session.append(
            NOTHING if session_id is None else session_row.setdefault(session_id, len(session_row))
        )
        query = words(getattr(event, "query", None) or "")
        if isinstance(event, Search):
            pending[event.user_id] = query
        queries.append(query or pending.get(event.user_id, ()))
        if kind.positive:
            pending.pop(event.user_id, None)
    return Stream(
        name=name,
        events=list(events),
        user_ids=list(user_row),
        item_ids=list(item_row),
        items=catalogue,
        user=np.array(user, np.int32),
        item=np.array(item, np.int32),
        time_ms=np.array([event.ts for event in events], np.int64),
        weight=np.array([kind.weight for kind in of_event], np.float32),
        positive=positive,
        session=np.array(session, np.int32),
        queries=queries,
    )


def words(text: str) -> tuple[str, ...]:
    """The words of a text as queries are compared.

    >>> words("Gears of WAR 3")
    ('gears', 'of', 'war', '3')
    """
    return tuple(_WORD.findall(text.casefold()))


def read_stream(
    data: Path,
    mapping: str | None = None,
    limit: int | None = None,
    kinds: Kinds | None = None,
    on_line: Callable[[int, int], None] = lambda done, n: None,
) -> Stream:
    """A folder of data files, or one file of events, as `ingest` reads it.

    limit: positive events to take; None: as the data set's protocol says, 0: all.
    on_line: told lines read, and of how many. Of a folder, every file that a mapping fits is read:
    one that gives events is the stream, one that gives items alone its catalogue.
    Raises MappingError (no such file, or no mapping fits) and UsageError (two streams).
    """
    kinds = kinds or Kinds()
    extra = own_kinds([name for name in kinds.by_name if kinds[name].code >= 16])
    events: list[Event] = []
    items: list[Item] = []
    found: list[str] = []
    for path in _files(data):
        scan = scan_file(path)
        try:
            file = EventFile(path, scan.sha256, mapping, extra)
        except MappingError:
            if data.is_dir():
                continue
            raise
        most = LIMITS.get(file.mapping_name) if limit is None else limit
        of_file = _read(file, kinds, most or None, scan.n_lines, on_line)
        items += of_file[1]
        if of_file[0]:
            if events:
                raise UsageError(f"{data}: {found[0]} and {path.name} both hold events; name one")
            events = of_file[0]
            found.append(path.name)
    if not events:
        raise MappingError(f"{data}: no file of events that a ready mapping fits; see `ingest`")
    return stream_of(data.name, events, items, kinds)


def _files(data: Path) -> list[Path]:
    if not data.is_dir():
        return [data]
    return sorted(path for pattern in DATA_FILES for path in data.glob(pattern))


def _read(
    file: EventFile,
    kinds: Kinds,
    most: int | None,
    n_lines: int,
    on_line: Callable[[int, int], None],
) -> tuple[list[Event], list[Item]]:
    """Events and catalogue entries up to the `most`-th positive event."""
    events: list[Event] = []
    items: list[Item] = []
    n_positive = 0
    for line, message in file.messages():
        if line % 1_000 == 0:
            on_line(line, n_lines)
        if isinstance(message, Item):
            items.append(message)
            continue
        events.append(message)
        tag = "bad_review" if is_bad_review(message) else str(type(message).__struct_config__.tag)
        n_positive += kinds[tag].positive
        if n_positive == most:
            break
    return events, items
