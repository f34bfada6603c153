"""When a profile is over: the rule of the fold, read from the first bytes of a record.

Owns the question only. The fold starts such a profile afresh at its user's next event; the sweeper
removes it from the store meanwhile, so whether it is still there says nothing: comparisons of two
generations leave it out on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

HEAD_BYTES = 24
"""Of a record, at most, up to the end of the last event's time (`record_v1`, `record_v2`)."""


def last_ms_of(record: bytes) -> int | None:
    """The largest event time of a record or its head, ms since 1970.

    None for what is too short and for a format that this version does not read.

    >>> last_ms_of(bytes([2, 0, 0, 64, 0xB9, 0x60])), last_ms_of(bytes([9]) * 24)
    (12345, None)
    """
    if record[:1] == b"\x01":
        return int.from_bytes(record[12:20], "little", signed=True) if len(record) >= 20 else None
    if record[:1] in (b"\x02", b"\x03"):
        at = _end_of_varint(record, 3)
        end = _end_of_varint(record, at)
        if not 3 < at < end <= at + 10:
            return None
        return sum((byte & 0x7F) << 7 * n for n, byte in enumerate(record[at:end]))
    return None


def _end_of_varint(record: bytes, at: int) -> int:
    """Where a number that begins at `at` ends; beyond the record for one that is cut."""
    while at < len(record) and record[at] & 0x80:
        at += 1
    return at + 1 if at < len(record) else 0


@dataclass(frozen=True, slots=True)
class Retention:
    """Retention as of one watermark of a partition. retention_ms: 0 keeps profiles for ever."""

    retention_ms: int
    watermark_ms: int

    def is_over(self, record: bytes) -> bool:
        """Whether the next event of this user, whenever it comes, would start the profile afresh.

        Watermarks only rise, so what is over stays so until its user comes back.
        """
        if self.retention_ms <= 0:
            return False
        last_ms = last_ms_of(record)
        return last_ms is not None and last_ms < self.watermark_ms - self.retention_ms
