"""The limits: one part of the work alone, so that the share of the tightest one can be seen.

`limits.py ORDER NAME`, NAME one of consume, decode, kernel, kernel-full, store. Each times itself
behind its own warm-up and writes n, seconds and processor seconds to the order's result file.
"""

from __future__ import annotations

import sys
import time

import msgspec
import redis
import uvloop
from aiokafka import AIOKafkaConsumer
from small_work import SMALL, Event, Order, SmallWork, decode, read_order, write_result

from profiles.fold import fold_batch
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from streams.events import event_union

BATCH = 1_000


async def fetch(order: Order, n: int) -> tuple[list[bytes], int, float, float]:
    """The first n values of the topic; how many of them came, in how many seconds of the clock and
    of the processor, behind the first tenth."""
    consumer = AIOKafkaConsumer(
        order.topic,
        bootstrap_servers=order.kafka,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    values: list[bytes] = []
    began, cpu_s, before = 0.0, 0.0, 0
    try:
        while len(values) < n:
            for records in (await consumer.getmany(timeout_ms=200, max_records=4_000)).values():
                values.extend(record.value for record in records)
            if not began and len(values) >= n // 10:
                began, before = time.perf_counter(), len(values)
                cpu_s = time.process_time()
    finally:
        ended, cpu_s = time.perf_counter(), time.process_time() - cpu_s
        await consumer.stop()
    return values, len(values) - before, ended - began, cpu_s


def consume(order: Order) -> None:
    """aiokafka's getmany, values kept and not looked at."""
    _, n, seconds, cpu_s = uvloop.run(fetch(order, order.n_events))
    write_result(order, n, seconds, cpu_s)


def decode_only(order: Order) -> None:
    """msgspec: each value into the tagged union with all its bounds."""
    values, _, _, _ = uvloop.run(fetch(order, min(order.n_events, 100_000)))
    decoder = msgspec.json.Decoder(event_union())
    began, cpu_s = time.perf_counter(), time.process_time()
    for value in values:
        decoder.decode(value)
    took_s = time.perf_counter() - began
    write_result(order, len(values), took_s, time.process_time() - cpu_s)


def kernel(order: Order, config: FoldConfig) -> None:
    """fold_batch on columns made before, all profiles in memory."""
    values, _, _, _ = uvloop.run(fetch(order, min(order.n_events, 200_000)))
    events: list[Event] = [decode(value) for value in values]
    work = SmallWork(config)
    work.warm_up()
    profiles = ProfileTable(work.shape)
    user_ids = list({event.user_id for event in events})
    profiles.load(user_ids, [None] * len(user_ids))
    batches = [
        work.columns(events[first : first + BATCH], profiles)
        for first in range(0, len(events), BATCH)
    ]
    n_warm = len(batches) // 10
    began, cpu_s, n, watermark_ms = 0.0, 0.0, 0, 0
    for number, batch in enumerate(batches):
        if number == n_warm:
            began, cpu_s = time.perf_counter(), time.process_time()
        watermark_ms = fold_batch(profiles, work.items, batch, config, watermark_ms).watermark_ms
        n += len(batch) if number >= n_warm else 0
    write_result(order, n, time.perf_counter() - began, time.process_time() - cpu_s)


def store(order: Order) -> None:
    """redis-py with hiredis: MSET of records as large as those of the run, 1,000 at a time."""
    work = SmallWork()
    events = [Event(f"u{user}", f"i{item}", 1) for user in range(BATCH) for item in range(6)]
    user_ids = [f"u{user}" for user in range(BATCH)]
    records = work.fold(events, user_ids, [None] * BATCH)
    client = redis.Redis.from_url(order.redis)
    n_batches = max(20, min(order.n_events, 200_000) // BATCH)
    began = cpu_s = 0.0
    for number in range(n_batches + 2):
        if number == 2:
            began, cpu_s = time.perf_counter(), time.process_time()
        keys = [f"{order.prefix}:{number % 50}:{user_id}" for user_id in user_ids]
        client.mset(dict(zip(keys, records, strict=True)))
    took_s = time.perf_counter() - began
    write_result(order, n_batches * BATCH, took_s, time.process_time() - cpu_s)
    client.close()


if __name__ == "__main__":
    asked = read_order()
    match sys.argv[2]:
        case "consume":
            consume(asked)
        case "decode":
            decode_only(asked)
        case "kernel":
            kernel(asked, SMALL)
        case "kernel-full":
            kernel(asked, FoldConfig())
        case "store":
            store(asked)
        case other:
            raise SystemExit(f"no limit named {other}")
