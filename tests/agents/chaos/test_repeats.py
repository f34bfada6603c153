"""Of what a kill may announce twice nothing is held against it, and everything else is."""

from __future__ import annotations

from agents.chaos.repeats import Stand, without_excuse

DEATHS = [Stand((40, 10), (1, 1)), Stand((40, 30), (2, 2)), Stand((90, 30), (3, 3))]
END = Stand((120, 50), (4, 4))
"""Two partitions, three kills, each start acquires once."""


def test_the_last_commit_of_each_partition_may_be_repeated_once_a_kill() -> None:
    assert without_excuse({(0, 40): 2, (0, 90): 1, (1, 10): 1, (1, 30): 2}, DEATHS, END) == {}
    assert without_excuse({}, DEATHS, END) == {}


def test_a_second_repeat_for_one_kill_is_found() -> None:
    assert without_excuse({(0, 90): 2}, DEATHS, END) == {0: 1}
    assert without_excuse({(0, 40): 3, (1, 10): 3}, DEATHS, END) == {0: 1, 1: 2}


def test_a_repeat_of_an_earlier_commit_is_found_however_few_there_are() -> None:
    assert without_excuse({(1, 20): 1}, DEATHS, END) == {1: 1}
    assert without_excuse({(0, 30): 1}, DEATHS, END) == {0: 1}  # another partition stood there


def test_the_batch_after_the_last_kill_has_no_excuse() -> None:
    assert without_excuse({(0, 120): 1}, DEATHS, END) == {0: 1}


def test_a_partition_that_the_group_dealt_anew_may_repeat_once_more() -> None:
    again = Stand((120, 50), (5, 4))
    assert without_excuse({(0, 120): 1}, DEATHS, again) == {}
    assert without_excuse({(0, 120): 2}, DEATHS, again) == {0: 1}
    assert without_excuse({(1, 50): 1}, DEATHS, again) == {1: 1}


def test_a_death_before_an_acquisition_excuses_no_second_one_elsewhere() -> None:
    """The second worker died before it took anything over: epochs stand still."""
    deaths = [Stand((40,), (1,)), Stand((40,), (1,)), Stand((80,), (2,))]
    assert without_excuse({(0, 80): 2}, deaths, Stand((99,), (3,))) == {0: 1}
