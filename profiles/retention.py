"""When a profile is over: the rule of the fold, read from the first bytes of a record.

Owns the question only. The fold starts such a profile afresh at its user's next event; the sweeper
removes it from the store meanwhile, so whether it is still there says nothing: comparisons of two
generations leave it out on both sides.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from profiles.shape import RECORD_VERSION

HEAD_BYTES = 20
"""Of a record, up to the end of the last event's time (`profiles.record`)."""

_LAST_MS = struct.Struct("<q")
_LAST_MS_AT = 12


def last_ms_of(record: bytes) -> int | None:
    """The largest event time of a record or its head, ms since 1970.

    None for what is too short and for a format that this version does not read.
    """
    if len(record) < HEAD_BYTES or not 1 <= record[0] <= RECORD_VERSION:
        return None
    (last_ms,) = _LAST_MS.unpack_from(record, _LAST_MS_AT)
    return int(last_ms)


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
