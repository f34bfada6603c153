"""Profile <-> bytes, one at a time: for people, tests and digests; batches are `ProfileTable`'s.

Owns the refusals and their words. The layouts, byte by byte: `record_v1` (format 1), `record_v2`
(2 and 3) and `record_own` (what 3 adds); the first byte of a record says which. What stays true:
all formats are read, also mixed; the facts are the same bit for bit in each that has room, and
`facts_of` gives them in one canonical form, so digests and `rebuild --check` don't see the format.
The model part is measured.
"""

from __future__ import annotations

import numpy as np

from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.profile import Profile
from profiles.record_batch import canonical_facts, most_record_bytes, pack, unpack
from profiles.record_bytes import CORRUPT, OK, OTHER_SHAPE, TOO_NEW, UNKNOWN_PART
from profiles.record_columns import columns_for, profile_at, put_profile
from profiles.record_v1 import HEAD_BYTES
from profiles.shape import OWN_FORMAT, RECORD_FORMATS, RECORD_VERSION, ModelShape

_WIDEST = ModelShape(n_factors=1, history=255, n_tokens=255, own_items=255)
"""Facts of any shape fit; their reading needs no factors."""


def facts_of(record: bytes) -> bytes:
    """The facts of a record in their canonical form, that of format 1 and the own table in full.

    Raises RecordTooNew, RecordCorrupt.
    """
    if not record:
        raise refusal(CORRUPT, "?")
    if record[0] == 1:
        n_facts = int.from_bytes(record[2:HEAD_BYTES], "little")
        if len(record) < HEAD_BYTES + n_facts or len(record) < HEAD_BYTES:
            raise RecordCorrupt(f"a record of {len(record)} bytes is cut short")
        return record[HEAD_BYTES : HEAD_BYTES + n_facts]
    if record[0] not in RECORD_FORMATS:
        raise refusal(TOO_NEW if record[0] else CORRUPT, "?", record)
    out = np.empty(most_record_bytes(_WIDEST), np.uint8)
    code, n_bytes = canonical_facts(_array(record), columns_for(1, _WIDEST), out)
    if code != OK:
        raise refusal(code, "?", record)
    return out[:n_bytes].tobytes()


def refusal(code: int, user_id: str, record: bytes = b"") -> RecordTooNew | RecordCorrupt:
    """The error for a code of `unpack`, naming the user and the way out."""
    first, last = RECORD_FORMATS[0], RECORD_FORMATS[-1]
    if code == TOO_NEW:
        return RecordTooNew(
            f"profile {user_id!r}: format {record[0]} is newer than this worker"
            f" (reads {first}-{last}); upgrade the worker"
        )
    if code == UNKNOWN_PART:
        parts = ", ".join(f"{byte:#04x}" for byte in record[1:3])
        return RecordTooNew(
            f"profile {user_id!r}: format {record[0]} with parts ({parts}) or a way of writing"
            " weights that this worker does not know; upgrade the worker"
        )
    if code == OTHER_SHAPE:
        return RecordCorrupt(
            f"profile {user_id!r}: made with another number of factors, history length, tokens or"
            " own items; set them back, or rebuild into a new generation"
        )
    return RecordCorrupt(
        f"profile {user_id!r}: these bytes are not a record of foldstream; find out what wrote the"
        " key, then rebuild the profiles from the log"
    )


def check_format(record_format: int, shape: ModelShape) -> int:
    """The format, when this worker can write profiles of `shape` in it. Raises ValueError."""
    if record_format not in RECORD_FORMATS:
        known = ", ".join(map(str, RECORD_FORMATS))
        raise ValueError(f"record format {record_format}: this worker writes {known}")
    if shape.own_items and record_format < OWN_FORMAT:
        raise ValueError(
            f"record format {record_format} has no room for own tables (own_items is"
            f" {shape.own_items}); {OWN_FORMAT} has"
        )
    return record_format


def encode_profile(
    profile: Profile, shape: ModelShape, record_format: int = RECORD_VERSION
) -> bytes:
    """One profile as a record. Raises ValueError when it does not fit `shape`."""
    columns = columns_for(1, shape)
    put_profile(columns, 0, profile)
    out = np.empty(most_record_bytes(shape), np.uint8)
    ends = np.zeros(2, np.int64)
    pack(np.zeros(1, np.int32), columns, check_format(record_format, shape), out, ends)
    return out[: ends[1]].tobytes()


def decode_profile(record: bytes, shape: ModelShape, user_id: str = "?") -> Profile:
    """A record of any format as a `Profile`. Raises RecordTooNew, RecordCorrupt.

    >>> shape = ModelShape(n_factors=2)
    >>> profile = Profile(first_ms=5, last_ms=7, last_offset=3, n_by_kind={2: 9})
    >>> decode_profile(encode_profile(profile, shape), shape) == profile
    True
    """
    columns = columns_for(1, shape)
    ends = np.array([0, len(record)], np.int64)
    code, _ = unpack(_array(record), ends, np.zeros(1, np.int32), columns)
    if code != OK or not record:
        raise refusal(code or CORRUPT, user_id, record)
    return profile_at(columns, 0)


def _array(record: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(record, np.uint8)
