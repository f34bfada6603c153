"""Bytes of the store for one user, measured in a store of its own: docs/wire.md has the table.

    python tests/bench/bytes_per_user.py [--users 1000000] [--format 2] [--own-items 20]

Prints for each shop of users the mean record, the store's memory a user (used_memory before and
after, keys and hash table included), the formula, and GiB for a million users.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import redis

from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.profile import HistoryEntry, OwnEntry, Profile
from profiles.record import encode_profile
from profiles.shape import OWN_FORMAT, RECORD_VERSION, FoldConfig, ModelShape
from profiles.store_keys import Keys
from profiles.table import ProfileTable
from streams.embedded.store import StoreServer

PURCHASES = Path(__file__).parents[2] / "data/online-retail-2011/purchases.csv.gz"
BATCH = 1000
N_KINDS_OF_RECORDS = 20_000
"""Different records of a made-up shop; its users share them, for the store sees only lengths."""


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


def measure(records: Sequence[bytes], user_ids: Sequence[str]) -> tuple[str, float]:
    """The server, and its used_memory a user: of a new one, for memory is freed late."""
    keys = Keys("fs", "g1", 16)
    with tempfile.TemporaryDirectory() as folder:
        server = StoreServer(Path(folder), ephemeral=True)
        server.start()
        client = redis.Redis.from_url(server.url)
        memory = client.info("memory")
        for first in range(0, len(user_ids), BATCH):
            numbers = range(first, min(first + BATCH, len(user_ids)))
            pairs = {keys.record(n % 16, user_ids[n]): records[n % len(records)] for n in numbers}
            client.mset(pairs)
        client.close()  # its buffers are memory too
        used = client.info("memory")["used_memory"] - memory["used_memory"]
        client.close()
        server.stop()
    return f"{server.version} ({memory['mem_allocator']})", used / len(user_ids)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--format", type=int, default=RECORD_VERSION)
    parser.add_argument("--own-items", type=int, default=ModelShape().own_items)
    asked = parser.parse_args()
    shape = ModelShape(own_items=asked.own_items if asked.format >= OWN_FORMAT else 0)
    generator = np.random.default_rng(7)
    # P(a user has at least n events) = 1/n: half have one, a tenth ten or more.
    zipf = np.minimum(1 / (1 - generator.random(N_KINDS_OF_RECORDS)), 10_000).astype(np.int64)
    ids = [f"u{n:07d}" for n in range(asked.users)]
    retail = online_retail(asked.format, shape)
    few = list(made_up(zipf.tolist(), generator, asked.format, shape))
    many = list(made_up([30] * 5000, generator, asked.format, shape))
    shops = [
        ("online-retail's customers", list(retail.values()), list(retail)),
        ("n or more events: 1 of n users", few, ids),
        ("everyone 30 events", many, ids),
    ]
    rows = [f"{'shop':32}{'users':>10}{'record':>8}{'store':>8}{'formula':>9}{'GiB/million':>13}"]
    for name, records, user_ids in shops:
        version, store = measure(records, user_ids)
        n_key = 14 + sum(map(len, user_ids)) // len(user_ids)
        told = float(np.mean([formula(len(record), n_key) for record in records]))
        size = float(np.mean([len(record) for record in records]))
        rows.append(
            f"{name:32}{len(user_ids):10,}{size:8.1f}{store:8.1f}{told:9.1f}"
            f"{store * 1e6 / 2**30:13.3f}"
        )
    sys.stdout.write(
        f"{version}, format {asked.format}, {shape.own_items} own items\n" + "\n".join(rows) + "\n"
    )


if __name__ == "__main__":
    main()
