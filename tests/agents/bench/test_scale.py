"""The matrix changes one size at a time; users of before have profiles that a worker reads."""

from __future__ import annotations

import redis

from agents.bench.bed import made_bed
from agents.bench.scale import DEFAULT, Point, points, put_users, scale
from profiles.record import decode_profile
from profiles.shape import ModelShape
from profiles.store_keys import Keys
from streams.partitioner import partition_of


def test_each_point_differs_from_the_default_in_one_size():
    found = points({"users": [50_000, 10_000], "history": [50], "workers": [2, 4]})
    assert found["default"] == DEFAULT
    assert len(found) == 7
    assert found["users 10,000"] == Point(users=10_000)
    assert found["workers 4, no exchange"] == Point(workers=4, exchange=False)


def test_every_user_has_a_profile_where_a_worker_looks_for_it(redis_url: str, generation: str):
    name = generation[:20]
    with redis.Redis.from_url(redis_url) as store:
        put_users(store, name, Point(users=2_500, history=50, partitions=4))
        keys = Keys(name, "g1", 4)
        for user in (0, 1_999, 2_499):
            record = store.get(keys.record(partition_of(f"u{user}", 4), f"u{user}"))
            assert decode_profile(record, ModelShape(history=50)).n_events > 0
        assert len(list(store.scan_iter(match=f"{name}:g1:*", count=5_000))) == 2_500


def test_two_workers_fold_what_one_does_with_and_without_the_exchange(kafka: str, redis_url: str):
    seen: list[tuple[str, int, int]] = []
    small = {
        name: Point(1_000, 100, 10, 4, point.workers, point.exchange)
        for name, point in points({"workers": [2]}).items()
    }
    with made_bed(kafka, redis_url, 4, lambda step: None) as bed:
        report = scale(bed, small, 10_000, 1, lambda *progress: seen.append(progress))
    assert list(report.tables["rates"].rows) == ["default", "workers 2", "workers 2, no exchange"]
    assert all(row["events/s"].min > 0 for row in report.tables["rates"].rows.values())
    assert "share lost to the exchange, workers 2" in report.tables["ratios"].rows
    measured = report.tables["rates"].rows["workers 2"]["us of workers"].min > 0
    shares = report.tables["ratios"].rows
    assert ("the same of the workers' processor time, workers 2" in shares) == measured
    assert all(row["bytes to store"].min > 20 for row in report.tables["rates"].rows.values())
    assert {done for what, done, _ in seen if what.startswith("workers 2 (")} >= {0, 10_000}
    with redis.Redis.from_url(redis_url) as store:
        assert list(store.scan_iter(match=f"{bed.name}*", count=5_000)) == []
