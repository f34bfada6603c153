"""A seed's schedule is always the same one, and stays within its time."""

from __future__ import annotations

import random

from agents.chaos.faults import FAULTS, schedule


def test_a_seed_replays_the_same_schedule() -> None:
    one, again, other = (
        [str(blow) for blow in schedule(random.Random(seed), FAULTS, 45.0, 5.0)]
        for seed in (7, 7, 8)
    )
    assert one == again != other


def test_a_hundred_seeds_hold_every_fault_and_none_begins_too_late() -> None:
    drawn = set()
    for seed in range(100):
        for blow in schedule(random.Random(seed), FAULTS, 45.0, 5.0):
            assert 0 < blow.at_s < 45.0
            assert 0 <= blow.seconds <= blow.fault.most_s
            assert 0 <= blow.pick < 1
            drawn.add(blow.fault.name)
    assert drawn == {fault.name for fault in FAULTS}
