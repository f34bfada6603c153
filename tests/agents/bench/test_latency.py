"""A probe is served by the list that knows exactly its event; all others are late."""

from __future__ import annotations

import math

from agents.bench.latency import Arrival, round_figures
from agents.bench.open_loop import Probe
from streams.events import Stamps


def probe(offset: int, user: str = "u1") -> Probe:
    return Probe(0, user, offset, sent_ms=998.0, appended_ms=1_000)


def arrival(offset: int, read_ms: float) -> Arrival:
    stamps = Stamps(
        event_ms=1, appended_ms=1_000, folded_ms=1_003, scored_ms=1_010, emitted_ms=1_012
    )
    return Arrival(offset, stamps, read_ms)


def test_a_served_probe_is_timed_from_append_to_readable():
    found = round_figures([probe(5)], {"u1": [arrival(5, 1_020.0)]})
    assert found.stages["appended to readable"] == [20.0]
    assert [values[0] for values in found.stages.values()] == [20.0, 2.0, 3.0, 7.0, 2.0, 8.0]
    assert (found.n_skipped, found.n_missing) == (0, 0)


def test_a_probe_overtaken_by_a_newer_list_counts_as_late():
    found = round_figures([probe(5), probe(6)], {"u1": [arrival(6, 1_020.0)]})
    assert found.stages["appended to readable"] == [math.inf, 20.0]
    assert (found.n_skipped, found.n_missing) == (1, 0)


def test_a_probe_without_any_list_counts_as_late():
    found = round_figures([probe(5), probe(5, "u2")], {"u1": [arrival(4, 1_020.0)]})
    assert found.stages["appended to readable"] == [math.inf, math.inf]
    assert (found.n_skipped, found.n_missing) == (0, 2)


def test_of_a_repeated_list_the_first_counts():
    found = round_figures([probe(5)], {"u1": [arrival(5, 1_020.0), arrival(5, 9_000.0)]})
    assert found.stages["appended to readable"] == [20.0]
