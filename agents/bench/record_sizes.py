"""Bytes of the store for one user, measured in a store of its own: docs/wire.md has the formula.

Records of real customers (online-retail, folded by the product) and of made-up users whose history
lengths follow a stated distribution. Each shop of users gets a new store: memory is freed late.
"""

from __future__ import annotations

import csv
import gzip
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis

from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.profile import HistoryEntry, OwnEntry, Profile
from profiles.record import encode_profile
from profiles.shape import FoldConfig, ModelShape
from profiles.store_keys import Keys
from profiles.table import ProfileTable
from streams.embedded.store import StoreServer

PURCHASES = Path(__file__).parents[2] / "data/online-retail-2011/purchases.csv.gz"
BATCH = 1000
N_KINDS_OF_RECORDS = 20_000
"""Different records of a made-up shop; its users share them, for the store sees only lengths."""

MEAN_EVENTS = 8
"""Of the geometric distribution: an eighth has one event, half six or more, a tenth eighteen."""


@dataclass(frozen=True, slots=True)
class UserBytes:
    """Of one shop of users. record: mean bytes. store: used_memory a user. formula: as told."""

    n_users: int
    record: float
    store: float
    formula: float


def user_bytes(
    n_users: int, record_format: int, shape: ModelShape, on_step: Callable[[str], None]
) -> dict[str, UserBytes]:
    """By shop of users: online-retail's customers, if their purchases are here, and two made up."""
    generator = np.random.default_rng(7)
    lengths = {
        f"geometric, mean {MEAN_EVENTS} events": generator.geometric(
            1 / MEAN_EVENTS, N_KINDS_OF_RECORDS
        ),
        # P(a user has at least n events) = 1/n: half have one, a tenth ten or more.
        "n or more events: 1 of n users": np.minimum(
            1 / (1 - generator.random(N_KINDS_OF_RECORDS)), 10_000
        ).astype(np.int64),
        "everyone 30 events": np.full(5_000, 30),
    }
    ids = [f"u{n:07d}" for n in range(n_users)]
    shops: dict[str, tuple[list[bytes], list[str]]] = {}
    if PURCHASES.exists():
        on_step("folding online-retail's customers")
        retail = online_retail(record_format, shape)
        shops["online-retail's customers"] = list(retail.values()), list(retail)
    for name, drawn in lengths.items():
        shops[name] = list(made_up(drawn.tolist(), generator, record_format, shape)), ids
    found = {}
    for name, (records, user_ids) in shops.items():
        on_step(f"store with {len(user_ids):,} users: {name}")
        n_key = 14 + sum(map(len, user_ids)) // len(user_ids)
        found[name] = UserBytes(
            len(user_ids),
            float(np.mean([len(record) for record in records])),
            measure(records, user_ids),
            float(np.mean([formula(len(record), n_key) for record in records])),
        )
    return found


def formula(n_record: int, n_key: int) -> float:
    """used_memory a user in Valkey 9.1 with the C library's allocator, found by measuring.

    A value has 6 bytes around it, a key with its object 19; while both have less than 115 bytes
    they share one block. The hash table takes 64 bytes for 3.5 to 7 users.
    """

    def block(n: int) -> int:
        return 16 * math.ceil((n + 8) / 16) - 8

    if n_record + n_key < 115:
        return block(n_record + n_key + 24) + 64 / 4.3
    return block(n_record + 6) + block(n_key + 19) + 64 / 4.3


def online_retail(record_format: int, shape: ModelShape) -> dict[str, bytes]:
    """Every customer of a year, folded by the product: purchases and returns of real articles."""
    config = FoldConfig(shape=shape)
    users: list[str] = []
    items: list[str] = []
    times: list[int] = []
    returned: list[bool] = []
    with gzip.open(PURCHASES, "rt", encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            if line["CustomerID"] and line["StockCode"][:5].isdigit():
                users.append(line["CustomerID"])
                items.append(line["StockCode"])
                times.append(int(line["ts_ms"]))
                returned.append(float(line["Quantity"]) <= 0)
    profiles = ProfileTable(config.shape, record_format=record_format)
    table = ItemTable(config.shape, config)
    everyone = list(dict.fromkeys(users))
    profiles.load(everyone, [None] * len(everyone))
    watermark_ms = 0
    for first in range(0, len(users), BATCH):
        part = slice(first, first + BATCH)
        n = len(users[part])
        item_row = table.intern(items[part])
        positive = ~np.array(returned[part])
        batch = Interactions(
            partition=0,
            user_row=profiles.rows(users[part]),
            item_row=item_row,
            item_hash=table.hashes[item_row],
            kind=np.where(positive, 2, 4).astype(np.uint8),
            weight=np.ones(n, np.float32),
            positive=positive.astype(np.uint8),
            time_ms=np.array(times[part], np.int64),
            offset=np.arange(first, first + n),
            token_start=np.zeros(n + 1, np.int32),
            tokens=np.zeros(0, np.uint64),
        )
        watermark_ms = fold_batch(profiles, table, batch, config, watermark_ms).watermark_ms
    return dict(zip(everyone, profiles.pack(profiles.rows(everyone)), strict=True))


def made_up(
    lengths: Sequence[int], generator: np.random.Generator, record_format: int, shape: ModelShape
) -> Iterator[bytes]:
    """A record for each number of events: of ten gaps seven are about a minute, three five days.

    Each event is of another item, none has a session id: the longest own table that n events make.
    """
    for n in lengths:
        now = 1_762_430_400_000 + int(generator.integers(10**9))
        minutes, days = generator.exponential(6e4, n), generator.exponential(5 * 864e5, n)
        gaps = np.where(generator.random(n) < 0.7, minutes, days).astype(np.int64)
        ages = np.cumsum(gaps) - gaps[0]
        events = [
            HistoryEntry(int(generator.integers(2**63)), now - int(age), 1.0, 0)
            for age in ages[: max(shape.history, shape.own_items)]
        ]
        own = [
            OwnEntry(event.item_hash % 2**32, 1, int(n) - a, event.time_ms // 60_000)
            for a, event in enumerate(events[: shape.own_items])
        ]
        profile = Profile(
            first_ms=now - int(ages[-1]),
            last_ms=now,
            last_offset=int(generator.integers(10**7)),
            n_by_kind={0: int(n), 2: 1} if n > 4 else {0: int(n)},
            history=events[: shape.history],
            n_positive=int(n) if own else 0,
            n_sessions=int((gaps > 1_800_000).sum()) if own else 0,
            session_from=int(n) if own else 0,
            own=own,
            long_term=generator.normal(size=64).astype(np.float32) if n >= 5 else None,
            long_term_sum=0.5 if n >= 5 else 0.0,
            vector=generator.normal(size=64).astype(np.float32),
            stamp=int(generator.integers(10**7)),
        )
        yield encode_profile(profile, shape, record_format)


def measure(records: Sequence[bytes], user_ids: Sequence[str]) -> float:
    """used_memory a user of a new server."""
    keys = Keys("fs", "g1", 16)
    with tempfile.TemporaryDirectory() as folder:
        server = StoreServer(Path(folder), ephemeral=True)
        server.start()
        client = redis.Redis.from_url(server.url)
        before = client.info("memory")["used_memory"]
        for first in range(0, len(user_ids), BATCH):
            numbers = range(first, min(first + BATCH, len(user_ids)))
            pairs = {keys.record(n % 16, user_ids[n]): records[n % len(records)] for n in numbers}
            client.mset(pairs)
        client.close()  # its buffers are memory too
        used = client.info("memory")["used_memory"] - before
        client.close()
        server.stop()
    return float(used) / len(user_ids)
