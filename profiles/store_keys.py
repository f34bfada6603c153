"""Where everything lies in the store: the one module that spells keys.

Owns the spelling and the partition's hash tag; knows no connection and no record. What stays
true: all keys of one partition share one cluster slot, and partitions spread evenly over slots.
"""

from __future__ import annotations

import re
from binascii import crc_hqx
from functools import cache

N_SLOTS = 16384
"""Slots of a Redis or Valkey cluster; fixed by its protocol."""

_SAFE = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


def key_slot(key: bytes) -> int:
    """The cluster slot of a key: CRC16 of what stands in the first pair of braces, if any.

    >>> key_slot(b"123456789"), key_slot(b"x:{p-0}:u:{1}") == key_slot(b"p-0")
    (12739, True)
    """
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % N_SLOTS


@cache
def partition_tags(n_partitions: int) -> tuple[str, ...]:
    """The hash tag of every partition.

    The tag of p is the first ``p-<n>``, n = 0, 1, ..., whose slot lies in
    ``[p, p + 1) * 16384 / n_partitions`` ("p" is the letter), so any language can compute it,
    and a cluster that shares its slots evenly shares the partitions evenly.

    Raises ValueError outside 1 to 4,096 partitions (above, the search takes seconds).
    """
    if not 1 <= n_partitions <= 4096:
        raise ValueError(f"{n_partitions} partitions: must be 1 to 4096")
    tags: list[str | None] = [None] * n_partitions
    n_missing = n_partitions
    n = 0
    while n_missing:
        tag = f"p-{n}"
        partition = crc_hqx(tag.encode(), 0) % N_SLOTS * n_partitions // N_SLOTS
        if tags[partition] is None:
            tags[partition] = tag
            n_missing -= 1
        n += 1
    return tuple(tag for tag in tags if tag is not None)


def partition_tag(partition: int, n_partitions: int) -> str:
    """The hash tag of one partition (see `partition_tags`).

    >>> [partition_tag(p, 4) for p in range(4)]
    ['p-1', 'p-0', 'p-3', 'p-2']
    """
    return partition_tags(n_partitions)[partition]


class Keys:
    """The keys of one generation.

    prefix, generation: 1-64 letters, digits, ``.``, ``_`` or ``-``: a brace in them would move
    the hash tag, a ``*`` would widen a scan. User ids may hold anything, they stand last.
    """

    def __init__(self, prefix: str, generation: str, n_partitions: int) -> None:
        """Raises ValueError for a prefix, generation or partition count out of range."""
        for name, value in (("prefix", prefix), ("generation", generation)):
            if not _SAFE.match(value):
                raise ValueError(f"{name} {value!r}: must be 1-64 letters, digits, '.', '_' or '-'")
        self.n_partitions = n_partitions
        self.meta = f"{prefix}:meta".encode()
        self.workers = f"{prefix}:workers".encode()
        self.everything = f"{prefix}:{generation}:*".encode()
        self.all_records = f"{prefix}:{generation}:{{*}}:u:*".encode()
        self._chunks = f"{prefix}:{generation}:items:"
        heads = [f"{prefix}:{generation}:{{{tag}}}:" for tag in partition_tags(n_partitions)]
        self.checkpoint = [f"{head}ckpt".encode() for head in heads]
        self.seen = [f"{head}seen".encode() for head in heads]
        self.outbox = [f"{head}outbox".encode() for head in heads]
        self.record_head = [f"{head}u:".encode() for head in heads]
        self.slot = [key_slot(key) for key in self.checkpoint]
        self.manifest = f"{heads[0]}items-manifest".encode()

    def record(self, partition: int, user_id: str) -> bytes:
        """The key of one profile."""
        return self.record_head[partition] + user_id.encode()

    def records_pattern(self, partition: int) -> bytes:
        """What SCAN is given to find one partition's profiles."""
        return self.record_head[partition] + b"*"

    def chunk(self, chunk: int, version: str) -> bytes:
        """One version of one chunk of the item table; chunks spread over the whole cluster."""
        return f"{self._chunks}{chunk}:{version}".encode()
