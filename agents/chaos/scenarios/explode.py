"""Numbers that should explode: in the fold itself, and through Kafka with extreme settings.

Also what a shop's clocks, prices and users can do at worst: events from 1970 and 2100, prices at
both ends, the same pair over and over, one user with a third of all traffic.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter

import numpy as np

from agents.chaos.bed import Bed
from agents.chaos.exploding import CASES, explode
from agents.chaos.item_state import stored_items
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import Expected, verify
from agents.chaos.watcher import Watcher
from agents.settings import Settings
from agents.store_access import fold_config_of, store_of
from profiles.record import decode_profile
from streams.bulk import BulkProducer

N_FOLDED = 1_000_000
"""Of one pair over and over; the other cases get a tenth."""

N_EVENTS = 50_000
LOUD = "loud"
EXTREME = {
    "learning_rate": 1.0,
    "history": 200,
    "n_factors": 32,
    "n_recent_negatives": 256,
    "n_uniform_negatives": 256,
    "popularity_half_life_s": 1e-6,
    "kinds": [{"name": "whisper", "weight": 0.001}, {"name": "shout", "weight": 1.0}],
}
"""What settings allow at most and at least."""

CLOCKS = (0, 1, 1_000_000, 4_102_444_800_000, 4_102_444_799_999)
PRICES = (0, -0.0, 5e-324, 1e-300, 0.01, 999_999_999.99, 1_000_000_000)


async def _explode(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    for case in CASES:
        n = plan.scaled(N_FOLDED if case.pair else N_FOLDED // 10, 2_000)
        result = await asyncio.to_thread(explode, case, n, plan.seed)
        report.figure(f"{case.name}: largest number", float(f"{result.largest:.3g}"))
        report.figure(f"{case.name}: clipped", result.n_clipped, f"of {n}")
        report.check(
            not result.wrong and result.n_folded == n,
            f"{case.name}: every stored number is finite",
            "; ".join(result.wrong),
        )
        if "1e30" in case.name:
            report.check(
                result.n_clipped >= n, f"{case.name}: clips are counted", str(result.n_clipped)
            )
    await _through_kafka(bed, draw, report, plan)


async def _through_kafka(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    settings = bed.settings()
    n = plan.scaled(N_EVENTS, 3_000)
    async with Watcher(bed) as watcher, bed.worker("w0") as worker:
        await worker.ready()
        await _send(settings, draw, n)
        expected = await verify(bed, report, watcher)
        report.check((await worker.readyz())[0] == 200, "the worker is ready")
        report.figure("steps clipped", await worker.metric("foldstream_model_steps_clipped_total"))
        await _check_watermarks(settings, report)
        await _check_numbers(settings, expected, report)
    of_loud = sum(user == LOUD for oracle in expected.partitions for _, user in oracle.folded)
    report.figure("share of one user", round(of_loud / expected.n_events, 3))


async def _send(settings: Settings, draw: random.Random, n: int) -> None:
    """Events at the edges; every twentieth is sent twice, at once or much later."""
    producer = BulkProducer(settings.kafka, "chaos-explode")
    await producer.start()
    topic = settings.topics().events.name
    waiting: list[tuple[bytes, bytes]] = []
    try:
        for number in range(n):
            user = LOUD if number % 3 == 0 else f"u{draw.randrange(200)}"
            event = {
                "type": draw.choice(("click", "whisper", "shout", "purchase", "review", "return")),
                "user_id": user,
                # The loud one clicks one pair; its last item again learns nothing, so two in turn.
                "item_id": f"i{number % 2}" if user == LOUD else f"i{draw.randrange(60)}",
                "ts": draw.choice((*CLOCKS, 1_750_000_000_000 + number)),
                "event_id": str(number),
                "price": draw.choice(PRICES),
                "quantity": draw.choice((1, 1_000_000)),
                "rating": draw.choice((0, 2.9999999, 3, 5)),
                "position": draw.choice((0, 100_000)),
            }
            message = (user.encode(), json.dumps(event).encode())
            await producer.put(topic, *message)
            if number % 20 == 0:
                waiting.append(message)
            if waiting and draw.random() < 0.05:
                await producer.put(topic, *waiting.pop(draw.randrange(len(waiting))))
            if number % 500 == 0:
                await asyncio.sleep(0)
        for message in waiting:
            await producer.put(topic, *message)
        await producer.flush()
    finally:
        await producer.stop()


async def _check_watermarks(settings: Settings, report: Report) -> None:
    """An event from 2100 moves no clock: the append time is the end of what it can say."""
    now_ms = time.time_ns() // 1_000_000
    async with store_of(settings) as store:
        found = [await store.read_checkpoint(p) for p in range(settings.partitions)]
    latest = max(checkpoint.watermark_ms for checkpoint in found if checkpoint is not None)
    report.check(
        latest <= now_ms + 1_000, "no watermark is later than now", f"{latest - now_ms} ms ahead"
    )


async def _check_numbers(settings: Settings, expected: Expected, report: Report) -> None:
    """Every vector, sum and count in the store is finite."""
    config = fold_config_of(settings)
    wrong: Counter[str] = Counter()
    largest = 0.0
    async with store_of(settings) as store:
        async for user, record in store.iter_records():
            profile = decode_profile(record, config.shape, user)
            if profile.long_term is not None:
                wrong["profiles"] += not np.isfinite(profile.long_term).all()
                largest = max(largest, float(np.abs(profile.long_term).max()))
            wrong["profiles"] += not np.isfinite(profile.long_term_sum)
    table = await stored_items(settings, expected.ends)
    for name in ("vectors", "sums", "counts"):
        column = getattr(table.columns, name)[: len(table)]
        wrong[name] += int(np.count_nonzero(~np.isfinite(column)))
        largest = max(largest, float(np.abs(column).max()))
    report.figure("largest number in the store", float(f"{largest:.4g}"))
    report.check(wrong.total() == 0, "every number in the store is finite", str(dict(wrong)))


SCENARIOS = (
    Scenario(
        name="explode",
        title="weight 1e30, one pair 1,000,000 times, denormals, rate 10, extreme settings",
        promise="no number that is not finite is stored; clips are counted; facts are right",
        default_minutes=4.0,
        run=_explode,
        settings=EXTREME,
        timed=False,
    ),
)
