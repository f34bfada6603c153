"""The oracle and the product, which share no code, fold the same facts from any events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.chaos.oracle import PartitionOracle
from agents.chaos.verifier import profile_of
from agents.translate import Translator
from profiles.fold import fold_batch
from profiles.interactions import Kinds
from profiles.items import ItemTable
from profiles.record import encode_profile, facts_of
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable
from streams.events import Cart, Click, Event, Purchase, Return, Review, Search

START = 1_762_430_400_000
USERS, ITEMS = st.sampled_from(["u1", "u2"]), st.sampled_from(["a", "b", "c", "d", "e", "f"])
SESSIONS = st.none() | st.sampled_from(["s1", "s2"])
QUERIES = st.none() | st.sampled_from(["Tea light", "?!", "red"])
AFTER_MS = st.sampled_from([-90_000, 0, 1_000, 61_000, 1_800_000, 1_800_001, 10**8])


@st.composite
def streams(draw: st.DrawFn) -> list[Event]:
    stream: list[Event] = []
    ts = START
    for _ in range(draw(st.integers(1, 50))):
        ts += draw(AFTER_MS)
        user, session = draw(USERS), draw(SESSIONS)
        kind = draw(st.sampled_from([Click, Click, Click, Cart, Purchase, Return, Review, Search]))
        if kind is Search:
            query = draw(QUERIES) or "tea"
            stream.append(Search(user_id=user, ts=ts, query=query, session_id=session))
        else:
            stream.append(
                kind(
                    user_id=user,
                    ts=ts,
                    item_id=draw(ITEMS),
                    rating=draw(st.sampled_from([None, 2.0, 4.0])),
                    query=draw(QUERIES),
                    session_id=session,
                )
            )
    return stream


@pytest.mark.parametrize("own_items", [0, 4])
@given(stream=streams())
@settings(deadline=None)
def test_oracle_and_fold_agree_on_every_fact(own_items: int, stream: list[Event]) -> None:
    shape = ModelShape(n_factors=4, history=3, n_tokens=3, own_items=own_items)
    config = FoldConfig(shape=shape, learn=False)
    profiles, items = ProfileTable(shape), ItemTable(shape, config)
    users = list(dict.fromkeys(event.user_id for event in stream))
    profiles.load(users, [None] * len(users))
    offsets, appended_ms = list(range(len(stream))), [START + 10**10] * len(stream)
    columns = Translator(Kinds(), shape.n_tokens).translate(
        0, stream, offsets, appended_ms, profiles, items
    )
    fold_batch(profiles, items, columns, config, 0)
    oracle = PartitionOracle(0, history=3, n_tokens=3, own_items=own_items)
    for offset, event in enumerate(stream):
        oracle.take(offset, appended_ms[0], event.user_id.encode(), msgspec.json.encode(event))
    assert not oracle.refused
    records = dict(zip(users, profiles.pack(profiles.rows(users)), strict=True))
    assert oracle.users.keys() == records.keys()
    for user, facts in oracle.users.items():
        assert facts_of(encode_profile(profile_of(facts), shape)) == facts_of(records[user])
