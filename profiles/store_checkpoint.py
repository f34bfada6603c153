"""What the store says about a partition, and what it means for a batch.

Owns the fields of the checkpoint, the table that says what became of a commit, and the outbox's
bytes; no I/O. What stays true: every field can be read by people (``HGETALL``) and other languages.

The checkpoint is a hash: ``next_offset``, ``epoch``, ``watermark_ms`` (decimal), ``owner`` (32
hexadecimal digits), ``fingerprint``, ``log_cluster_id``, ``log_topic``, ``log_n_partitions``,
``log_last_offset``, ``log_last_timestamp_ms``, ``log_last_key_hash``; only where a person accepted
a gap in the log ``gaps`` (JSON, a list of ``[from, to]``) and ``gap_offsets`` (their sum); only
where a commit was applied in part ``torn`` (docs/decisions/0022-no-half-commit.md). The outbox is a
MessagePack array of byte strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from profiles.errors import Fenced, ProfilesError, RecordCorrupt, StoreMismatch, StoreWentBack

if TYPE_CHECKING:  # who only looks at the store does without compiled functions
    from profiles.packed import PackedRecords

Gap = tuple[int, int]
"""Offsets [from, to) that the log does not hold."""


@dataclass(frozen=True, slots=True)
class LogPosition:
    """Which log was folded, and its last folded record, to recognise another log at the seek.

    last_*: None before the first record. last_key_hash: 64 bits, made by the caller.
    """

    cluster_id: str
    topic: str
    n_partitions: int
    last_offset: int | None = None
    last_timestamp_ms: int | None = None
    last_key_hash: int | None = None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the store says about one partition.

    next_offset: 0 before the first commit. epoch: counts the acquires. owner: 16 bytes of the
    last one. watermark_ms: largest event time folded, 0 before the first. fingerprint: of the
    settings that shape records. log: None when nobody has told yet. gaps: offsets [from, to) that
    the log lost before (or, at its end, after) they were folded, as a person accepted them.
    """

    next_offset: int
    epoch: int
    owner: bytes
    watermark_ms: int
    fingerprint: str
    log: LogPosition | None
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to commit to one partition, until somebody else acquires it."""

    partition: int
    epoch: int
    owner: bytes


@dataclass(frozen=True, slots=True)
class Acquired:
    """What an acquire gives.

    claim: for the commits. checkpoint: as it stands now; None when no one ever committed nor
    named a log here (next_offset counts as 0). seen: the ring's bytes, empty at first, maybe
    shorter than the ring. outbox: what must be announced again.
    """

    claim: Claim
    checkpoint: Checkpoint | None
    seen: bytes
    outbox: list[bytes]

    @property
    def next_offset(self) -> int:
        """Where to seek."""
        return 0 if self.checkpoint is None else self.checkpoint.next_offset


@dataclass(frozen=True, slots=True)
class CommitBatch:
    """All that the batch [start, end) changes.

    records: (user_id, bytes), each user once. seen: (byte position, bytes) for the ring.
    outbox: replaces the previous one. log: with the last record folded so far. gaps: all accepted
    ones, where this batch adds one; None leaves them as they stand.
    """

    start: int
    end: int
    records: Sequence[tuple[str, bytes]] | PackedRecords
    seen: Sequence[tuple[int, bytes]]
    outbox: Sequence[bytes]
    watermark_ms: int
    log: LogPosition
    gaps: Sequence[Gap] | None = None


class Outcome(Enum):
    """What became of a batch, by the checkpoint."""

    APPLIED = "applied"
    NOT_APPLIED = "not applied"
    WENT_BACK = "the store went back"
    FENCED = "fenced"


Row = tuple[int, bytes, int]
"""epoch, owner, next_offset as last read; 0, b"", 0 where the store has nothing."""


def decide(row: Row, claim: Claim, start: int, end: int) -> Outcome:
    """What became of [start, end), by the checkpoint (the table of the design, section 4).

    Mine means epoch and owner. A smaller epoch than mine can only be a store that lost my
    acquire. Raises StoreMismatch for a position that no commit of this claim can have written.

    >>> decide((3, b"me", 7), Claim(0, 3, b"me"), 5, 7)
    <Outcome.APPLIED: 'applied'>
    """
    epoch, owner, next_offset = row
    if epoch < claim.epoch:
        return Outcome.WENT_BACK
    if epoch > claim.epoch or owner != claim.owner:
        return Outcome.FENCED
    if next_offset == end:
        return Outcome.APPLIED
    if next_offset == start:
        return Outcome.NOT_APPLIED
    if next_offset < start:
        return Outcome.WENT_BACK
    raise StoreMismatch(
        f"partition {claim.partition}: the checkpoint stands at {next_offset}, which this worker "
        f"never wrote (committing {start} to {end}); two commits of one claim overlapped"
    )


def refusal(outcome: Outcome, row: Row, claim: Claim, start: int) -> ProfilesError:
    """The error for FENCED and WENT_BACK."""
    epoch, _, next_offset = row
    where = f"partition {claim.partition}: epoch {epoch}, next offset {next_offset} in the store"
    mine = f"epoch {claim.epoch}, next offset {start} here"
    if outcome is Outcome.FENCED:
        return Fenced(f"{where}, {mine}: another worker has acquired it")
    return StoreWentBack(f"{where}, {mine}: it lost commits; acquire again and replay")


def encode_outbox(messages: Sequence[bytes]) -> bytes:
    """A MessagePack array of byte strings."""
    return msgspec.msgpack.encode(list(messages))


def decode_outbox(value: bytes | None, claim: Claim) -> list[bytes]:
    """The messages of an outbox. Raises RecordCorrupt."""
    if value is None:
        return []
    try:
        return msgspec.msgpack.decode(value, type=list[bytes])
    except msgspec.MsgspecError as error:
        raise RecordCorrupt(f"outbox of partition {claim.partition}: {error}") from error


def log_fields(log: LogPosition) -> list[tuple[str, str | int]]:
    """The checkpoint's fields that tell a log; what is None is left as it stands."""
    fields: list[tuple[str, str | int]] = [
        ("log_cluster_id", log.cluster_id),
        ("log_topic", log.topic),
        ("log_n_partitions", log.n_partitions),
    ]
    if log.last_offset is not None:
        fields.append(("log_last_offset", log.last_offset))
    if log.last_timestamp_ms is not None:
        fields.append(("log_last_timestamp_ms", log.last_timestamp_ms))
    if log.last_key_hash is not None:
        fields.append(("log_last_key_hash", log.last_key_hash))
    return fields


