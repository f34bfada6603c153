"""One buffer of records, and the command that writes it, byte for byte as the client packs it."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.packed import PackedRecords
from profiles.store_link import pack

RECORDS = st.dictionaries(
    st.text(min_size=1, max_size=30), st.binary(max_size=1_200), min_size=1, max_size=12
)


def packed(records: dict[str, bytes]) -> PackedRecords:
    ends = np.cumsum([0, *map(len, records.values())], dtype=np.int64)
    data = np.frombuffer(bytearray(b"".join(records.values()) + b"rest"), np.uint8)
    return PackedRecords(list(records), data[: ends[-1]], ends)


@given(RECORDS)
def test_the_records_come_out_as_they_went_in(records: dict[str, bytes]) -> None:
    assert dict(packed(records)) == records
    assert len(packed(records)) == len(records)


@settings(deadline=None)  # the first one compiles
@given(RECORDS, st.binary(min_size=1, max_size=40))
def test_the_command_is_that_of_the_client(records: dict[str, bytes], head: bytes) -> None:
    flat = [b"MSET"]
    for user_id, record in records.items():
        flat += [head + user_id.encode(), record]
    assert packed(records).mset(head) == pack(*flat)
