"""A check folds up to exactly the live position, and refuses what it can't know."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from agents.rebuild import RebuildReport, cut
from streams.batch import RawBatch
from streams.errors import OffsetGap
from streams.topics import TopicSet
from tests.builders import InProcess, all_folded, put_events, rebuilt, settings_of, stream_of


def batch(start: int, end: int, *offsets: int) -> RawBatch:
    return RawBatch(1, start, end, [SimpleNamespace(offset=offset) for offset in offsets])  # type: ignore[misc]


def offsets(raw: RawBatch | None) -> tuple[int, int, list[int]] | None:
    return None if raw is None else (raw.start, raw.end, [record.offset for record in raw.records])


@pytest.mark.parametrize(
    ("target", "within", "beyond"),
    [
        (10, (0, 10, [1, 4, 9]), None),
        (12, (0, 10, [1, 4, 9]), None),
        (9, (0, 9, [1, 4]), (9, 10, [9])),
        (6, (0, 6, [1, 4]), (6, 10, [9])),  # in a gap
        (1, (0, 1, []), (1, 10, [1, 4, 9])),
    ],
)
def test_a_batch_is_cut_at_the_live_position(
    target: int, within: tuple[int, int, list[int]], beyond: tuple[int, int, list[int]] | None
) -> None:
    first, rest = cut(batch(0, 10, 1, 4, 9), target)
    assert offsets(first) == within
    assert offsets(rest) == beyond


def test_a_report_agrees_only_when_all_was_compared() -> None:
    def report(n_differences: int, moving: list[int]) -> RebuildReport:
        return RebuildReport(
            generation="g",
            n_profiles=1,
            n_events=1,
            digest_live="",
            digest_rebuilt="",
            differences=[],
            n_differences=n_differences,
            moving=moving,
        )

    assert report(0, []).agrees
    assert not report(1, []).agrees
    assert not report(0, [3]).agrees


async def test_a_log_that_lost_its_beginning_is_refused(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    await put_events(settings, stream_of(400, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        place = TopicPartition(topics.events.name, 2)
        await admin.delete_records({place: RecordsToDelete(before_offset=10)})
    finally:
        await admin.close()
    with pytest.raises(OffsetGap, match=r"partition 2 starts at offset 10.*rebuild --into") as lost:
        await rebuilt(settings)
    assert lost.value.gap == (0, 10)
    async with InProcess(settings) as running:  # the worker needs no beginning
        await put_events(settings, stream_of(50, seed=2))
        await all_folded(settings)
        assert not running.crashed
