"""Rates come from the steady part of a run; a late probe is late in the percentiles."""

from __future__ import annotations

import math

import pytest

from agents.bench.figures import (
    BenchFailed,
    Sample,
    figure,
    percentile,
    ratio,
    steady_rate,
)


def test_the_first_tenth_of_a_run_is_not_measured():
    slow_start = [Sample(0.0, 0), Sample(60.0, 100), Sample(61.0, 600), Sample(62.0, 1_000)]
    rate = steady_rate(slow_start, 1_000)
    assert rate.n_events == 900
    assert rate.seconds == pytest.approx(2.0)
    assert rate.events_per_s == pytest.approx(450.0)


def test_what_comes_after_the_last_event_asked_for_is_not_waited_for():
    samples = [Sample(0.0, 0), Sample(1.0, 100), Sample(2.0, 1_100), Sample(99.0, 5_000)]
    assert steady_rate(samples, 1_000).events_per_s == pytest.approx(1_000.0)


def test_processor_time_is_that_of_the_steady_part():
    samples = [
        Sample(0.0, 0, {"system": 0.0}),
        Sample(1.0, 100, {"system": 5.0}),
        Sample(2.0, 1_100, {"system": 5.5}),
    ]
    assert steady_rate(samples, 1_000).cpu_us["system"] == pytest.approx(500.0)


@pytest.mark.parametrize(
    "samples",
    [[], [Sample(0.0, 0)], [Sample(0.0, 0), Sample(1.0, 1_000)]],
    ids=["nothing", "no progress", "one jump"],
)
def test_a_run_too_short_to_measure_says_so(samples: list[Sample]):
    with pytest.raises(BenchFailed, match="--events"):
        steady_rate(samples, 1_000)


def test_ratios_are_taken_within_a_repeat():
    quiet_then_busy = [100.0, 10.0]
    assert ratio(quiet_then_busy, [10.0, 1.0]).values == [10.0, 10.0]


def test_a_figure_keeps_its_values_in_the_order_of_the_repeats():
    found = figure([3.0, 1.0, 2.0])
    assert (found.median, found.min, found.max, found.values) == (2.0, 1.0, 3.0, [3.0, 1.0, 2.0])


def test_a_percentile_that_falls_on_a_late_probe_is_late():
    one_in_ten_late = [1.0] * 9 + [math.inf]
    assert percentile(one_in_ten_late, 0.9) == 1.0
    assert percentile(one_in_ten_late, 0.99) is None


def test_no_probe_gives_no_percentile():
    assert percentile([], 0.5) is None
