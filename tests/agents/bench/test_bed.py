"""A bench on somebody's broker and store takes away what it brought."""

from __future__ import annotations

import asyncio
import time

import redis

from agents.bench.bed import made_bed
from streams.topics import partition_counts


def test_topics_and_keys_of_the_run_are_gone_afterwards(kafka: str, redis_url: str):
    with made_bed(kafka, redis_url, 2, lambda step: None) as bed:
        names = [topic.name for topic in bed.topics.all()]
        assert len(asyncio.run(partition_counts(kafka, names))) == len(names)
        with redis.Redis.from_url(redis_url) as store:
            store.set(f"{bed.name}:x", b"1")
    give_up = time.monotonic() + 20.0  # a deleted topic stays in a broker's metadata for a moment
    while asyncio.run(partition_counts(kafka, names)):
        assert time.monotonic() < give_up
    assert not bed.folder.exists()
    with redis.Redis.from_url(redis_url) as store:
        assert list(store.scan_iter(match=f"{bed.name}*")) == []
