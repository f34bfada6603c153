"""Hypothesis' part of the driver: input that nobody thought of, for decoder and record codec.

Needs hypothesis, which is a development tool: import this module where it is sure to be there, or
where its absence can be told. What stays true: each check raises AssertionError with an example
that hypothesis has made small, and every example follows from the seed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from agents.chaos.hostile import Message, hostile_message
from agents.chaos.judge import Judge
from agents.chaos.verdicts import disagreement
from profiles.errors import RecordCorrupt, RecordTooNew
from profiles.interactions import MAX_KINDS
from profiles.profile import HistoryEntry, OwnEntry, Profile
from profiles.record import decode_profile, encode_profile, facts_of
from profiles.shape import ModelShape
from profiles.table import ProfileTable
from streams.codec import EventCodec

# Messages -------------------------------------------------------------------------------------

_TEXTS = st.text() | st.sampled_from(["click", "search", "forget", "wave", "u", "\ud800", "[" * 99])
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**19, 2**63, 2**64, -(2**64), 10**400, 5.0, 1.7e12, 1e25, -0.0]),
    st.floats(),
    _TEXTS,
)
_DOCUMENTS = st.recursive(
    _LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20
)
_NAMES = st.sampled_from(
    ["type", "user_id", "ts", "item_id", "event_id", "price", "position", "query", "into", "x"]
)
_PAIRS = st.lists(st.tuples(_NAMES, _DOCUMENTS), max_size=5)
_HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ce_specversion", "ce_id", "ce_type", "ce_time", "ce_subject", "CE_SOURCE", "trace",
             "content-type"]
        ),
        st.binary(max_size=30)
        | st.datetimes().map(lambda at: f"{at.isoformat()}Z".encode())
        | st.sampled_from([b"1.0", b"a.click", b"u", b"9999-12-31T23:59:59-23:59"]),
    ),
    max_size=6,
).map(tuple)  # fmt: skip


def _nearly_an_event(pairs: list[tuple[str, Any]], first: bool, ascii_only: bool) -> bytes:
    """A good click with pairs put before or behind its own: names may come twice."""
    own = [("type", "click"), ("user_id", "u"), ("ts", 5), ("item_id", "i")]
    fields = [
        f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=ascii_only)}"
        for name, value in (pairs + own if first else own + pairs)
    ]
    return ("{" + ",".join(fields) + "}").encode("utf-8", "surrogatepass")


_NEAR = st.builds(_nearly_an_event, _PAIRS, st.booleans(), st.booleans())
_VALUES = st.one_of(
    st.binary(max_size=300),
    _DOCUMENTS.map(lambda document: json.dumps(document).encode()),
    _NEAR,
    st.builds(lambda value, at, new: value[:at] + new + value[at:],
              _NEAR, st.integers(0, 200), st.binary(max_size=4)),
    st.builds(lambda value, at: value[:at], _NEAR, st.integers(0, 400)),
)  # fmt: skip
MESSAGES = st.builds(Message, st.none() | st.just(b"u") | st.binary(max_size=9), _VALUES, _HEADERS)
"""Anything, and much that is nearly an event."""

_EVENTS = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["click", "cart", "purchase", "return", "review"]),
        "user_id": st.sampled_from(["u", "ü", "u" * 256]),
        "ts": st.integers(0, 4_102_444_800_000),
        "event_id": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9),
        "item_id": st.sampled_from(["i", "i" * 256, "\U0001f600"]),
    }
)
HOSTILE = st.builds(
    lambda number, event: hostile_message(random.Random(number), event),
    st.integers(0, 2**32),
    _EVENTS,
)


def check_message(codec: EventCodec, judge: Judge, message: Message) -> None:
    """Decoder and judge agree, whatever it is."""
    wrong = disagreement(codec, judge, message)
    assert wrong is None, wrong


# Records --------------------------------------------------------------------------------------

SHAPE = ModelShape(n_factors=4, history=5, n_tokens=3, own_items=7)
_INT64 = st.integers(-(2**63), 2**63 - 1)
_UINT64 = st.integers(1, 2**64 - 1)
_UINT32 = st.integers(0, 2**32 - 1) | st.integers(0, 20)


def _vectors(largest: float) -> st.SearchStrategy[np.ndarray[Any, np.dtype[np.float32]] | None]:
    numbers = st.floats(-largest, largest, width=32) | st.just(0.0)
    rows = st.lists(numbers, min_size=4, max_size=4)
    return st.none() | rows.map(lambda row: np.array(row, np.float32))


def _profiles(largest: float) -> st.SearchStrategy[Profile]:
    weights = st.floats(0, 1, width=32) | st.integers(1, 100).map(
        lambda n: float(np.float32(n / 100))
    )
    entries = st.builds(HistoryEntry, _UINT64, _INT64, weights, st.integers(0, MAX_KINDS - 1))
    return st.builds(
        Profile,
        first_ms=_INT64,
        last_ms=_INT64,
        last_offset=st.integers(-1, 2**63 - 1),
        n_by_kind=st.dictionaries(st.integers(0, MAX_KINDS - 1), st.integers(1, 2**32 - 1)),
        history=st.lists(entries, max_size=5),
        pending=st.lists(_UINT64, max_size=3),
        pending_ms=st.just(0),
        n_positive=_UINT32,
        n_sessions=_UINT32,
        session=_UINT32,
        session_from=_UINT32,
        own=st.lists(
            st.builds(OwnEntry, _UINT32, st.integers(0, 255), _UINT32, _UINT32), max_size=7
        ),
        long_term=_vectors(largest),
        long_term_sum=st.floats(0, largest, width=32),
        stamp=st.integers(0, 2**63 - 1),
    )


PROFILES = _profiles(1_000.0)
"""Any profile that a fold can make, and many that none will."""

EXTREME_PROFILES = _profiles(float(np.finfo(np.float32).max))
"""Vectors that no fold makes: they may be refused, and nothing else may happen."""


FACTS = (
    *("first_ms", "last_ms", "last_offset", "n_by_kind", "history", "pending"),
    *("n_positive", "n_sessions", "session", "session_from", "own"),
)


def check_profile(profile: Profile) -> None:
    """Encode, then decode: the facts are the same bit for bit, the vectors finite."""
    record = encode_profile(profile, SHAPE)
    again = decode_profile(record, SHAPE)
    for name in FACTS:
        assert getattr(again, name) == getattr(profile, name), (name, again, profile)
    assert again.long_term is None or np.isfinite(again.long_term).all(), (again, profile)
    table = ProfileTable(SHAPE, 4)
    table.load(["u"], [record])
    packed = table.pack(table.rows(["u"]))[0]
    assert facts_of(packed) == facts_of(record), (packed, record)
    table.load(["v"], [packed])
    assert table.pack(table.rows(["v"]))[0] == packed, "what is loaded and packed again"


def check_extreme(profile: Profile) -> None:
    """As `check_profile`, or refused."""
    try:
        check_profile(profile)
    except (ValueError, RecordCorrupt):
        return


def check_record(record: bytes) -> None:
    """Bytes are read, and their facts written again as they were, or refused by name."""
    try:
        profile = decode_profile(record, SHAPE)
    except (RecordCorrupt, RecordTooNew):
        return
    facts = facts_of(record)
    assert facts_of(encode_profile(profile, SHAPE)) == facts, (record, profile)


RECORDS = st.binary(max_size=200)
DAMAGED = st.builds(
    lambda profile, at, new, cut: (
        (record := encode_profile(profile, SHAPE))[:at]
        + new
        + record[at + len(new) : len(record) - cut]
    ),
    PROFILES,
    st.integers(0, 250),
    st.binary(max_size=4),
    st.integers(0, 3),
)
"""Records with a few bytes changed, or cut."""


# Running them ---------------------------------------------------------------------------------


def run_examples(
    check: Callable[[Any], None], inputs: st.SearchStrategy[Any], number: int, n: int
) -> None:
    """Check n examples drawn from a seed. Raises what the check raised, for the smallest one."""

    @seed(number)
    @settings(
        max_examples=n,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def examine(one: Any) -> None:
        check(one)

    examine()
