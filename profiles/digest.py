"""One number for all facts of a generation, to compare two folds of the same log.

Owns the digest only; what facts are is `record.facts_of`. What stays true: the order of the
records and their spread over partitions or nodes change nothing, one changed bit changes all.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass

_MASK = (1 << 128) - 1


@dataclass(slots=True)
class FactsDigest:
    """A sum of 128-bit hashes, one for each profile, modulo 2 ** 128.

    A sum, not an exclusive or, so that a record read twice shows instead of vanishing.

    >>> a, b = FactsDigest(), FactsDigest()
    >>> a.add("u1", b"x"); a.add("u2", b"y")
    >>> b.add("u2", b"y"); b.add("u1", b"x")
    >>> a == b, a.hex == FactsDigest().hex, a.n_profiles
    (True, False, 2)
    """

    total: int = 0
    n_profiles: int = 0

    def add(self, user_id: str, facts: bytes) -> None:
        """Take one profile in."""
        user = user_id.encode()
        # The length in front: ("a", b"bc") and ("ab", b"c") are two different profiles.
        content = len(user).to_bytes(4, "little") + user + facts
        hashed = hashlib.blake2b(content, digest_size=16).digest()
        self.total = (self.total + int.from_bytes(hashed, "little")) & _MASK
        self.n_profiles += 1

    def merge(self, other: FactsDigest) -> None:
        """Take all profiles of another digest in."""
        self.total = (self.total + other.total) & _MASK
        self.n_profiles += other.n_profiles

    @property
    def hex(self) -> str:
        """32 hexadecimal digits, for reports."""
        return f"{self.total:032x}"


async def facts_digest(
    records: AsyncIterable[tuple[str, bytes]], facts_of: Callable[[bytes], bytes]
) -> FactsDigest:
    """The digest of all (user_id, record) pairs.

    facts_of: cuts the facts out of a record; its errors (RecordCorrupt, RecordTooNew) pass.
    """
    digest = FactsDigest()
    async for user_id, record in records:
        digest.add(user_id, facts_of(record))
    return digest
