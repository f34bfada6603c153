"""The small work that references and foldstream do alike, and how a reference tells its progress.

One JSON event is decoded by msgspec and folded by the product's own compiled kernel (k = 64, one
positive and four uniform negatives); the record that holds the user vector goes back to the store.
What a reference leaves out, and foldstream does: fencing, repeats, dead letters, announcements.
"""

from __future__ import annotations

import json
import mmap
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable

SMALL = FoldConfig(n_recent=0, n_uniform=4, blend_every=0)


class Order(msgspec.Struct, frozen=True):
    """What the bench asks of one program; JSON in argv[1].

    kafka, redis: addresses. topic: filled before, read from its start. prefix: of keys and groups,
    unlike any other run's. n_events: how many to do. progress, result: files to write.
    """

    kafka: str
    redis: str
    topic: str
    prefix: str
    n_events: int
    progress: str
    result: str
    folder: str


def read_order() -> Order:
    """The order in argv[1]."""
    return msgspec.json.decode(sys.argv[1].encode(), type=Order)


class Progress:
    """A counter in a shared file: the bench reads it, and counting costs no round trip."""

    def __init__(self, path: str) -> None:
        Path(path).write_bytes(bytes(8))
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)
        self.count = 0

    def add(self, n: int) -> None:
        """n more events are visible in the store."""
        self.count += n
        struct.pack_into("<q", self._map, 0, self.count)


class Event(msgspec.Struct):
    """The fields that the small work needs; msgspec skips the others."""

    user_id: str
    item_id: str
    ts: int


decode = msgspec.json.Decoder(Event).decode


class SmallWork:
    """Folds events into records, as `profiles` does it; items live in this process."""

    def __init__(self, config: FoldConfig = SMALL) -> None:
        self.shape = ModelShape()
        self.config = config
        self.items = ItemTable(self.shape, config)
        self._profiles = ProfileTable(self.shape)
        self._n_folded = 0
        self._watermark_ms = 0

    def warm_up(self) -> None:
        """Have the kernels compiled before the clock runs."""
        event = Event("u", "i", 1)
        self.fold([event, event], ["u"], self.fold([event], ["u"], [None]))
        self.items = ItemTable(self.shape, self.config)

    def fold(
        self, events: Sequence[Event], user_ids: Sequence[str], records: Sequence[bytes | None]
    ) -> list[bytes]:
        """The new records of `user_ids` (distinct, the users of `events`) after the events."""
        profiles, n = self._profiles, len(events)
        profiles.clear()
        profiles.load(user_ids, records)
        batch = self.columns(events, profiles)
        self._n_folded += n
        report = fold_batch(profiles, self.items, batch, self.config, self._watermark_ms)
        self._watermark_ms = report.watermark_ms
        return profiles.pack(profiles.rows(user_ids))

    def columns(self, events: Sequence[Event], profiles: ProfileTable) -> Interactions:
        """The events as columns; every one a positive of weight 1."""
        n = len(events)
        item_row = self.items.intern([event.item_id for event in events])
        return Interactions(
            partition=0,
            user_row=profiles.rows([event.user_id for event in events]),
            item_row=item_row,
            item_hash=self.items.hashes[item_row],
            kind=np.zeros(n, np.uint8),
            weight=np.ones(n, np.float32),
            positive=np.ones(n, np.uint8),
            time_ms=np.array([event.ts for event in events], np.int64),
            offset=np.arange(self._n_folded, self._n_folded + n),
            token_start=np.zeros(n + 1, np.int32),
            tokens=np.zeros(0, np.uint64),
        )


def write_result(order: Order, n: int, seconds: float, cpu_s: float) -> None:
    """Tell the bench: n things in so many seconds of the clock and of the processor, for programs
    that time themselves."""
    Path(order.result).write_text(json.dumps({"n": n, "seconds": seconds, "cpu_s": cpu_s}))
