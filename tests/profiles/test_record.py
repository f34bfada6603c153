"""The record: identity through both codecs, refusals that name the user, and old bytes."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.profile import HistoryEntry, Profile
from profiles.record import decode_profile, encode_profile, facts_of
from profiles.shape import ModelShape
from profiles.table import ProfileTable

SHAPE = ModelShape(n_factors=3, history=4, n_tokens=2)
HASHES = st.integers(1, 2**64 - 1)
TIMES = st.integers(0, 4_102_444_800_000)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)

# Version 1, a line for each part of the layout: one purchase, two searches, both vectors (1, 2, 3).
# It must decode for ever.
VERSION_1 = bytes.fromhex(
    "01034a00"
    "e803000000000000d0070000000000002a00000000000000"
    "0202010000000602000000"
    "010700000000000000e8030000000000000000803f02"
    "01dc050000000000000900000000000000"
    "03000400000000000000"
    "000000400000803f0000004000004040"
    "0000803f0000004000004040"
)


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    vectors = st.lists(FLOATS, min_size=3, max_size=3).filter(any).map(np.float32)
    long_term = draw(st.none() | vectors)
    pending = draw(st.lists(HASHES, max_size=2))
    return Profile(
        first_ms=draw(TIMES),
        last_ms=draw(TIMES),
        last_offset=draw(st.integers(0, 2**63 - 1)),
        n_by_kind=draw(st.dictionaries(st.integers(0, 31), st.integers(1, 2**32 - 1))),
        history=draw(
            st.lists(st.builds(HistoryEntry, HASHES, TIMES, FLOATS, st.integers(0, 31)), max_size=4)
        ),
        pending=pending,
        pending_ms=draw(TIMES) if pending else 0,
        long_term=long_term,
        long_term_sum=draw(FLOATS.filter(bool)) if long_term is not None else 0.0,
        vector=draw(st.none() | vectors),
        stamp=draw(st.integers(0, 2**63 - 1)),
    )


def same(left: Profile, right: Profile) -> bool:
    return encode_profile(left, SHAPE) == encode_profile(right, SHAPE)


@given(profile=profiles())
@settings(deadline=None)
def test_encode_then_decode_is_identity(profile: Profile) -> None:
    record = encode_profile(profile, SHAPE)
    decoded = decode_profile(record, SHAPE)
    assert same(decoded, profile)
    assert decoded.history == profile.history
    assert decoded.n_by_kind == profile.n_by_kind


@given(many=st.lists(profiles(), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_table_packs_the_bytes_that_it_loaded(many: list[Profile]) -> None:
    records: list[bytes | None] = [encode_profile(profile, SHAPE) for profile in many]
    users = [f"u{number}" for number in range(len(many))]
    table = ProfileTable(SHAPE, capacity=1)
    table.load(users, records)
    assert list(table.pack(table.rows(users))) == records


@given(profile=profiles(), cut=st.integers(0, 300), extra=st.binary(max_size=3))
@settings(deadline=None)
def test_a_record_cut_short_or_too_long_is_refused(
    profile: Profile, cut: int, extra: bytes
) -> None:
    record = encode_profile(profile, SHAPE)
    changed = record[:cut] + extra
    if changed == record:
        return
    if record.startswith(changed) or changed.startswith(record):
        with pytest.raises(RecordCorrupt, match="'u42'"):
            decode_profile(changed, SHAPE, "u42")


@given(data=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_decoded_or_refused_by_name(data: bytes) -> None:
    try:
        decode_profile(b"\x01" + data, SHAPE)
    except RecordCorrupt:
        return


def test_a_newer_format_asks_for_an_upgrade() -> None:
    record = b"\x02" + encode_profile(Profile(last_offset=1), SHAPE)[1:]
    with pytest.raises(RecordTooNew, match=r"'u42'.*format 2.*upgrade"):
        decode_profile(record, SHAPE, "u42")
    with pytest.raises(RecordTooNew):
        facts_of(record)


def test_a_record_of_another_shape_names_the_way_out() -> None:
    record = encode_profile(Profile(last_offset=1), ModelShape(n_factors=4))
    with pytest.raises(RecordCorrupt, match="generation"):
        decode_profile(record, SHAPE, "u42")
    long = Profile(last_offset=1, history=[HistoryEntry(1, 1, 1.0, 0)] * 5)
    record = encode_profile(long, ModelShape(n_factors=3, history=5))
    with pytest.raises(RecordCorrupt, match="generation"):
        decode_profile(record, SHAPE, "u42")


def test_a_refused_record_leaves_its_user_out_of_the_table() -> None:
    table = ProfileTable(SHAPE)
    good = encode_profile(Profile(last_offset=1), SHAPE)
    with pytest.raises(RecordCorrupt, match="'bad'"):
        table.load(["good", "bad", "after"], [good, good[:-1], good])
    assert table.missing(["good", "bad", "after"]) == ["bad", "after"]
    with pytest.raises(RecordCorrupt, match="'empty'"):
        table.load(["empty"], [b""])


def test_facts_are_a_slice_that_the_model_part_does_not_touch() -> None:
    profile = Profile(first_ms=1, last_ms=2, last_offset=3, n_by_kind={0: 4})
    bare = encode_profile(profile, SHAPE)
    profile.vector, profile.stamp = np.float32([1, 2, 3]), 9
    assert facts_of(encode_profile(profile, SHAPE)) == facts_of(bare)
    assert struct.unpack_from("<qqq", facts_of(bare)) == (1, 2, 3)


def test_a_record_of_version_1_still_decodes() -> None:
    profile = decode_profile(VERSION_1, SHAPE)
    assert profile.n_by_kind == {2: 1, 6: 2}
    assert profile.history == [HistoryEntry(item_hash=7, time_ms=1000, weight=1.0, kind=2)]
    assert (profile.pending, profile.pending_ms) == ([9], 1500)
    assert (profile.first_ms, profile.last_ms, profile.last_offset) == (1000, 2000, 42)
    assert profile.long_term is not None
    assert profile.vector is not None
    assert profile.long_term.tolist() == profile.vector.tolist() == [1, 2, 3]
    assert (profile.long_term_sum, profile.stamp) == (2.0, 4)
    assert encode_profile(profile, SHAPE) == VERSION_1
