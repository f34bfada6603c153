"""The record: identity in every format, refusals that name the user, and old bytes."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.hashing import item_hash
from profiles.interactions import MAX_KINDS
from profiles.profile import HistoryEntry, OwnEntry, Profile
from profiles.record import decode_profile, encode_profile, facts_of
from profiles.record_batch import most_record_bytes
from profiles.shape import RECORD_FORMATS, RECORD_VERSION, ModelShape
from profiles.table import ProfileTable
from tests.profiles.plain_record import plain_record

SHAPE = ModelShape(n_factors=3, history=4, n_tokens=2, own_items=5)
BEFORE = replace(SHAPE, own_items=0)
HASHES = st.integers(1, 2**64 - 1)
ITEMS = HASHES | st.sampled_from([7, 8, 7 + 2**32])
SHORTS = st.integers(0, 2**32 - 1)
TIME = 1_762_430_400_000
TIMES = st.integers(0, 4_102_444_800_000) | st.integers(TIME, TIME + 180_000)
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


# Version 3, the same with an own table: four entries of which the history tells two, and a session.
VERSION_3 = bytes.fromhex(
    "030701" "03"
    "d00f" "e807" "2b"
    "02" "0201" "0602"
    "03" "0700000000000000" "02" "e807"
    "0800000000000000" "20" "32" "64"
    "0900000000000000" "a3" "1e" "0a"
    "f403" "01" "0900000000000000"
    "0c" "02" "01" "04"
    "05" "04" "09" "29" "01000080" "03" "05" "11" "02000080" "02"
    "efbeadde"
    "04"
    "00000040" "003c00400042"
)  # fmt: skip


def shape_for(record_format: int) -> ModelShape:
    return SHAPE if record_format >= 3 else BEFORE


def fitting(profile: Profile, record_format: int) -> Profile:
    """A profile as a generation has it that was begun in this format."""
    if record_format >= 3:
        return profile
    return replace(profile, n_positive=0, n_sessions=0, session=0, session_from=0, own=[])


def told_by(history: list[HistoryEntry], n_positive: int) -> list[OwnEntry]:
    """What the fold makes of a history: each item once, the newest first."""
    told: dict[int, OwnEntry] = {}
    for a, entry in enumerate(history):
        short, number = entry.item_hash % 2**32, (n_positive - a) % 2**32
        told.setdefault(short, OwnEntry(short, 1, number, entry.time_ms // 60_000))
    return list(told.values())


@st.composite
def own_tables(draw: st.DrawFn, history: list[HistoryEntry], n_positive: int) -> list[OwnEntry]:
    """Some as a fold makes them, some as none does."""
    entries = told_by(history, n_positive)[: draw(st.integers(0, 4))]
    for entry in entries:
        entry.times = draw(st.integers(0, 255))
    strange = st.builds(OwnEntry, SHORTS, st.integers(0, 255), SHORTS, SHORTS)
    near = st.builds(
        OwnEntry, SHORTS, st.integers(0, 5), st.integers(1, 40), st.just(TIME // 60_000)
    )
    return draw(
        st.permutations([*entries, *draw(st.lists(strange | near, max_size=1))]) | st.just(entries)
    )


@st.composite
def profiles(draw: st.DrawFn) -> Profile:
    vectors = st.lists(FLOATS, min_size=3, max_size=3).filter(any).map(np.float32)
    # The fold makes long-term vectors of float16 numbers and sums that don't fall.
    halves = st.lists(HALVES, min_size=3, max_size=3).filter(any).map(np.float32)
    long_term = draw(st.none() | halves)
    pending = draw(st.lists(HASHES, max_size=2))
    history = draw(
        st.lists(
            st.builds(HistoryEntry, ITEMS, TIMES, WEIGHTS | FLOATS, st.integers(0, 31)),
            max_size=4,
        )
    )
    n_positive = draw(st.integers(0, 40) | SHORTS)
    return Profile(
        first_ms=draw(TIMES),
        last_ms=draw(TIMES),
        last_offset=draw(st.integers(0, 2**63 - 1)),
        n_by_kind=draw(st.dictionaries(st.integers(0, 31), st.integers(1, 2**32 - 1))),
        history=history,
        pending=pending,
        pending_ms=draw(TIMES) if pending else 0,
        n_positive=n_positive,
        n_sessions=draw(SHORTS),
        session=draw(st.just(0) | SHORTS),
        session_from=draw(SHORTS),
        own=draw(own_tables(history, n_positive)),
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
    """But for the user vector: format 2 keeps it to half of a 127th of its largest, 3 not."""
    profile, shape = fitting(profile, record_format), shape_for(record_format)
    record = encode_profile(profile, shape, record_format)
    assert len(record) <= most_record_bytes(shape)
    decoded = decode_profile(record, shape)
    assert encode_profile(decoded, shape, record_format) == record
    exact, kept = zeros_for_none(profile.vector), zeros_for_none(decoded.vector)
    if record_format == 1:
        assert kept.tolist() == exact.tolist()
    elif record_format == 3:
        assert decoded.vector is None
    else:
        largest = np.abs(exact).max()
        wanted = exact if 2.0**-100 <= largest <= 2.0**63 else kept
        # 2**-9: of the scale's own rounding.
        np.testing.assert_allclose(kept, wanted, rtol=2**-9, atol=largest / 127 * 0.51)
    decoded.vector = profile.vector
    assert zeros_for_none(decoded.long_term).tolist() == zeros_for_none(profile.long_term).tolist()
    decoded.long_term = profile.long_term
    assert decoded == profile


@given(profile=profiles(), record_format=st.sampled_from([2, 3]))
@settings(deadline=None)
def test_a_record_is_what_its_page_says(profile: Profile, record_format: int) -> None:
    """The page once more in plain Python; a reader in another language needs no more."""
    profile = fitting(profile, record_format)
    record = encode_profile(profile, shape_for(record_format), record_format)
    assert record == plain_record(profile, record_format)


@given(profile=profiles())
@settings(deadline=None)
def test_facts_are_the_same_bytes_in_every_format(profile: Profile) -> None:
    profile = fitting(profile, 1)
    first, second, third = (encode_profile(profile, BEFORE, f) for f in RECORD_FORMATS)
    assert facts_of(first) == facts_of(second) == facts_of(third)


@given(profile=profiles())
@settings(deadline=None)
def test_an_own_table_only_adds_to_the_canonical_facts(profile: Profile) -> None:
    """So digests of generations without one are what they were."""
    facts = facts_of(encode_profile(profile, SHAPE))
    before = facts_of(encode_profile(fitting(profile, 2), BEFORE, 2))
    assert facts.startswith(before)
    own = facts[len(before) :]
    if not own:
        assert fitting(profile, 2) == profile
        return
    head = (profile.n_positive, profile.n_sessions, profile.session, profile.session_from)
    assert struct.unpack_from("<4IB", own) == (*head, len(profile.own))
    assert list(struct.iter_unpack("<IBII", own[17:])) == [
        (entry.short_hash, entry.times, entry.number, entry.minute) for entry in profile.own
    ]


@given(many=st.lists(st.tuples(profiles(), FORMATS), min_size=1, max_size=5))
@settings(deadline=None)
def test_a_table_writes_what_it_loaded_in_its_own_format(
    many: list[tuple[Profile, int]],
) -> None:
    """Records of all formats in one call; each is converted when it is written."""
    many = [(fitting(profile, 1), its_format) for profile, its_format in many]
    records: list[bytes | None] = [encode_profile(profile, BEFORE, f) for profile, f in many]
    users = [f"u{number}" for number in range(len(many))]
    for record_format in RECORD_FORMATS:
        table = ProfileTable(BEFORE, capacity=1, record_format=record_format)
        table.load(users, records)
        packed = table.pack(table.rows(users))
        for (profile, its_format), before, after in zip(many, records, packed, strict=True):
            assert after[0] == record_format
            if its_format == record_format:
                assert after == before
            elif record_format == 3 or (record_format, its_format) == (2, 1):
                assert after == encode_profile(profile, BEFORE, record_format)


@given(profile=profiles(), record_format=st.sampled_from([1, 2]))
@settings(deadline=None)
def test_a_record_of_before_reads_as_one_without_an_own_table(
    profile: Profile, record_format: int
) -> None:
    record = encode_profile(fitting(profile, record_format), BEFORE, record_format)
    decoded = decode_profile(record, SHAPE)
    assert (decoded.own, decoded.n_positive, decoded.session) == ([], 0, 0)
    assert decoded.history == profile.history
    assert facts_of(encode_profile(decoded, SHAPE, 3)) == facts_of(record)


@given(
    profile=profiles(), record_format=FORMATS, cut=st.integers(0, 300), extra=st.binary(max_size=3)
)
@settings(deadline=None)
def test_a_record_cut_short_or_too_long_is_refused(
    profile: Profile, record_format: int, cut: int, extra: bytes
) -> None:
    record = encode_profile(
        fitting(profile, record_format), shape_for(record_format), record_format
    )
    changed = record[:cut] + extra
    if changed == record:
        return
    if record.startswith(changed) or changed.startswith(record):
        with pytest.raises(RecordCorrupt, match="'u42'"):
            decode_profile(changed, shape_for(record_format), "u42")


@given(first=st.sampled_from([b"\x01", b"\x02", b"\x03", b""]), data=st.binary(max_size=200))
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
    """And what format 2 or 3 lets through has finite vectors: they are stored again."""
    shape = shape_for(record_format)
    damaged = bytearray(encode_profile(fitting(profile, record_format), shape, record_format))
    for at, byte in changes:
        damaged[at % len(damaged)] = byte
    with suppress(RecordCorrupt, RecordTooNew):
        facts_of(bytes(damaged))
    with suppress(RecordCorrupt, RecordTooNew):
        decoded = decode_profile(bytes(damaged), SHAPE)
        assert all(entry.kind < MAX_KINDS for entry in decoded.history)
        if damaged[0] >= 2:
            assert np.isfinite(zeros_for_none(decoded.vector)).all()
            assert np.isfinite(zeros_for_none(decoded.long_term)).all()
            assert np.isfinite(decoded.long_term_sum)


@pytest.mark.parametrize("code", [MAX_KINDS, 200, 255])
def test_a_kind_that_can_not_be_is_refused_in_the_first_format(code: int) -> None:
    profile = Profile(last_offset=1, history=[HistoryEntry(item_hash("i"), 5, 1.0, 3)])
    record = bytearray(encode_profile(profile, BEFORE, 1))
    at = record.index(item_hash("i").to_bytes(8, "little")) + 20
    assert record[at] == 3
    record[at] = code
    with pytest.raises(RecordCorrupt, match="'u42'"):
        decode_profile(bytes(record), BEFORE, "u42")


def test_a_newer_format_asks_for_an_upgrade() -> None:
    newer = RECORD_VERSION + 1
    record = bytes([newer]) + encode_profile(Profile(last_offset=1), SHAPE)[1:]
    with pytest.raises(RecordTooNew, match=rf"'u42'.*format {newer}.*upgrade"):
        decode_profile(record, SHAPE, "u42")
    with pytest.raises(RecordTooNew):
        facts_of(record)


@pytest.mark.parametrize(
    ("record_format", "at", "part"),
    [(2, 1, 0x02), (2, 1, 0x80), (2, 2, 0x04), (3, 1, 0x08), (3, 2, 0x02)],
)
def test_a_part_that_is_not_known_yet_asks_for_an_upgrade(
    record_format: int, at: int, part: int
) -> None:
    record = bytearray(encode_profile(Profile(last_offset=1), BEFORE, record_format))
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
    with pytest.raises(ValueError, match=r"format 2 has no room for own tables.*; 3 has"):
        encode_profile(Profile(), SHAPE, 2)


@pytest.mark.parametrize(
    ("record_format", "other"),
    [
        (record_format, other)
        for record_format in RECORD_FORMATS
        for other in ({"n_factors": 4}, {"history": 5}, {"own_items": 6})
        if record_format >= 3 or "own_items" not in other  # formats of before have none
    ],
    ids=str,
)
def test_a_record_of_another_shape_names_the_way_out(
    record_format: int, other: dict[str, int]
) -> None:
    profile = Profile(last_offset=1, history=[HistoryEntry(1, 1, 1.0, 0)] * other.get("history", 0))
    profile.own = [OwnEntry(n, 1, 1, 1) for n in range(other.get("own_items", 0))]
    record = encode_profile(profile, replace(shape_for(record_format), **other), record_format)
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
    assert encode_profile(profile, BEFORE, 1) == VERSION_1


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


def test_a_record_of_version_3_still_decodes() -> None:
    profile = decode_profile(VERSION_3, SHAPE)
    assert (profile.n_positive, profile.n_sessions, profile.session_from) == (12, 2, 11)
    assert profile.session == 0xDEADBEEF
    assert profile.own == [
        OwnEntry(short_hash=7, times=1, number=12, minute=0),
        OwnEntry(short_hash=8, times=9, number=11, minute=0),
        OwnEntry(short_hash=2**31 + 1, times=1, number=8, minute=5),
        OwnEntry(short_hash=2**31 + 2, times=1, number=7, minute=3),
    ]
    assert facts_of(encode_profile(fitting(profile, 2), BEFORE, 2)) == facts_of(VERSION_2)
    assert encode_profile(profile, SHAPE) == VERSION_3


def test_a_long_term_vector_of_format_1_is_rounded_as_it_is_loaded() -> None:
    """Not when it is written: a cached profile and one read back must fold alike."""
    vector = np.float32([0.1, 1e-7, 1e6])
    record = encode_profile(Profile(last_offset=1, long_term=vector), BEFORE, 1)
    table = ProfileTable(SHAPE)
    table.load(["new", "old"], [None, record])
    loaded = table.profile("old").long_term
    assert loaded is not None
    assert loaded.tolist() == [np.float16(0.1), np.float16(1e-7), 65504]


def test_records_are_as_long_as_the_page_says() -> None:
    """The sizes that docs/wire.md states, for ten clicks a minute apart."""
    before, vector = ModelShape(own_items=0), np.ones(64, np.float32)
    now = 1_762_430_400_000
    history = [HistoryEntry(2**63 + a, now - 60_000 * a, 1.0, 0) for a in range(10)]
    profile = Profile(now, now, 10_000, {0: 10}, history, vector=vector, stamp=100_000)
    assert [len(encode_profile(profile, before, f)) for f in (1, 2)] == [512, 204]
    profile.n_positive, profile.n_sessions, profile.session_from = 10, 1, 1
    profile.own = told_by(history, 10)
    assert len(encode_profile(profile, ModelShape())) == 152
    profile = replace(fitting(profile, 2), long_term=vector)
    assert [len(encode_profile(profile, before, f)) for f in (1, 2)] == [772, 336]
