"""The evaluator: windows, repeats, breaks; and through a broker to a topic and the metrics."""

import asyncio
from collections.abc import AsyncIterator

import msgspec
import numpy as np
import pytest_asyncio

from agents.dashboard.quality import quality_table
from agents.evaluator import Evaluator
from agents.metrics import Metrics
from agents.updater import wall_clock_ms
from agents.windows import Window, Windows
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.topics import TopicSet
from streams.trials import MISS, Trial, TrialBatch, encode_trials


def trial(offset: int, rank: float = 1.0, **more: object) -> Trial:
    values = {"popularity": 30.0, "iknn": 5.0, "n_history": 1, "n_item": 9, "n_seen": 50}
    return msgspec.convert(
        {"offset": offset, "ts": 1_000 + offset, "rank": rank, "top": ["a", "b"], **values, **more},
        Trial,
    )


def test_a_window_holds_the_newest_trials_and_misses_count() -> None:
    windows = Windows(4)
    windows.take(0, [trial(n, MISS) for n in range(10)])
    windows.take(1, [trial(0), trial(1)])
    window = windows.window()
    assert window is not None
    assert (window.n, window.since_ms, window.models["FOLD"].hr20) == (4, 1_000, 0.5)
    assert (window.models["popularity"].hr20, window.models["item-kNN"].hr20) == (0.0, 1.0)
    assert window.coverage == 0.04


def test_slices_are_by_history_and_by_item() -> None:
    windows = Windows(100)
    windows.take(0, [trial(0, n_history=0, n_item=0), trial(1, 50.0, n_history=7)])
    window = windows.window()
    assert window is not None
    assert window.slices["users with 0 events"]["FOLD"].hr20 == 1.0
    assert window.slices["users with 5+"]["FOLD"].hr20 == 0.0
    assert window.slices["items seen 0 times"]["FOLD"].n == 1


def test_a_trial_that_comes_again_counts_once() -> None:
    windows = Windows(100)
    assert windows.take(0, [trial(0), trial(1)])[0] == 2
    assert windows.take(0, [trial(1), trial(2)])[0] == 1
    assert windows.take(1, [trial(1)])[0] == 1


def test_a_hit_rate_that_falls_is_marked_as_a_break_of_that_model_alone() -> None:
    random = np.random.default_rng(0)
    hits = np.concatenate([random.random(2_000) < 0.5, random.random(2_000) < 0.2])
    windows = Windows(1_000)
    _, breaks = windows.take(0, [trial(n, 1.0 if hit else MISS) for n, hit in enumerate(hits)])
    assert {found.model for found in breaks} == {"FOLD"}
    assert breaks[0].before > breaks[0].after
    assert 2_000 < breaks[0].ts - 1_000 < 2_600


def test_the_panel_says_what_to_do_without_trials_and_shows_figures_with_them() -> None:
    assert "trials_sampling" in quality_table(None)
    windows = Windows(10)
    windows.take(0, [trial(n) for n in range(5)])
    page = quality_table(windows.window())
    assert "item-kNN" in page
    assert "&lt;" not in page


@pytest_asyncio.fixture
async def producer(kafka: str, topics: TopicSet) -> AsyncIterator[Producer]:
    async with Producer(kafka, topics) as made:
        yield made


async def test_windows_reach_the_topic_and_the_metrics(
    kafka: str, topics: TopicSet, producer: Producer
) -> None:
    metrics = Metrics()
    evaluator = Evaluator(
        kafka, topics.trials.name, producer, metrics, 100, wall_clock_ms, publish_s=0.05
    )
    batch = TrialBatch(partition=2, trials=[trial(n) for n in range(20)])
    await producer.send_trials(2, encode_trials(batch))
    await producer.send_trials(2, b"no trial")
    async with TopicTail(kafka, topics.metrics.name, from_beginning=True) as tail, evaluator:
        async with asyncio.timeout(30):
            async for records in tail.records():
                window = msgspec.json.decode(records[-1].value, type=Window)
                break
    assert (window.n, window.models["FOLD"].mrr20) == (20, 1.0)
    labels = {"model": "item-kNN", "slice": "all"}
    assert metrics.registry.get_sample_value("foldstream_trial_hit_rate", labels) == 1.0
    assert metrics.registry.get_sample_value("foldstream_trials_total") == 20
