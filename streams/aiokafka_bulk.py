"""Fetched messages by the record batch, for readers of millions: aiokafka 0.14 does it one by one.

aiokafka makes a frozen dataclass of eleven fields of each message, in a generator in Python: two
thirds of what fetching costs. A consumer made with `value_deserializer=in_bulk` gets aiokafka's own
records instead, all of a record batch in one step; every other consumer of the process, Faust's
too, gets what it always got. Fetching, checksums and decompression stay aiokafka's. What stays
true: the same messages at the same positions, aborted and control batches left out, however the
answers are cut; a test holds it to aiokafka's way. aiokafka is pinned below 0.15.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, FetchResult
from aiokafka.errors import CorruptRecordException

_TAUGHT = "_foldstream_taught"
_BULK = "_foldstream_bulk"


def in_bulk(value: bytes | None) -> bytes | None:
    """The value as it is: names the consumers that read in bulk."""
    return value


def teach() -> None:
    """Let aiokafka answer `getmany` of those consumers in bulk; harmless twice."""
    if not hasattr(FetchResult, _TAUGHT):
        setattr(FetchResult, _TAUGHT, True)
        FetchResult.getall = _getting(FetchResult.getall)


def _getting(getall: Any) -> Any:
    def taught(self: Any, max_records: int | None = None) -> list[Any]:
        records = self._partition_records
        if records is None or records._value_deserializer is not in_bulk:
            found: list[Any] = getall(self, max_records)
            return found
        if not self.check_assignment(self._topic_partition):
            return []
        bulk: _Bulk | None = getattr(self, _BULK, None)
        if bulk is None:
            # aiokafka's own generator, which nobody began, names the records that name it: a cycle,
            # and with it the whole answer would stay until the garbage collector comes.
            records._records_iterator = None
            bulk = _Bulk(records)
            setattr(self, _BULK, bulk)
        taken, ended = bulk.take(max_records)
        self._update_position()
        if ended:
            self._partition_records = None
            setattr(self, _BULK, None)
        return taken

    return taught


class _Bulk:
    """Takes the messages of one answer's partition; moves `next_fetch_offset` of its records."""

    def __init__(self, records: fetcher.PartitionRecords) -> None:
        self._records = records
        self._batches = _batches(records)
        self._rest: list[Any] = []  # of a record batch that was cut

    def take(self, most: int | None) -> tuple[list[Any], bool]:
        """The next messages, and whether they were the last. Raises CorruptRecordException."""
        taken, self._rest = self._rest, []
        while most is None or len(taken) < most:
            batch = next(self._batches, None)
            if batch is None:
                return taken, True
            taken += batch
        self._rest = taken[most:]
        del taken[most:]
        self._records.next_fetch_offset = taken[-1].offset + 1
        return taken, False


def _batches(records: Any) -> Iterator[list[Any]]:
    """The messages of each record batch: `PartitionRecords._unpack_records`, but not singly."""
    answer = records._records
    while answer.has_next():
        batch = answer.next_batch()
        if records._check_crcs and not batch.validate_crc():
            raise CorruptRecordException(f"Invalid CRC - {records._tp}")
        if records._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            records._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and records._contains_abort_marker(batch):
                records._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in records._aborted_producers:
                records.next_fetch_offset = batch.next_offset
                continue
        if not batch.is_control_batch:
            messages = list(batch)
            if messages and messages[0].offset < records.next_fetch_offset:
                first = records.next_fetch_offset
                messages = [message for message in messages if message.offset >= first]
            if messages:
                yield messages
        records.next_fetch_offset = batch.next_offset
