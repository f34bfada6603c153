"""Is this the log that a checkpoint was made from, and does it still hold what follows?

`LogCheck` compares a partition's checkpoint with the log that is there. Its answers: go on; another
log (`LogMismatch`: never goes on); or the same log with a gap between checkpoint and log, which
only a person may accept. What stays true: nobody folds on top of profiles what another log holds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
from xxhash import xxh3_64_intdigest

from profiles.seen import SLOT_BYTES
from profiles.store import Acquired, LogPosition
from streams.batch import RawBatch
from streams.codec import EventCodec
from streams.errors import LogMismatch, OffsetGap
from streams.log_identity import LogIdentity
from streams.manual_reader import ManualReader

LOOKED_AT = 64
"""Messages before a lost end that are compared with the ring of seen ids."""


ASKED_AGAIN = 4
"""A broker that has just become the leader may not know its own end for a moment."""


@dataclass(frozen=True, slots=True)
class Found:
    """position: of the log, for the fold. gap: what is between checkpoint and log, if anything."""

    position: LogPosition
    gap: OffsetGap | None = None


def lost_beginning(topic: str, partition: int, next_offset: int, begin: int) -> OffsetGap:
    """The log starts behind the checkpoint."""
    return OffsetGap(
        f"{topic} partition {partition}: offsets [{next_offset}, {begin}) are gone: the log starts "
        f"at {begin}, the profiles were folded up to {next_offset}, {begin - next_offset} events "
        "are gone. Restore a copy of the topic; or go on without them: foldstream worker "
        "--accept-gap (counted in the checkpoint and in foldstream_gap_offsets_total); or fold "
        "what is left into a new generation: foldstream rebuild --into NAME --accept-gap",
        (next_offset, begin),
    )


def lost_end(topic: str, partition: int, next_offset: int, end: int) -> OffsetGap:
    """The log ends before the checkpoint."""
    return OffsetGap(
        f"{topic} partition {partition}: offsets [{end}, {next_offset}) are not in the log, which "
        f"ends at {end}; the profiles were folded up to {next_offset}. A broker lost the log's "
        "end, or the store is newer than the log. Restore the topic; or fold what it holds into a "
        "new generation: foldstream rebuild --into NAME, then foldstream promote NAME; or keep "
        f"what the profiles know and go on at {end}: foldstream worker --accept-gap",
        (end, next_offset),
    )


def grown(topic: str, was: int, now: int) -> LogMismatch:
    """The topic has another partition count than the one that users were folded by."""
    return LogMismatch(
        f"{topic} has {now} partitions, the profiles were folded from {was}. A changed count moves "
        "users to other partitions, so nothing is folded; no event is lost. Kafka can't take "
        f"partitions away: copy the events to topics of {now} partitions under another prefix, for "
        "a store prefix of its own (docs/operations.md, 'Another partition count')"
    )


class LogCheck:
    """Looks at the log through a reader of its own; one for all partitions."""

    def __init__(self, reader: ManualReader, codec: EventCodec, n_seen_slots: int) -> None:
        self._reader = reader
        self._codec = codec
        self._n_seen_slots = n_seen_slots

    async def check(self, partition: int, acquired: Acquired, log: LogIdentity) -> Found:
        """Compare one partition. Raises LogMismatch, BrokerAway."""
        here = LogPosition(log.cluster_id, log.topic, log.n_partitions)
        known = acquired.checkpoint.log if acquired.checkpoint else None
        if known is not None:
            _check_same(partition, known, here)
        next_offset = acquired.next_offset
        begin = (await self._reader.begin_offsets([partition]))[partition]
        if begin > next_offset:
            return Found(known or here, lost_beginning(log.topic, partition, next_offset, begin))
        for _ in range(ASKED_AGAIN):
            end = (await self._reader.end_offsets([partition]))[partition]
            if end >= next_offset:
                break
            await asyncio.sleep(1.0)
        else:
            if end > begin:
                await self._check_end(partition, acquired, begin, end)
            return Found(known or here, lost_end(log.topic, partition, next_offset, end))
        if known is not None and known.last_offset is not None and known.last_offset >= begin:
            await self._check_last(partition, known, known.last_offset)
        return Found(known or here)

    async def _check_last(self, partition: int, known: LogPosition, last_offset: int) -> None:
        record = await self._reader.read_one(partition, last_offset)
        if record is None or (record.timestamp, xxh3_64_intdigest(record.key or b"")) != (
            known.last_timestamp_ms,
            known.last_key_hash,
        ):
            raise _made_anew(known.topic, partition, last_offset, "the event that was folded last")

    async def _check_end(self, partition: int, acquired: Acquired, begin: int, end: int) -> None:
        """The last event folded is not there to be compared: is what comes before it ours?

        Else the start of a topic made anew would be taken for what we had folded, and passed over.
        """
        ring = np.frombuffer(acquired.seen, np.uint64)
        n_same = 0
        for offset in range(max(begin, end - LOOKED_AT), end):
            record = await self._reader.read_one(partition, offset)
            if record is None:
                continue
            batch = self._codec.decode_batch(RawBatch(partition, offset, offset + 1, [record]))
            slot = offset % self._n_seen_slots
            seen = int(ring[slot]) if slot < len(acquired.seen) // SLOT_BYTES else 0
            for repeat_hash in batch.repeat_hashes:
                if repeat_hash and int(repeat_hash) != seen:
                    topic = self._reader.topic
                    raise _made_anew(topic, partition, offset, "the event that was folded there")
                n_same += bool(repeat_hash)
        if not n_same:
            raise _made_anew(self._reader.topic, partition, end - 1, "known to have been folded")


def _check_same(partition: int, known: LogPosition, here: LogPosition) -> None:
    if (known.cluster_id, known.topic) == (here.cluster_id, here.topic) and (
        known.n_partitions != here.n_partitions
    ):
        raise grown(here.topic, known.n_partitions, here.n_partitions)
    for name in ("cluster_id", "topic"):
        ours, theirs = getattr(here, name), getattr(known, name)
        if ours != theirs:
            raise LogMismatch(
                f"partition {partition}: the profiles were folded from {name} {theirs!r}, this is "
                f"{ours!r}. Point --kafka at the old broker; or fold this log into a new "
                "generation: foldstream rebuild --into NAME, then foldstream promote NAME"
            )


def _made_anew(topic: str, partition: int, offset: int, what: str) -> LogMismatch:
    return LogMismatch(
        f"{topic} partition {partition}: offset {offset} is not {what}; the topic was made anew. "
        "Restore it; or fold what it holds into a new generation: foldstream rebuild --into NAME, "
        "then foldstream promote NAME"
    )


def all_of(gaps: list[OffsetGap]) -> OffsetGap:
    """Several partitions' gaps as one error, a line each."""
    return gaps[0] if len(gaps) == 1 else OffsetGap("\n".join(str(gap) for gap in gaps))
