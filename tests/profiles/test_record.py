"""The record: identity in every format, refusals that name the user, and old bytes."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.profile import HistoryEntry, Profile
from profiles.record import decode_profile, encode_profile, facts_of
from profiles.record_batch import most_record_bytes
from profiles.shape import RECORD_FORMATS, RECORD_VERSION, ModelShape
from profiles.table import ProfileTable
from tests.profiles.plain_record import plain_record

SHAPE = ModelShape(n_factors=3, history=4, n_tokens=2)
HASHES = st.integers(1, 2**64 - 1)
TIMES = st.integers(0, 4_102_444_800_000)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
HALVES = st.floats(width=16, allow_nan=False, allow_infinity=False)
WEIGHTS = st.sampled_from([1.0, 0.5, 0.2, 0.85]).map(lambda weight: float(np.float32(weight)))
CHANGES = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=4)
FORMATS = st.sampled_from(RECORD_FORMATS)

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


# Version 2, the same profile, and an entry before it whose weight and time are written otherwise.
VERSION_2 = bytes.fromhex(
    "020103" "03"
    "d00f" "e807" "2b"
    "02" "0201" "0602"
    "03" "0700000000000000" "02" "e807"
    "0800000000000000" "20" "32" "64"
    "0900000000000000" "c3" "9a99993e" "0a"
    "f403" "01" "0900000000000000"
    "04"
    "00000040" "003c00400042"
    "c13c" "2a557f"
)  # fmt: skip


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    vectors = st.lists(FLOATS, min_size=3, max_size=3).filter(any).map(np.float32)
    # The fold makes long-term vectors of float16 numbers and sums that don't fall.
    halves = st.lists(HALVES, min_size=3, max_size=3).filter(any).map(np.float32)
    long_term = draw(st.none() | halves)
    pending = draw(st.lists(HASHES, max_size=2))
    return Profile(
        first_ms=draw(TIMES),
        last_ms=draw(TIMES),
        last_offset=draw(st.integers(0, 2**63 - 1)),
        n_by_kind=draw(st.dictionaries(st.integers(0, 31), st.integers(1, 2**32 - 1))),
        history=draw(
            st.lists(
                st.builds(HistoryEntry, HASHES, TIMES, WEIGHTS | FLOATS, st.integers(0, 31)),
                max_size=4,
            )
        ),
        pending=pending,
        pending_ms=draw(TIMES) if pending else 0,
        long_term=long_term,
        long_term_sum=draw(FLOATS.filter(bool).map(abs)) if long_term is not None else 0.0,
        vector=draw(st.none() | vectors),
        stamp=draw(st.integers(0, 2**63 - 1)),
    )


def zeros_for_none(vector: np.ndarray | None) -> np.ndarray:
    return np.zeros(3, np.float32) if vector is None else vector


@given(profile=profiles(), record_format=FORMATS)
@settings(deadline=None)
def test_encode_then_decode_is_identity(profile: Profile, record_format: int) -> None:
    """But for the user vector, which format 2 keeps to half of a 127th of its largest number."""
    record = encode_profile(profile, SHAPE, record_format)
    assert len(record) <= most_record_bytes(SHAPE)
    decoded = decode_profile(record, SHAPE)
    assert encode_profile(decoded, SHAPE, record_format) == record
    exact, kept = zeros_for_none(profile.vector), zeros_for_none(decoded.vector)
    if record_format == 1:
        assert kept.tolist() == exact.tolist()
    else:
        largest = np.abs(exact).max()
        wanted = exact if 2.0**-100 <= largest <= 2.0**63 else kept
        # 2**-9: of the scale's own rounding.
        np.testing.assert_allclose(kept, wanted, rtol=2**-9, atol=largest / 127 * 0.51)
    decoded.vector = profile.vector
    assert zeros_for_none(decoded.long_term).tolist() == zeros_for_none(profile.long_term).tolist()
    decoded.long_term = profile.long_term
    assert decoded == profile


@given(profile=profiles())
@settings(deadline=None)
def test_format_2_is_what_its_page_says(profile: Profile) -> None:
    """The page once more in plain Python; a reader in another language needs no more."""
    assert encode_profile(profile, SHAPE, 2) == plain_record(profile)


@given(profile=profiles())
@settings(deadline=None)
def test_facts_are_the_same_bytes_in_every_format(profile: Profile) -> None:
    old, new = (encode_profile(profile, SHAPE, record_format) for record_format in (1, 2))
    assert facts_of(new) == facts_of(old)


@given(many=st.lists(st.tuples(profiles(), FORMATS), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_table_writes_what_it_loaded_in_its_own_format(
    many: list[tuple[Profile, int]],
) -> None:
    """Records of both formats in one call; each is converted when it is written."""
    records: list[bytes | None] = [encode_profile(profile, SHAPE, f) for profile, f in many]
    users = [f"u{number}" for number in range(len(many))]
    for record_format in RECORD_FORMATS:
        table = ProfileTable(SHAPE, capacity=1, record_format=record_format)
        table.load(users, records)
        packed = table.pack(table.rows(users))
        for (profile, its_format), before, after in zip(many, records, packed, strict=True):
            assert after[0] == record_format
            if its_format == record_format:
                assert after == before
            elif record_format == 2:
                assert after == encode_profile(profile, SHAPE, 2)


@given(
    profile=profiles(), record_format=FORMATS, cut=st.integers(0, 300), extra=st.binary(max_size=3)
)
@settings(deadline=None)
def test_a_record_cut_short_or_too_long_is_refused(
    profile: Profile, record_format: int, cut: int, extra: bytes
) -> None:
    record = encode_profile(profile, SHAPE, record_format)
    changed = record[:cut] + extra
    if changed == record:
        return
    if record.startswith(changed) or changed.startswith(record):
        with pytest.raises(RecordCorrupt, match="'u42'"):
            decode_profile(changed, SHAPE, "u42")


@given(first=st.sampled_from([b"\x01", b"\x02", b""]), data=st.binary(max_size=200))
@settings(deadline=None, max_examples=500)
def test_any_bytes_are_decoded_or_refused_by_name(first: bytes, data: bytes) -> None:
    for read in (facts_of, lambda record: decode_profile(record, SHAPE)):
        with suppress(RecordCorrupt, RecordTooNew):
            read(first + data)


@given(profile=profiles(), record_format=FORMATS, changes=CHANGES)
@settings(deadline=None, max_examples=500)
def test_a_damaged_record_is_decoded_or_refused_by_name(
    profile: Profile, record_format: int, changes: list[tuple[int, int]]
) -> None:
    """And what format 2 lets through has finite vectors: they are stored again."""
    damaged = bytearray(encode_profile(profile, SHAPE, record_format))
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    with suppress(RecordCorrupt, RecordTooNew):
        facts_of(bytes(damaged))
    with suppress(RecordCorrupt, RecordTooNew):
        decoded = decode_profile(bytes(damaged), SHAPE)
        if damaged[0] == 2:
            assert np.isfinite(zeros_for_none(decoded.vector)).all()
            assert np.isfinite(zeros_for_none(decoded.long_term)).all()
            assert np.isfinite(decoded.long_term_sum)


def test_a_newer_format_asks_for_an_upgrade() -> None:
    newer = RECORD_VERSION + 1
    record = bytes([newer]) + encode_profile(Profile(last_offset=1), SHAPE)[1:]
    with pytest.raises(RecordTooNew, match=rf"'u42'.*format {newer}.*upgrade"):
        decode_profile(record, SHAPE, "u42")
    with pytest.raises(RecordTooNew):
        facts_of(record)


@pytest.mark.parametrize(("at", "part"), [(1, 0x02), (1, 0x80), (2, 0x04)])
def test_a_part_that_is_not_known_yet_asks_for_an_upgrade(at: int, part: int) -> None:
    record = bytearray(encode_profile(Profile(last_offset=1), SHAPE))
    record[at] |= part
    with pytest.raises(RecordTooNew, match=rf"'u42'.*{part:#04x}.*upgrade"):
        decode_profile(bytes(record), SHAPE, "u42")
    with pytest.raises(RecordTooNew):
        facts_of(bytes(record))


def test_a_format_that_can_not_be_written_is_refused() -> None:
    with pytest.raises(ValueError, match="format 9"):
        ProfileTable(SHAPE, record_format=9)
    with pytest.raises(ValueError, match="format 0"):
        encode_profile(Profile(), SHAPE, 0)


@pytest.mark.parametrize("record_format", RECORD_FORMATS)
def test_a_record_of_another_shape_names_the_way_out(record_format: int) -> None:
    record = encode_profile(Profile(last_offset=1), ModelShape(n_factors=4), record_format)
    with pytest.raises(RecordCorrupt, match="generation"):
        decode_profile(record, SHAPE, "u42")
    long = Profile(last_offset=1, history=[HistoryEntry(1, 1, 1.0, 0)] * 5)
    record = encode_profile(long, ModelShape(n_factors=3, history=5), record_format)
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
    assert encode_profile(profile, SHAPE, 1) == VERSION_1


def test_a_record_of_version_2_still_decodes() -> None:
    profile = decode_profile(VERSION_2, SHAPE)
    assert profile.n_by_kind == {2: 1, 6: 2}
    assert profile.history == [
        HistoryEntry(item_hash=7, time_ms=1000, weight=1.0, kind=2),
        HistoryEntry(item_hash=8, time_ms=900, weight=0.5, kind=0),
        HistoryEntry(item_hash=9, time_ms=910, weight=float(np.float32(0.3)), kind=3),
    ]
    assert (profile.pending, profile.pending_ms) == ([9], 1500)
    assert (profile.first_ms, profile.last_ms, profile.last_offset) == (1000, 2000, 42)
    assert profile.long_term is not None
    assert profile.vector is not None
    assert profile.long_term.tolist() == [1, 2, 3]
    scale = np.array([0x3CC10000], np.uint32).view(np.float32)[0]  # 3 / 127, rounded
    assert profile.vector.tolist() == [42 * scale, 85 * scale, 127 * scale]
    assert (profile.long_term_sum, profile.stamp) == (2.0, 4)


def test_a_long_term_vector_of_format_1_is_rounded_as_it_is_loaded() -> None:
    """Not when it is written: a cached profile and one read back must fold alike."""
    vector = np.float32([0.1, 1e-7, 1e6])
    record = encode_profile(Profile(last_offset=1, long_term=vector), SHAPE, 1)
    table = ProfileTable(SHAPE)
    table.load(["new", "old"], [None, record])
    loaded = table.profile("old").long_term
    assert loaded is not None
    assert loaded.tolist() == [np.float16(0.1), np.float16(1e-7), 65504]


def test_records_are_as_long_as_the_page_says() -> None:
    """The sizes that docs/wire.md states, for ten clicks a minute apart."""
    shape, vector = ModelShape(), np.ones(64, np.float32)
    now = 1_762_430_400_000
    history = [HistoryEntry(2**63 + a, now - 60_000 * a, 1.0, 0) for a in range(10)]
    profile = Profile(now, now, 10_000, {0: 10}, history, vector=vector, stamp=100_000)
    assert [len(encode_profile(profile, shape, f)) for f in (1, 2)] == [512, 204]
    profile.long_term = vector
    assert [len(encode_profile(profile, shape, f)) for f in (1, 2)] == [772, 336]