def gap_fields(gaps: Sequence[Gap]) -> list[tuple[str, bytes | int]]:
    """The checkpoint's fields that tell accepted gaps."""
    return [
        ("gaps", msgspec.json.encode(list(gaps))),
        ("gap_offsets", sum(upto - first for first, upto in gaps)),
    ]


def parse_checkpoint(flat: list[bytes], key: bytes) -> Checkpoint | None:
    """HGETALL's answer as a checkpoint; None for no such key. Raises RecordCorrupt."""
    if not flat:
        return None
    fields = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    def number(name: str) -> int | None:
        return int(fields[name]) if name in fields else None

    try:
        log = None
        if "log_topic" in fields:
            log = LogPosition(
                cluster_id=fields["log_cluster_id"].decode(),
                topic=fields["log_topic"].decode(),
                n_partitions=int(fields["log_n_partitions"]),
                last_offset=number("log_last_offset"),
                last_timestamp_ms=number("log_last_timestamp_ms"),
                last_key_hash=number("log_last_key_hash"),
            )
        return Checkpoint(
            next_offset=number("next_offset") or 0,
            epoch=number("epoch") or 0,
            owner=bytes.fromhex(fields.get("owner", b"").decode()),
            watermark_ms=number("watermark_ms") or 0,
            fingerprint=fields.get("fingerprint", b"").decode(),
            log=log,
            gaps=tuple(msgspec.json.decode(fields.get("gaps", b"[]"), type=list[Gap])),
        )
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise RecordCorrupt(f"{key.decode()}: {error!r}; no version wrote this") from error


def with_last(log: LogPosition, offset: int, timestamp_ms: int, key_hash: int) -> LogPosition:
    """The same log, one record further."""
    return replace(log, last_offset=offset, last_timestamp_ms=timestamp_ms, last_key_hash=key_hash)
