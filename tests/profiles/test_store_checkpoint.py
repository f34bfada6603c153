"""The table that says what became of a commit, and the bytes around it."""

from __future__ import annotations

import pytest

from profiles.errors import RecordCorrupt, StoreMismatch
from profiles.store_checkpoint import (
    Claim,
    Outcome,
    decide,
    decode_outbox,
    encode_outbox,
    parse_checkpoint,
)

ME = Claim(0, epoch=3, owner=b"me")


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ((3, b"me", 9), Outcome.APPLIED),
        ((3, b"me", 5), Outcome.NOT_APPLIED),
        ((3, b"me", 4), Outcome.WENT_BACK),
        ((3, b"me", 0), Outcome.WENT_BACK),
        ((4, b"other", 5), Outcome.FENCED),
        ((4, b"other", 9), Outcome.FENCED),  # theirs or mine: no longer for me to say
        ((3, b"other", 5), Outcome.FENCED),  # the epoch was given out twice
        ((2, b"older", 5), Outcome.WENT_BACK),  # my acquire is lost
        ((0, b"", 0), Outcome.WENT_BACK),  # so is everything
    ],
)
def test_what_became_of_a_batch(row, outcome):
    assert decide(row, ME, start=5, end=9) is outcome


def test_a_position_nobody_wrote_is_a_hard_stop():
    with pytest.raises(StoreMismatch, match="stands at 7"):
        decide((3, b"me", 7), ME, start=5, end=9)


def test_an_outbox_is_a_list_of_bytes():
    assert decode_outbox(encode_outbox([b"", b"\xff"]), ME) == [b"", b"\xff"]
    assert decode_outbox(None, ME) == []
    with pytest.raises(RecordCorrupt, match="outbox of partition 0"):
        decode_outbox(b"\xc1", ME)


def test_a_foreign_checkpoint_is_named():
    assert parse_checkpoint([], b"k") is None
    with pytest.raises(RecordCorrupt, match=r"k: .*no version wrote this"):
        parse_checkpoint([b"next_offset", b"many"], b"k")
    with pytest.raises(RecordCorrupt):
        parse_checkpoint([b"log_topic", b"t"], b"k")
