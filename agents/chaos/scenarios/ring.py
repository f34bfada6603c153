"""A ring of fake users pushes one item: facts stay right, and how far the item moves is measured.

No guard bounds the drift; the figures are what one has to beat.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.chaos.bed import Bed
from agents.chaos.item_state import stored_items
from agents.chaos.scenario import Plan, Report, Scenario
from agents.chaos.verifier import fold_log, reaches_end, verify
from agents.chaos.watcher import Watcher
from agents.settings import Settings
from agents.simulate.ring import Ring, RingConfig
from agents.simulate.shop import Shop, ShopConfig
from agents.store_access import fold_config_of, store_of
from profiles.items import ItemTable
from profiles.record import decode_profile
from profiles.serving import Scorer
from profiles.table import ProfileTable
from streams.bulk import BulkProducer

N_EVENTS = 200_000
N_BAITS = 10
RING_SHARE = 0.1
"""Of the traffic while the ring is at work: far more than a shop would overlook."""

N_ASKED = 500
TOP = 20


@dataclass(frozen=True, slots=True)
class Standing:
    """How an item stands: its vector, and what honest users would be shown.

    rank: the median over honest users (1 is the best), by vectors alone; shown: the share of them
    that have it among the first `TOP`.
    """

    vector: NDArray[np.float32]
    rank: float
    shown: float


async def _ring(bed: Bed, draw: random.Random, report: Report, plan: Plan) -> None:
    settings = bed.settings()
    n = plan.scaled(N_EVENTS, 6_000) // 2
    shop = Shop(ShopConfig(n_users=2_000, n_items=1_000, seed=plan.seed))
    by_popularity = np.argsort(-shop.catalogue.popularity)
    baits = tuple(f"i{row}" for row in by_popularity[:N_BAITS])
    async with Watcher(bed) as watcher, bed.worker("w0") as worker:
        await worker.ready()
        await _send(settings, shop, None, n)
        await reaches_end(settings, report)
        table = await _items(settings)
        seen = [f"i{row}" for row in by_popularity if table.row(f"i{row}") is not None]
        target, other = seen[6 * len(seen) // 10 :][:2]  # seldom looked at, and its neighbour
        ring = Ring(RingConfig(target, baits), plan.seed)
        before = await _standings(settings, (target, other))
        await _send(settings, shop, ring, n)
        expected = await verify(bed, report, watcher)
        after = await _standings(settings, (target, other))
        report.check((await worker.readyz())[0] == 200, "the worker is ready")
    users = {user for oracle in expected.partitions for user in oracle.users}
    report.figure("fake users", sum(map(ring.is_fake, users)))
    report.figure("events of the ring", ring.n_events, f"of {expected.n_events}")
    for name, item in (("pushed item", target), ("item beside it", other)):
        was, now = before[item], after[item]
        report.figure(f"{name}: drift, 1 - cosine", round(1 - _cosine(was.vector, now.vector), 3))
        report.figure(f"{name}: median rank", f"{was.rank:.0f} -> {now.rank:.0f}")
        report.figure(f"{name}: among the first {TOP}", f"{was.shown:.1%} -> {now.shown:.1%}")
    report.note("the drift is measured, not bounded")


async def _send(settings: Settings, shop: Shop, ring: Ring | None, n: int) -> None:
    """n events of the shop, and the ring's share on top of each chunk."""
    topic = settings.topics().events.name
    producer = BulkProducer(settings.kafka, "chaos-ring")
    await producer.start()
    try:
        for chunk in shop.stream(n):
            for key, value in zip(chunk.keys, chunk.values, strict=True):
                await producer.put(topic, key, value)
            if ring is not None:
                n_fake = round(len(chunk) * RING_SHARE / (1 - RING_SHARE))
                for key, value in ring.messages(n_fake, shop.time_ms()):
                    await producer.put(topic, key, value)
        await producer.flush()
    finally:
        await producer.stop()


async def _items(settings: Settings) -> ItemTable:
    """The item table with all that is in the log."""
    return await stored_items(settings, (await fold_log(settings)).ends)


async def _standings(settings: Settings, items: tuple[str, ...]) -> dict[str, Standing]:
    """How items stand with honest users now; everything sent must be folded."""
    table = await _items(settings)
    config = fold_config_of(settings)
    asked: dict[str, bytes] = {}
    async with store_of(settings) as store:
        async for user, record in store.iter_records():
            known = decode_profile(record, config.shape, user).history
            if known and user.startswith("u") and len(asked) < N_ASKED:
                asked[user] = record
    profiles = ProfileTable(config.shape)
    profiles.load(list(asked), list(asked.values()))
    rows = profiles.rows(list(asked))
    times_ms, sessions = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint32)
    users = Scorer(config).users(table.model, profiles.columns, rows, times_ms, sessions)
    scores = users.x @ table.columns.vectors[: len(table)].T  # (U, I)
    standings = {}
    for item in items:
        row = table.row(item)
        assert row is not None  # it was seen before the ring began
        ranks = 1 + (scores > scores[:, [row]]).sum(axis=1)
        standings[item] = Standing(
            table.columns.vectors[row].copy(), float(np.median(ranks)), float((ranks <= TOP).mean())
        )
    return standings


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


SCENARIOS = (
    Scenario(
        name="fake-users",
        title="300 fake users push one item with a tenth of the traffic",
        promise="facts stay right; how far the item's vector moves is measured",
        default_minutes=2.0,
        run=_ring,
        timed=False,
    ),
)
