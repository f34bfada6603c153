"""A seed's schedule is always the same one; what ends by itself is told from what was struck."""

from __future__ import annotations

import random
from typing import Any, cast

from agents.chaos.faults import AFTER_S, FAULTS, Fault, Stage, schedule, unexplained
from agents.chaos.keeper import End, Keeper
from tests.builders import until


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


def fault(*, ends_workers: bool) -> Fault:
    """One that is never struck."""

    async def strike(stage: Stage, pick: float, seconds: float) -> None:
        raise AssertionError

    return Fault("made up", strike, ends_workers=ends_workers)


def test_an_end_is_explained_by_a_broken_neighbour_and_a_code_that_names_it() -> None:
    broker, worker = fault(ends_workers=True), fault(ends_workers=False)
    struck = [(broker, 100.0, 110.0), (worker, 300.0, 310.0)]
    good = [End("w0", 1, 105.0), End("w1", 3, 110.0 + AFTER_S)]
    assert unexplained(good, struck, {1, 3}) == []
    bad = [
        End("w0", 1, 99.0),  # before anything was broken
        End("w0", 1, 111.0 + AFTER_S),
        End("w0", 1, 305.0),  # only another worker was struck
        End("w0", 137, 105.0),  # killed, and not by us
        End("w0", 139, 105.0),
        End("w0", 0, 105.0),  # without a word
        End("w0", None, 105.0),
    ]
    assert unexplained([*good, *bad], struck, {1, 3}) == bad


class Process:
    """A worker process, as far as a keeper asks."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.exit_code: int | None = None
        self.n_starts = 0
        self._runs = False

    async def start(self) -> None:
        self.exit_code, self._runs = None, True
        self.n_starts += 1

    def end(self, code: int) -> None:
        """As a crash does it."""
        self.exit_code, self._runs = code, False

    def alive(self) -> bool:
        return self._runs

    async def kill(self) -> None:
        if self._runs:
            self.end(137)

    async def terminate(self) -> None:
        if self._runs:
            self.end(0)

    async def ask(self, path: str, timeout_s: float = 1.0) -> tuple[int, str]:
        return 200, ""


async def test_a_keeper_holds_only_ends_of_their_own_against_workers() -> None:
    ours, own = Process("ours"), Process("own")
    async with Keeper() as keeper:
        for process in (ours, own):
            await keeper.keep(cast("Any", process))
        await keeper.kill(cast("Any", ours))
        own.end(137)  # somebody else's signal
        await until(lambda: (ours.n_starts, own.n_starts) == (2, 2), "both are started again")
        assert [(end.worker, end.code) for end in keeper.exits] == [("own", 137)]
        await keeper.stop(cast("Any", ours))
        await until(lambda: ours.n_starts == 3, "it is started again")
        assert [(end.worker, end.code) for end in keeper.stops] == [("ours", 0)]
        assert len(keeper.exits) == 1
        ours.end(137)  # a blow explains one end, not the next
        await until(lambda: ours.n_starts == 4, "it is started again")
        assert keeper.exits[-1][:2] == ("ours", 137)
