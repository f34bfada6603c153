"""How much item learning is kept over a kill is told by snapshot and topic alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents.chaos.scenario import Report
from agents.chaos.scenarios.kill import LOST, Learning, told_since
from agents.settings import load_settings
from profiles.store_items import Lineage, StoredSnapshot
from streams.item_deltas import ItemDeltas, encode_deltas
from streams.producer import Producer
from streams.topics import TopicSet


async def test_messages_behind_the_snapshot_count_each_once(kafka: str, topics: TopicSet) -> None:
    settings = load_settings(
        {"kafka": kafka, "topic_prefix": topics.prefix, "partitions": topics.partitions},
        environment={},
    ).settings
    hello = ItemDeltas("g1", "w0-a", base="1-x-1")
    messages = [
        ItemDeltas("g1", "w0-a", seq=1, base="1-x-1", covers={0: 90}),  # before the snapshot's
        ItemDeltas("g1", "w0-a", seq=2, base="1-x-1", covers={0: 10}),
        ItemDeltas("g1", "w0-a", seq=3, base="1-x-1", covers={0: 20, 1: 5}),
        hello,  # only says that it listens
        ItemDeltas("g1", "w1-b", seq=1, base="1-x-1", covers={1: 7, 2: 3}),
        ItemDeltas("g1", "w0-a", seq=4, base="1-x-1", covers={0: 15}),
    ]
    async with Producer(kafka, settings.topics()) as producer:
        for message in messages:
            await producer.send_item_deltas(message.sender, encode_deltas(message))

    def snapshot(base: str, included: dict[str, int], next_offset: int) -> StoredSnapshot:
        return StoredSnapshot(b"", {}, {0: 12, 2: 1}, "1-x-2", Lineage(base, included, next_offset))

    said = {0: 90, 1: 7, 2: 3}
    held = snapshot("1-x-1", {"w0-a": 2}, 1)
    assert await told_since(settings, held) == ({0: 20, 1: 7, 2: 3}, said)
    newer = snapshot("1-x-1", {"w0-a": 3}, 1)
    assert await told_since(settings, newer) == ({0: 15, 1: 7, 2: 3}, said)
    # An empty table has no beginning for any of them.
    assert await told_since(settings, None) == ({}, said)
    silent = settings.model_copy(update={"exchange_bytes_per_s": 0})
    assert await told_since(silent, held) == ({0: 12, 2: 1}, {})


class Told:
    """A worker of which only the count on its metrics page matters; None: it gives no answer."""

    def __init__(self, lost: float | None) -> None:
        self.lost = lost

    async def get(self, path: str) -> str | None:
        assert path == "/metrics"
        return None if self.lost is None else f"{LOST} {self.lost}\n"


@pytest.mark.parametrize(
    ("behind", "later", "spare", "fails"),
    [
        ((5, 0), (5, 0), 0, False),
        ((5, 0), (5, 12), 0, True),
        ((5, 0), (8, 0), 3, False),  # what a worker that ran on may still count
        ((5, 0), (9, 0), 3, True),
        ((5, 0), (2, 0), 0, True),  # another process by now
        ((None, 0), (40, 0), 0, False),  # nobody knows what it had counted
        ((5, 0), (None, 0), 0, False),
    ],
)
async def test_what_is_counted_long_after_a_kill_is_no_loss_of_it(
    behind: tuple[float | None, ...], later: tuple[float | None, ...], spare: int, fails: bool
) -> None:
    report = Report()
    learning = Learning(cast("Any", SimpleNamespace(settings=lambda: None)), report)
    told = [Told(lost) for lost in behind]
    workers = cast("Any", told)
    await learning.note_counted(workers, spare)
    for worker, lost in zip(told, later, strict=True):
        worker.lost = lost
    await learning.since_last(workers)
    assert bool(report.failures) == fails
    assert report.n_checks == 1
