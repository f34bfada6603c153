"""The ring of seen ids, against a search through the whole log."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from profiles.errors import RecordCorrupt
from profiles.seen import SeenRing


def repeats_by_search(n_slots: int, offsets: list[int], hashes: list[int]) -> list[bool]:
    """Whether each event is new: no earlier event of its hash within n_slots offsets."""
    return [
        not any(
            hashes[b] and hashes[a] == hashes[b] and offsets[a] >= offsets[b] - n_slots
            for a in range(b)
        )
        for b in range(len(offsets))
    ]


@given(
    n_slots=st.integers(1, 20),
    steps=st.lists(
        st.tuples(st.integers(1, 4) | st.just(50), st.integers(0, 9)), min_size=1, max_size=80
    ),
    start=st.integers(0, 100),
    cuts=st.lists(st.integers(0, 200)),
    reload=st.booleans(),
)
@settings(deadline=None, max_examples=300)
def test_a_repeat_is_found_within_the_window_whatever_the_cut(
    n_slots: int, steps: list[tuple[int, int]], start: int, cuts: list[int], reload: bool
) -> None:
    """Through a store that only sees the writes; with `reload`, a new owner for every batch."""
    offsets = (start + np.cumsum([step for step, _ in steps])).tolist()
    hashes = [key for _, key in steps]
    edges = sorted({start, offsets[-1] + 2, *(start + cut for cut in cuts)})
    edges = [edge for edge in edges if edge <= offsets[-1] + 2]
    ring, stored, kept = SeenRing(n_slots), bytearray(), []
    for first, last in itertools.pairwise(edges):
        if reload:
            ring = SeenRing(n_slots, bytes(stored))
        batch = [b for b, offset in enumerate(offsets) if first <= offset < last]
        kept += ring.filter(
            [offsets[b] for b in batch], [hashes[b] for b in batch], first, last
        ).tolist()
        for at, data in ring.writes(first, last):
            stored.extend(bytes(max(0, at + len(data) - len(stored))))
            stored[at : at + len(data)] = data
    assert kept == repeats_by_search(n_slots, offsets, hashes)


def test_an_event_without_an_id_is_never_a_repeat() -> None:
    ring = SeenRing(8)
    assert ring.filter([0, 1, 2], [0, 0, 0], 0, 3).all()


def test_a_gap_forgets_what_it_covers() -> None:
    ring = SeenRing(4)
    ring.filter([0], [7], 0, 1)
    assert ring.filter([5], [7], 1, 6).tolist() == [True]
    assert ring.writes(1, 6) == [(0, bytes(8) + (7).to_bytes(8, "little") + bytes(16))]


def test_a_ring_of_another_size_is_refused() -> None:
    with pytest.raises(RecordCorrupt, match="n_seen_slots"):
        SeenRing(2, bytes(24))
    with pytest.raises(RecordCorrupt):
        SeenRing(2, bytes(7))


def test_offsets_outside_the_batch_are_refused() -> None:
    ring = SeenRing(4)
    for offsets in ([0], [5], [2, 1], [1, 1]):
        with pytest.raises(ValueError, match="offsets"):
            ring.filter(offsets, [1] * len(offsets), 1, 5)
