"""Fetched messages waiting to be taken, one bounded buffer for each partition.

What stays true: a buffer holds exactly the messages between its ``start`` and its ``end``, and
the next fetch of the partition goes on at ``end``. Knows no Kafka client; `reader` fills it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum

from streams.batch import BatchMessage, RawBatch

RECORD_OVERHEAD_BYTES = 400
"""What a message costs in memory beside its own bytes (object, key, numbers): bounds a partition
of very many very small messages."""


class State(Enum):
    """Where a partition stands."""

    WAITING = "assigned, the place to read from is not known yet"
    READING = "messages are fetched"
    FULL = "paused until half of the buffer is taken"
    GAP = "the log does not hold the next offset"
    CLOSED = "revoked, or the reader has stopped"


class PartitionBuffer:
    """The buffer of one partition; every method is synchronous, so no reader sees half a step.

    max_events, max_bytes: from either on the buffer is full. One fetch may overshoot them.
    """

    __slots__ = (
        "changed",
        "end",
        "max_bytes",
        "max_events",
        "n_bytes",
        "partition",
        "records",
        "start",
        "state",
    )

    def __init__(self, partition: int, max_events: int, max_bytes: int) -> None:
        self.partition = partition
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.start = 0
        self.end = 0
        self.records: list[BatchMessage] = []
        self.n_bytes = 0
        self.state = State.WAITING
        self.changed = asyncio.Event()

    def seek(self, next_offset: int) -> None:
        """Forget what was fetched; go on at ``next_offset``."""
        self.start = self.end = next_offset
        self.records = []
        self.n_bytes = 0
        self.state = State.READING

    def append(self, records: Sequence[BatchMessage], end: int) -> bool:
        """Messages up to the position ``end``, read in the same step; never refuses.

        Returns whether the buffer is full now.
        """
        if end == self.end and not records:
            return False
        self.records.extend(records)
        self.n_bytes += _n_bytes(records)
        self.end = end
        self.changed.set()
        full = len(self.records) >= self.max_events or self.n_bytes >= self.max_bytes
        if full:
            self.state = State.FULL
        return full

    def take(self, max_events: int) -> RawBatch | None:
        """The oldest messages, or an empty batch that moves the end, or None: nothing new.

        A batch that leaves messages behind ends at the offset of the first one left: the
        position between two messages, whatever lies in the gap.
        """
        if self.end == self.start:
            return None
        if len(self.records) <= max_events:
            taken, self.records = self.records, []
            end = self.end
            self.n_bytes = 0
        else:
            taken = self.records[:max_events]
            del self.records[:max_events]
            end = self.records[0].offset
            self.n_bytes -= _n_bytes(taken)
        batch = RawBatch(self.partition, self.start, end, taken)
        self.start = end
        return batch

    @property
    def is_half_empty(self) -> bool:
        """A full buffer is refilled from here on: not at every message that is taken."""
        return len(self.records) * 2 <= self.max_events and self.n_bytes * 2 <= self.max_bytes

    def mark(self, state: State) -> None:
        """Enter a state and wake whoever waits for the buffer."""
        self.state = state
        self.changed.set()


def _n_bytes(records: Sequence[BatchMessage]) -> int:
    total = RECORD_OVERHEAD_BYTES * len(records)
    for record in records:
        if record.value is not None:
            total += len(record.value)
        if record.key is not None:
            total += len(record.key)
        if record.headers:
            total += sum(len(name) + len(content or b"") for name, content in record.headers)
    return total
