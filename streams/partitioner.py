"""Which partition a key belongs to: murmur2, as in Java's and aiokafka's default partitioner.

librdkafka clients must be told (`partitioner=murmur2_random`); otherwise they hash with CRC32 and
a user's events land on another partition.
"""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(65_536)  # murmur2 in Python costs 2-10 us
def partition_of(user_id: str, n_partitions: int) -> int:
    """The partition of a user's key among ``n_partitions``.

    >>> partition_of("u42", 16) == partition_of("u42", 16) and 0 <= partition_of("u42", 16) < 16
    True
    """
    return int((murmur2(user_id.encode()) & 0x7FFFFFFF) % n_partitions)
