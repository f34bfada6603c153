"""Under load the broker gathers; in a quiet moment nothing waits."""

from __future__ import annotations

from streams.events import Click
from streams.manual_reader import ManualReader
from streams.pace import BUSY, QUIET, FetchPace, Pace, WorkPace
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
