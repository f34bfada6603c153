"""The demonstration's story is in its data: a shopper with a past and a next basket."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from agents.demo import BASKET, DATA, data_file, find_story
from agents.errors import AgentsError, UsageError
from streams.mappings.reader import scan_file


def test_the_story_is_the_same_for_everybody() -> None:
    path = data_file("purchases.csv.gz")
    sha256 = scan_file(path).sha256
    story = find_story(path, sha256, 60_000)
    assert story == find_story(path, sha256, 60_000)
    assert 10 <= story.n_before <= 200
    assert len(story.next_events) == BASKET
    assert {event.user_id for event in story.next_events} == {story.user_id}
    assert len({event.ts for event in story.next_events}) == 1


def test_a_file_without_a_fitting_shopper_is_named(tmp_path: Path) -> None:
    with gzip.open(DATA / "purchases.csv.gz", "rt") as file:
        head = [next(file) for _ in range(50)]
    path = tmp_path / "purchases.csv.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(head)
    with pytest.raises(AgentsError, match=r"purchases\.csv\.gz"):
        find_story(path, "0" * 64, 20)


def test_a_file_that_is_not_there_says_where_the_demo_runs() -> None:
    with pytest.raises(UsageError, match="checkout"):
        data_file("nothing.csv")
