"""A batch of messages as columns: plain events are read by one compiled pass, without objects.

`EventCodec` alone decides what an event is. The pass here knows a small part of what it takes: flat
JSON in ASCII without escapes, of an item's fields, each once, each plainly within its bounds, under
its user's key, without headers. Of such a message it gives what the codec would give; every other
one goes to the codec. The GIL is released meanwhile. A test holds the two together on hostile
bytes, and the hash on xxhash. docs/decisions/0062-events-as-columns.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, compress
from operator import attrgetter
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from streams.batch import BatchMessage, RawBatch, Reject
from streams.codec import EventCodec
from streams.event_pass import FIELDS, MOST_HASHED, SECRET, Bytes, read_all
from streams.events import Event, ItemEvent

NO_TYPE: Final = 255

FEW: Final = 8
"""Messages that the codec has read before the arrays of the pass are made."""


@dataclass(slots=True)
class EventColumns:
    """The events of one `RawBatch`; the columns are parallel, B long, in the order of the log.

    item_ids: "" for a search. tags: number of the type in `ColumnDecoder.types`. times_ms: event
    times, int64; offsets, appended_ms: int64; repeat_hashes: uint64, as in `EventBatch`.
    sessions: uint32, the lower half of the xxh3_64 of the session's id (1 for 0), 0 without one.
    events: by place, those that the codec read; only they have a query or a rating.
    rejects: what could not be folded. start, end: of the batch.
    """

    partition: int
    start: int
    end: int
    user_ids: list[str]
    item_ids: list[str]
    tags: NDArray[np.uint8]
    times_ms: NDArray[np.int64]
    offsets: NDArray[np.int64]
    appended_ms: NDArray[np.int64]
    repeat_hashes: NDArray[np.uint64]
    sessions: NDArray[np.uint32]
    events: dict[int, Event]
    rejects: list[Reject]

    def __len__(self) -> int:
        return len(self.user_ids)

    def only(self, keep: NDArray[np.bool_]) -> EventColumns:
        """The events where `keep` (B,) is true."""
        if keep.all():
            return self
        place = np.cumsum(keep) - 1
        kept = keep.tolist()
        return EventColumns(
            self.partition,
            self.start,
            self.end,
            list(compress(self.user_ids, kept)),
            list(compress(self.item_ids, kept)),
            self.tags[keep],
            self.times_ms[keep],
            self.offsets[keep],
            self.appended_ms[keep],
            self.repeat_hashes[keep],
            self.sessions[keep],
            {int(place[at]): event for at, event in self.events.items() if kept[at]},
            self.rejects,
        )


class ColumnDecoder:
    """Decodes batches of the events topic into columns; see `EventCodec` for what is an event.

    types: the classes of events, by the number that `tags` holds. warm: set by `warmup`.
    """

    warm: ClassVar[bool] = False

    def __init__(self, codec: EventCodec) -> None:
        self.types: list[type[Event]] = list(codec.types)
        self._codec = codec
        self._tag_of = {struct: number for number, struct in enumerate(self.types)}
        names = [
            str(struct.__struct_config__.tag).encode() if issubclass(struct, ItemEvent) else b""
            for struct in self.types
        ]
        self._names, self._name_ends = _joined(names, b"")

    def decode(self, raw: RawBatch) -> EventColumns:
        """All messages of a batch, in order; what is no event becomes a `Reject`. Never raises."""
        records = raw.records
        n = len(records)
        offsets = np.fromiter([record.offset for record in records], np.int64, n)
        appended = np.fromiter([record.timestamp for record in records], np.int64, n)
        tags = np.full(n, NO_TYPE, np.uint8)
        times = np.zeros(n, np.int64)
        hashes = np.zeros(n, np.uint64)
        sessions = np.zeros(n, np.uint32)
        if n >= FEW and self.warm:
            users, items = self._read(records, tags, times, hashes, sessions)
            others = np.flatnonzero(tags == NO_TYPE).tolist()
        else:
            users, items = [""] * n, [""] * n
            others = list(range(n))
        columns = EventColumns(
            raw.partition, raw.start, raw.end, users, items, tags, times, offsets, appended,
            hashes, sessions, {}, [],
        )  # fmt: skip
        return self._by_codec(columns, records, others) if others else columns

    def _read(
        self,
        records: Sequence[BatchMessage],
        tags: NDArray[np.uint8],
        times: NDArray[np.int64],
        hashes: NDArray[np.uint64],
        sessions: NDArray[np.uint32],
    ) -> tuple[list[str], list[str]]:
        """Users and items of what the compiled pass reads, "" in the places of the others."""
        values = [record.value for record in records]
        keys = [record.key for record in records]
        if any(map(_headers, records)):
            values = [None if record.headers else record.value for record in records]
        if None in values:
            values = [value or b"" for value in values]
        if None in keys:
            keys = [key or b"" for key in keys]
        data, ends = _joined(values, b"\n")  # type: ignore[arg-type]
        key_data, key_ends = _joined(keys, b"\n")  # type: ignore[arg-type]
        users = np.empty(len(key_data) + 1, np.uint8)
        items = np.empty(len(data) + 1, np.uint8)
        n_user, n_item = read_all(
            data, ends, key_data, key_ends, self._codec.max_bytes, self._names, self._name_ends,
            _FIELDS, _FIELD_ENDS, SECRET, np.empty(MOST_HASHED, np.uint8),
            np.zeros((4, 2), np.int64),
            tags, times, hashes, sessions, users, items,
        )  # fmt: skip
        return _lines(users[:n_user]), _lines(items[:n_item])

    def _by_codec(
        self, columns: EventColumns, records: Sequence[BatchMessage], others: list[int]
    ) -> EventColumns:
        """The columns with what the codec says of the other messages, and without its rejects."""
        asked = [records[place] for place in others]
        batch = self._codec.decode_batch(
            RawBatch(columns.partition, columns.start, columns.end, asked)
        )
        read = zip(batch.offsets, batch.events, batch.repeat_hashes, strict=True)
        of_offset = {offset: (event, digest) for offset, event, digest in read}
        refused = []
        for place, record in zip(others, asked, strict=True):
            found = of_offset.get(record.offset)
            if found is None:
                refused.append(place)
                continue
            event, digest = found
            columns.user_ids[place] = event.user_id
            columns.tags[place] = self._tag_of[type(event)]
            columns.times_ms[place] = event.ts
            columns.repeat_hashes[place] = digest
            if isinstance(event, ItemEvent):
                columns.item_ids[place] = event.item_id
            columns.events[place] = event
        columns.rejects = batch.rejects
        if not refused:
            return columns
        keep = np.ones(len(records), np.bool_)
        keep[refused] = False
        return columns.only(keep)


def warmup() -> None:
    """Compile the pass, or load it from the cache of an earlier run; until then the codec reads."""
    decoder = ColumnDecoder(EventCodec())
    tags, times, hashes, sessions = (
        np.full(1, NO_TYPE, np.uint8), np.zeros(1, np.int64),
        np.zeros(1, np.uint64), np.zeros(1, np.uint32),
    )  # fmt: skip
    decoder._read([_Warm()], tags, times, hashes, sessions)
    ColumnDecoder.warm = True


class _Warm:
    offset, timestamp, headers = 0, 0, ()
    key = b"u"
    value = b'{"type":"click","user_id":"u","item_id":"i","ts":1,"event_id":"e","session_id":"s"}'


_headers = attrgetter("headers")


def _joined(parts: Sequence[bytes], separator: bytes) -> tuple[Bytes, NDArray[np.int64]]:
    """All parts, each with the separator behind it; int64 (B + 1,): part b begins at ends[b] and
    its separator ends at ends[b + 1]."""
    n = len(parts)
    data = np.frombuffer(bytearray(separator.join([*parts, b""])), np.uint8)
    ends = np.fromiter(accumulate(map(len, parts), initial=0), np.int64, n + 1)
    return data, ends + np.arange(n + 1) * len(separator)


_FIELDS, _FIELD_ENDS = _joined([field.encode() for field in FIELDS], b"")


def _lines(text: Bytes) -> list[str]:
    return text[:-1].tobytes().decode("ascii").split("\n")
