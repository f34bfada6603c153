"""Batches: what was read from one partition, [start, end), before and after decoding.

``start`` is where the previous batch of the partition ended; ``end`` is the consumer's position
read in the same step as the records. Offsets have gaps (transaction markers, compaction), so an
``end`` is never "last + 1", and a batch without a single message may still move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from streams.events import Event

NOT_BAD = frozenset({"unknown_type", "not_supported_yet"})
"""Codes of refusals that are no fault of the sender: another version's event, or one declared
and not built yet. They are set aside like the rest, and never stop a partition."""


class BatchMessage(Protocol):
    """Raw bytes from Kafka, of a partition that the batch names.

    timestamp: ms since 1970, the append time under LogAppendTime.
    """

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class Message(BatchMessage, Protocol):
    """The same with its place: the part of aiokafka's ``ConsumerRecord`` that we lean on."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...


class RefusedMessage(NamedTuple):
    """What a dead letter is made of."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class Reject(NamedTuple):
    """A message that is not folded. code: see `streams.codec`; detail: one sentence."""

    record: RefusedMessage | Message
    code: str
    detail: str

    @classmethod
    def of(cls, partition: int, record: BatchMessage, code: str, detail: str) -> Reject:
        """The refusal of a message of a batch of this partition."""
        refused = RefusedMessage(
            partition, record.offset, record.timestamp, record.key, record.value, record.headers
        )
        return cls(refused, code, detail)


@dataclass(slots=True)
class RawBatch:
    """Messages of one partition in log order, undecoded; may be empty with ``end > start``."""

    partition: int
    start: int
    end: int
    records: Sequence[BatchMessage]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(slots=True)
class EventBatch:
    """The decoded messages of one `RawBatch`; the five lists but ``rejects`` are parallel.

    offsets: rising, within [start, end). appended_ms: the log's append time, ms since 1970.
    repeat_hashes: uint64 values for the ring of seen events, 0 for an event without id.
    rejects: what could not be folded, with its reason; goes to the dead letters.
    """

    partition: int
    start: int
    end: int
    events: list[Event] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    appended_ms: list[int] = field(default_factory=list)
    repeat_hashes: list[int] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.events)

    @property
    def n_bad(self) -> int:
        """Rejects that count as bad (`NOT_BAD` do not)."""
        return sum(reject.code not in NOT_BAD for reject in self.rejects)
