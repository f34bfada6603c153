"""Every made-up fault is one: the codec refuses it."""

from __future__ import annotations

import pytest

from agents.simulate.faults import FAULTS, malformed_message
from streams.codec import EventCodec
from streams.errors import DecodeError

KEY = b"u1"
VALUE = b'{"type":"click","user_id":"u1","ts":0,"event_id":"e","item_id":"i1"}'


@pytest.mark.parametrize("number", range(len(FAULTS)), ids=[name for name, _ in FAULTS])
def test_a_fault_is_refused(number: int) -> None:
    codec = EventCodec()
    codec.decode(VALUE, KEY, [])
    key, value = malformed_message(KEY, VALUE, number)
    with pytest.raises(DecodeError):
        codec.decode(value, key, [])
