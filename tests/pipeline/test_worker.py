"""The updater on a real broker and store: what is appended is folded, once, and nothing else."""

from __future__ import annotations

from pathlib import Path

from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    put_events,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
)


async def test_every_event_is_folded_once_and_a_second_delivery_changes_nothing(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    events = stream_of(5_000, seed=1)
    await put_events(settings, events)
    async with InProcess(settings) as running:
        await all_folded(settings)
        first = await state_of(settings)
        assert first.n_events == len(events)
        assert first.n_profiles == len({event.user_id for event in events})
        await put_events(settings, events)
        await all_folded(settings)
        second = await state_of(settings)
        assert second.digest == first.digest
        assert running.metric("foldstream_events_repeated_total") == len(events)
    report = await rebuilt(settings)
    assert report.agrees
    assert report.digest_live == first.digest
