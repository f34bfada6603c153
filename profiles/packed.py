"""Records of many users as one buffer, and the one command that writes them all.

At full speed an object, a copy and an argument for each record cost more than packing it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, compiled

MOST_FRAME = 2 * (1 + 10 + 2 + 2)
"""Bytes that the protocol puts around a key and its value: ``$``, a length, two line ends."""


@dataclass(frozen=True, slots=True)
class PackedRecords:
    """Records of U users; iterates over (user_id, record).

    data: uint8, all records after each other. ends: int64 (U + 1,): record u is
    data[ends[u]:ends[u + 1]].
    """

    user_ids: list[str]
    data: NDArray[np.uint8]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.user_ids)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        data = self.data.tobytes()
        for user_id, (start, end) in zip(self.user_ids, pairwise(self.ends.tolist()), strict=True):
            yield user_id, data[start:end]

    def mset(self, head: bytes) -> bytes:
        """``MSET`` of every record under head + user_id, in the store's protocol."""
        n = len(self.user_ids)
        text = "".join(self.user_ids)
        keys = text.encode()
        sizes = list(map(len, self.user_ids))
        if len(keys) != len(text):
            sizes = [len(user_id.encode()) for user_id in self.user_ids]
        key_ends = np.fromiter(accumulate(sizes, initial=0), np.int64, n + 1)
        out = np.empty(
            len(keys) + int(self.ends[-1] - self.ends[0]) + n * (len(head) + MOST_FRAME), np.uint8
        )
        n_bytes = _put_arguments(
            _writable(head), _writable(keys), key_ends, self.data, self.ends, out
        )
        return b"*%d\r\n$4\r\nMSET\r\n" % (2 * n + 1) + out[:n_bytes].tobytes()


def _writable(text: bytes) -> NDArray[np.uint8]:
    """numba would compile once more for an array that is not."""
    return np.frombuffer(bytearray(text or b"\0"), np.uint8)


@compiled
def _put_size(out: NDArray[np.uint8], at: Integer, n: Integer) -> Integer:
    """``$n`` and a line end."""
    out[at] = np.uint8(36)
    at += 1
    power = np.int64(1)
    while power * 10 <= n:
        power *= 10
    while power > 0:
        out[at] = np.uint8(48 + n // power % 10)
        at += 1
        power //= 10
    out[at], out[at + 1] = np.uint8(13), np.uint8(10)
    return at + 2


@compiled
def _put_arguments(
    head: NDArray[np.uint8],
    keys: NDArray[np.uint8],
    key_ends: NDArray[np.int64],
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    out: NDArray[np.uint8],
) -> Integer:
    """Key and value of every record as arguments of a command; returns the bytes written."""
    at = np.int64(0)
    for number in range(len(key_ends) - 1):
        start, end = key_ends[number], key_ends[number + 1]
        at = _put_size(out, at, len(head) + end - start)
        for byte in range(len(head)):
            out[at + byte] = head[byte]
        at += len(head)
        for byte in range(end - start):
            out[at + byte] = keys[start + byte]
        at += end - start
        out[at], out[at + 1] = np.uint8(13), np.uint8(10)
        start, end = ends[number], ends[number + 1]
        at = _put_size(out, at + 2, end - start)
        for byte in range(end - start):
            out[at + byte] = data[start + byte]
        at += end - start
        out[at], out[at + 1] = np.uint8(13), np.uint8(10)
        at += 2
    return at
