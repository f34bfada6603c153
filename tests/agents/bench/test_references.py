"""References and limits do the work they are measured by."""

from __future__ import annotations

import pytest
import redis

from agents.bench.bed import made_bed
from agents.bench.throughput import SYSTEMS, ratios, throughput
from profiles.record import decode_profile
from profiles.shape import ModelShape


def test_both_agents_and_all_limits_run_to_their_end_and_leave_readable_profiles(
    kafka: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
):
    chosen = tuple(system for system in SYSTEMS if system.settings is None)
    seen: list[str] = []
    monkeypatch.setattr("agents.bench.throughput.drop_keys", lambda store, prefix: None)
    with (
        made_bed(kafka, redis_url, 4, lambda step: None) as bed,
        redis.Redis.from_url(redis_url) as store,
    ):
        report = throughput(bed, chosen, 10_000, 1, lambda what, done, n: seen.append(what))
        keys = list(store.scan_iter(match=f"{bed.name}-faust_take-1:*", count=5_000))
        records = [decode_profile(record, ModelShape()) for record in store.mget(keys)]
    assert set(report.rates) == {system.name for system in chosen}
    assert all(rate.min > 0 for rate in report.rates.values())
    assert all(report.cpu_us[name]["system"] > 0 for name in report.rates)
    assert report.settings["events"]["faust_per_event"] == 400
    assert "faust_take" in seen
    assert sum(profile.n_events for profile in records) >= 2_000
    assert all(profile.history for profile in records)


def test_a_worker_of_ours_is_measured_by_its_checkpoints(kafka: str, redis_url: str):
    chosen = tuple(system for system in SYSTEMS if system.name == "foldstream_small")
    counts: list[int] = []
    with made_bed(kafka, redis_url, 4, lambda step: None) as bed:
        report = throughput(bed, chosen, 40_000, 1, lambda what, done, n: counts.append(done))
    assert counts[-1] == 40_000
    assert report.rates["foldstream_small"].min > 0
    assert report.cpu_us["foldstream_small"]["system"] > 0


@pytest.mark.parametrize(
    ("rates", "names"),
    [
        ({"faust_take": [1.0]}, []),
        ({"foldstream_small": [6.0], "faust_take": [1.0]}, ["foldstream_small / faust_take"]),
        (
            {"foldstream_full": [6.0], "limit_kernel_small": [1.0], "limit_store": [9.0]},
            ["foldstream_full / tightest limit (limit_store)"],
        ),
        (
            {
                "foldstream_scored": [4.0],
                "foldstream_small": [6.0],
                "limit_kernel_small": [7.0],
                "limit_store": [9.0],
            },
            [
                "foldstream_small / tightest limit (limit_kernel_small)",
                "foldstream_scored / foldstream_small",
                "foldstream_scored / tightest limit (limit_store)",
            ],
        ),
    ],
    ids=["none of ours", "one reference", "not the other kernel's limit", "ours beside ours"],
)
def test_ratios_are_made_of_what_was_run(rates: dict[str, list[float]], names: list[str]):
    assert list(ratios(rates)) == names
