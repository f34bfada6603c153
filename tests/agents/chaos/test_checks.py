"""What scenarios check, given runs that are made up: each check can fail, for the right thing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from agents.chaos.bed import Bed
from agents.chaos.scenario import Report
from agents.chaos.scenarios import broker, kill, links, rescale, store
from agents.chaos.watcher import Fall, Gap, Step, Watcher

Moves = Mapping[int, Sequence[float]]


def watcher_of(folder: Path, moves: Moves) -> Watcher:
    """One that has seen each partition move at these times."""
    nobody = cast("Any", None)
    bed = Bed(
        folder=folder,
        kafka="127.0.0.1:1",
        redis="redis://127.0.0.1:1",
        partitions=len(moves),
        broker=nobody,
        store=nobody,
        nodes=[],
        overrides={},
        versions={},
    )
    watcher = Watcher(bed)
    for partition, times in moves.items():
        steps = enumerate(times, 1)
        watcher.steps[partition] = [Step(0.0, 0, 1), *(Step(at_s, n, 1) for n, at_s in steps)]
    return watcher


def steadily(*spans: tuple[float, float]) -> list[float]:
    """A move each half second of these spans."""
    return [begin + n / 2 for begin, end in spans for n in range(int((end - begin) * 2))]


# Moves and gaps -----------------------------------------------------------------------------


def test_a_new_owner_is_no_move(tmp_path: Path) -> None:
    watcher = watcher_of(tmp_path, {0: [1.0]})
    watcher.steps[0] += [Step(5.0, 1, 2), Step(9.0, 2, 2)]
    assert watcher.moves(0) == [1.0, 9.0]
    assert watcher.gaps(1.5, 10.0) == {0: [Gap(0, 1.5, 9.0), Gap(0, 9.0, 10.0)]}
    assert watcher.standstills(1.5, 10.0) == {0: 7.5}


# Kills --------------------------------------------------------------------------------------


def back(watcher: Watcher, *kills_s: float) -> Report:
    report = Report()
    kills = [kill.Kill(at_s, at_s + 0.2) for at_s in kills_s]
    kill.check_back(report, kills, watcher, 0.0, 60.0)
    return report


def test_partitions_that_are_back_in_time_pass(tmp_path: Path) -> None:
    watcher = watcher_of(tmp_path, {0: steadily((0, 10), (17, 60)), 1: steadily((0, 60))})
    assert not back(watcher, 10.0, 30.0).failures


def test_a_partition_that_is_dead_over_two_kills_is_late_however_near_they_are(
    tmp_path: Path,
) -> None:
    watcher = watcher_of(tmp_path, {0: steadily((0, 10), (22, 60)), 1: steadily((0, 60))})
    report = back(watcher, 10.0, 16.0)
    assert len(report.failures) == 2
    assert report.figures["back to committing, slowest"].value == 12.0


def test_a_partition_that_never_comes_back_is_late(tmp_path: Path) -> None:
    assert back(watcher_of(tmp_path, {0: steadily((0, 50))}), 50.0).failures


def test_a_partition_that_moves_once_and_stands_again_is_late(tmp_path: Path) -> None:
    watcher = watcher_of(tmp_path, {0: steadily((0, 10), (12, 13), (24, 60))})
    (failure,) = back(watcher, 10.0).failures
    assert "stands still" in failure


# Changes of the number of workers -----------------------------------------------------------


def test_a_pause_over_the_edge_of_a_window_counts_whole_on_both_sides(tmp_path: Path) -> None:
    watcher = watcher_of(tmp_path, {0: steadily((0, 6), (14, 30))})
    pauses = rescale.pauses_in(watcher.gaps(0.0, 30.0), [0.0, 10.0, 20.0, 30.0])
    assert pauses == [8.5, 8.5, 0.5]
    report = Report()
    rescale.check_pauses(report, pauses, 3)
    (failure,) = report.failures
    assert "longest pause" in failure


def test_no_pauses_at_all_are_a_failure() -> None:
    report = Report()
    rescale.check_pauses(report, [], 0)
    assert report.failures
    report = Report()
    rescale.check_pauses(report, [0.5] * 15, 16)
    assert report.failures


# Broker and links ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("took_s", "restarted", "good"),
    [
        (29.0, False, True),
        (31.0, False, False),
        (59.0, True, True),
        (61.0, True, False),
        (None, False, False),
        (None, True, False),
    ],
)
def test_only_a_restart_gives_a_worker_more_than_half_a_minute(
    took_s: float | None, restarted: bool, good: bool
) -> None:
    report = Report()
    broker.check_back(report, [broker.Back(1.0, False), broker.Back(took_s, restarted)])
    assert bool(report.failures) is not good


def test_a_worker_that_never_names_the_broker_has_not_noticed() -> None:
    for noticed, good in (([0.5, None], False), ([0.5, 5.5], False), ([0.5, 4.9], True)):
        report = Report()
        broker.check_noticed(report, noticed)
        assert bool(report.failures) is not good


@pytest.mark.parametrize(
    ("noticed_s", "back_s", "ready_s", "n_failures"),
    [(1.0, 1.0, 9.0, 0), (1.0, 1.0, 11.0, 1), (1.0, 1.0, None, 1), (None, None, 1.0, 2)],
)
def test_a_link_that_heals_must_be_good_again_in_time(
    noticed_s: float | None, back_s: float | None, ready_s: float | None, n_failures: int
) -> None:
    report = Report()
    links.note(report, "store down", noticed_s, back_s, ready_s)
    assert len(report.failures) == n_failures


# A store that was set back ------------------------------------------------------------------


def rewinds(falls: list[Fall], set_back: list[store.SetBack], counted: float) -> list[str]:
    report = Report()
    store.check_rewinds(report, falls, set_back, counted)
    return report.failures


def test_falls_where_the_store_was_set_back_and_counted_pass() -> None:
    cuts = [store.SetBack(10.0, 12.0, 2.0), store.SetBack(20.0, 22.0, 0.0)]
    assert not rewinds([Fall(0, 11.0, 9, 5), Fall(1, 11.1, 9, 5)], cuts, 2.0)


def test_a_fall_at_another_time_is_not_excused() -> None:
    (failure,) = rewinds([Fall(0, 15.0, 9, 5)], [store.SetBack(10.0, 12.0, 1.0)], 1.0)
    assert "only where the store was set back" in failure


def test_a_rewind_too_many_after_one_cut_does_not_hide_one_too_few_after_another() -> None:
    cuts = [store.SetBack(10.0, 12.0, 0.0), store.SetBack(20.0, 22.0, 2.0)]
    (failure,) = rewinds([Fall(0, 11.0, 9, 5), Fall(0, 21.0, 9, 5)], cuts, 2.0)
    assert "fault 1: 0 counted, 1 seen" in failure


def test_a_rewind_without_a_cut_is_told() -> None:
    (failure,) = rewinds([], [store.SetBack(10.0, 12.0, 0.0)], 1.0)
    assert "not set back" in failure
