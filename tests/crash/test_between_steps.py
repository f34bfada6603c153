"""A worker that ends between any two steps leaves the same facts as one that never ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agents.chaos.repeats import repeats_of, stand_of, without_excuse
from agents.chaos.scenario import Report
from agents.chaos.verifier import _check_announcements, _check_dead_letters, fold_log
from agents.settings import Settings
from streams.codec import encode
from streams.events import Event
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    put_raw,
    rebuilt,
    settings_of,
    state_of,
    stream_of,
)
from tests.crash.faults import POINTS, Fault

N_EVENTS = 4_000
NO_EVENT = b"{not an event"


def messages(events: list[Event], seed: int) -> Iterator[tuple[bytes, bytes | None]]:
    """Events, some of them sent again later, and messages that are no events."""
    draw = random.Random(seed)
    for number, event in enumerate(events):
        key = event.user_id.encode()
        yield key, encode(event)
        if draw.random() < 0.1:
            again = events[draw.randrange(number + 1)]
            yield again.user_id.encode(), encode(again)
        if draw.random() < 0.05:
            yield key, NO_EVENT


async def crash_at(settings: Settings, point: str, visit: int) -> None:
    """Run a worker up to a point and leave it there."""
    running = InProcess(settings)
    fault = Fault(running, point, visit)
    await running.start()
    try:
        await asyncio.wait_for(fault.reached.wait(), 60)
    finally:
        await running.abandon()
        await fault.settled()


def rounds_of(events: list[Event], seed: int) -> Iterator[list[tuple[bytes, bytes | None]]]:
    """The messages in as many parts as there are points: whoever lives for a second at one of them
    must leave some for the others."""
    every = list(messages(events, seed))
    size = -(-len(every) // len(POINTS))
    for first in range(0, len(every), size):
        yield every[first : first + size]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_a_stop_between_any_two_steps_loses_and_doubles_nothing(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path, seed: int
) -> None:
    settings = settings_of(
        kafka, redis_url, topics, generation, tmp_path, max_batch_events=40, cache_users=1_000
    )
    events = stream_of(N_EVENTS, seed)
    draw = random.Random(seed)
    deaths = []
    points = draw.sample(POINTS, len(POINTS))
    for point, part in zip(points, rounds_of(events, seed), strict=True):
        await put_raw(settings, part)
        # Once a second, and only while there is something new: of these only the first is sure.
        visit = 1 if point in ("Kafka commit due", "Kafka committed") else draw.randint(1, 4)
        await crash_at(settings, point, visit)
        deaths.append(await stand_of(settings))
    async with InProcess(settings) as last:
        await all_folded(settings)
        assert not last.crashed
    state = await state_of(settings)
    assert state.n_events == N_EVENTS
    report = await rebuilt(settings)  # an undisturbed fold of the same log
    assert report.agrees
    assert report.digest_rebuilt == state.digest
    said = Report()
    expected = await fold_log(settings)
    await _check_announcements(settings, expected, said)
    await _check_dead_letters(settings, expected, said)
    assert not said.failures
    n_refused = sum(value == NO_EVENT for _, value in messages(events, seed))
    assert said.figures["dead letters"].value == n_refused > 0
    repeats = await repeats_of(settings)
    assert without_excuse(repeats, deaths, await stand_of(settings)) == {}


async def test_the_undisturbed_run_has_the_digest_of_a_rebuild(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    """So that the comparison above compares with what a worker makes, too."""
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    await put_raw(settings, messages(stream_of(N_EVENTS, 1), 1))
    async with InProcess(settings):
        await all_folded(settings)
    report = await rebuilt(settings)
    assert report.agrees
    assert report.n_events == N_EVENTS
