"""Under load the broker gathers; in a quiet moment nothing waits."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from streams.events import Click
from streams.manual_reader import ManualReader
from streams.pace import BUSY, QUIET, SCHEDULED, FetchPace, Pace, WorkPace, demand_s
from streams.producer import Producer
from streams.topics import TopicSet


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Fetcher:
    """The two numbers of aiokafka's fetcher that a pace turns."""

    _fetch_min_bytes, _fetch_max_wait_ms = QUIET


class Consumer:
    """An aiokafka consumer as a pace sees it."""

    def __init__(self) -> None:
        self._fetcher = Fetcher()

    @property
    def fetches(self) -> tuple[int, int]:
        return self._fetcher._fetch_min_bytes, self._fetcher._fetch_max_wait_ms


def test_a_burst_is_read_at_once_and_a_steady_stream_is_gathered() -> None:
    clock, consumer = Clock(), Consumer()
    pace = FetchPace(Pace(rate_per_s=50, burst=10, clock=clock))
    for _ in range(9):
        pace.note(consumer, 1)
    assert consumer.fetches == QUIET
    pace.note(consumer, 1)
    assert consumer.fetches == BUSY


def test_after_a_quiet_moment_a_message_comes_at_once_again() -> None:
    clock, consumer = Clock(), Consumer()
    pace = FetchPace(Pace(rate_per_s=50, burst=10, clock=clock))
    for _ in range(20):
        pace.note(consumer, 1)
    assert pace.busy
    clock.now += 0.25
    pace.note(consumer, 0)
    assert pace.busy  # -10 + 12.5: half of the burst must be saved first
    clock.now += 0.1
    pace.note(consumer, 0)
    assert consumer.fetches == QUIET


def test_turns_that_bring_nothing_cost_nothing() -> None:
    clock, consumer = Clock(), Consumer()
    pace = FetchPace(Pace(rate_per_s=50, burst=10, clock=clock))
    for _ in range(1_000):
        pace.note(consumer, 0)
    assert consumer.fetches == QUIET


async def test_aiokafka_reads_what_a_pace_sets(kafka: str, topics: TopicSet) -> None:
    """Both numbers are private to aiokafka; in another version they may have other names."""
    reader = ManualReader(kafka, topics.events.name)
    async with Producer(kafka, topics, client_id="test") as producer:
        await reader.start()
        try:
            fetcher = reader._consumer._fetcher
            assert (fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms) == QUIET
            fetcher._fetch_min_bytes, fetcher._fetch_max_wait_ms = BUSY
            reader.assign({0: 0, 1: 0, 2: 0, 3: 0})
            where = await producer.send_event(Click(user_id="u", item_id="i", ts=1))
            batch = await reader.next_batch(where.partition, 10)
            assert len(batch) == 1
        finally:
            await reader.stop()


def spent(pace: WorkPace) -> list[float]:
    """The pauses of as many turns as use its budget up."""
    return [pace.pause_s() for _ in range(int(pace.saved))]


def test_turns_follow_what_the_thread_has_left_within_bounds() -> None:
    pace = WorkPace(300, (200, 1_000), Clock())
    for _ in range(20):
        spent(pace)
        pace.pause_s()
        pace.follow(busy=0.1)
    assert pace.rate_per_s == 1_000
    pace.follow(busy=0.8)  # neither idle nor busy
    assert pace.rate_per_s == 1_000
    for _ in range(20):
        pace.follow(busy=0.9)
    assert pace.rate_per_s == 200
    assert pace.burst == 50


def test_a_budget_that_is_not_used_up_does_not_grow() -> None:
    pace = WorkPace(300, (200, 1_000), Clock())
    for _ in range(20):
        pace.follow(busy=0.0)
    assert pace.rate_per_s == 300


def test_more_turns_are_shorter_pauses() -> None:
    pace = WorkPace(100, (100, 400), Clock())
    assert spent(pace)[-1] == 0.01  # the 25 that were saved are gone
    for _ in range(10):
        pace.pause_s()
        pace.follow(busy=0.0)
    assert pace.rate_per_s == 400
    assert pace.pause_s() == 12 / 400


def test_waiting_for_a_processor_is_work_to_do(tmp_path: Path) -> None:
    scheduled = tmp_path / "schedstat"
    scheduled.write_text("5000000000 2000000000 17\n")
    before_s = time.thread_time()
    assert before_s + 2 <= demand_s(scheduled) <= time.thread_time() + 2
    for text in ("", "1", "a b c"):
        scheduled.write_text(text)
        assert demand_s(scheduled) <= time.thread_time()
    assert demand_s(tmp_path / "not there") <= time.thread_time()


@pytest.mark.skipif(not SCHEDULED.exists(), reason="the kernel tells no waiting times")
def test_a_thread_that_shares_a_processor_is_as_busy_as_it_would_be_alone() -> None:
    """Two programs that never pause, on one processor: each computes for half of the time."""
    program = (
        "import os, time; from streams.pace import demand_s\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "print('ready', flush=True); input()\n"
        "began, demand, cpu = time.monotonic(), demand_s(), time.thread_time()\n"
        "while time.monotonic() - began < 1: pass\n"
        "passed = time.monotonic() - began\n"
        "print((demand_s() - demand) / passed, (time.thread_time() - cpu) / passed)\n"
    )
    both = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for one in both:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in both:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    for one in both:
        demanded, computed = map(float, one.communicate(timeout=60)[0].split())
        assert computed + 0.2 < demanded < 1.1
