"""What chaos makes links and judges long runs with; small shares: tests/crash/test_chaos.py."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agents.chaos.bed import made_bed
from agents.chaos.drift import drift
from agents.chaos.links import linked


@pytest.mark.timeout(300)
async def test_a_worker_behind_links_has_no_other_way_to_broker_and_store(tmp_path: Path) -> None:
    async with (
        made_bed(tmp_path) as bed,
        linked(bed) as links,
        bed.worker("w0", **links.settings) as worker,
    ):
        await worker.ready()
        assert links.broker.n_open > 3
        assert links.store.n_open > 3
        await links.broker.cut()
        await links.store.cut()
        _, document = await worker.readyz()
        while {"broker", "store"} - {cause["part"] for cause in document["causes"]}:
            _, document = await worker.readyz()
        assert worker.alive()
        await links.broker.heal()
        await links.store.heal()
        await worker.ready()


def test_a_slope_is_found_under_noise_and_peaks() -> None:
    draw = random.Random(1)
    times = [float(second) for second in range(0, 2_400, 30)]
    values = [3.0 * time + draw.gauss(0, 500) + (draw.random() < 0.1) * 50_000 for time in times]
    found = drift(times, values)
    assert found.low < 3.0 < found.high
    assert found.high - found.low < 2.0


def test_what_is_flat_has_an_interval_around_nothing() -> None:
    draw = random.Random(2)
    found = drift(range(100), [draw.gauss(7, 1) for _ in range(100)])
    assert found.low < 0.0 < found.high
