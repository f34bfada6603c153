"""Who gets a row of a table that is full: what is seen often, of what is used seldom.

Until a table is full its rows go to whoever comes first. From then on words and groups without a
row are counted in a sketch, and one that enough items have takes the row of one that hardly any
has: a stream of words that come once can't shut out the words of tomorrow. Counts are of
descriptions in their order, by hash, so the same catalogue read in the same order gives the same
rows. The sketch is not in snapshots: after a restart a newcomer is counted from the start.

Size: 4 bytes and 2 bits for each row that a table may have, 0.9 MB together, taken when they are
full.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.jit import Integer, compiled
from profiles.negatives import GOLDEN, mix

OFTEN = 4
"""Items that have a word before it gets the row of one that fewer have."""

SKETCH_ROWS = 4
"""Hashed counters of one word, of which the smallest counts."""

SHARE = 16
"""Rows that are given up at once at most: one in so many, for it takes a look at every item."""


class FrequencyGate:
    """A count-min sketch of how many items have a word, halved each time it has counted as many as
    it is wide; an item that is described again counts once in that time.

    >>> gate = FrequencyGate(1024)
    >>> word, items = np.full(4, 7, np.uint64), np.arange(1, 5, dtype=np.uint64)
    >>> gate.often(word[:3], items[:3]).tolist(), gate.often(word[:1], items[:1]).tolist()
    ([], [])
    >>> gate.often(word, items).tolist()
    [7]
    """

    def __init__(self, width: int) -> None:
        """width: a power of two is made of it."""
        width = 1 << max(4, (width - 1).bit_length())
        self._counts = np.zeros((SKETCH_ROWS, width), np.uint8)
        self._told = np.zeros(2 * width // 8, np.uint8)
        self._n = np.zeros(1, np.int64)

    def often(self, words: NDArray[np.uint64], items: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Count words (N,) that items (N,) have; those that are seen often now, each once."""
        frequent = np.zeros(len(words), np.bool_)
        _count(self._counts, self._told, self._n, words, items, frequent)
        return np.array(list(dict.fromkeys(words[frequent].tolist())), np.uint64)


@compiled
def _count(
    counts: NDArray[np.uint8], told: NDArray[np.uint8], n: NDArray[np.int64],
    words: NDArray[np.uint64], items: NDArray[np.uint64], frequent: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Count each word unless its item has told it; frequent: filled with whether it is seen often.

    told: a bit for each of two times as many pairs as the sketch is wide.
    """
    width = counts.shape[1]
    for number in range(len(words)):
        pair = mix(words[number] + mix(items[number] + GOLDEN)) % np.uint64(2 * width)
        byte, bit = np.int64(pair >> np.uint64(3)), np.uint8(1 << (pair & np.uint64(7)))
        least: Integer = np.int64(255)
        for row in range(counts.shape[0]):
            place = mix(words[number] + np.uint64(row + 1) * GOLDEN) % np.uint64(width)
            least = min(least, np.int64(counts[row, place]))
        if told[byte] & bit == 0:
            told[byte] |= bit
            least = min(least + 1, np.int64(255))
            for row in range(counts.shape[0]):
                place = mix(words[number] + np.uint64(row + 1) * GOLDEN) % np.uint64(width)
                # Only the smallest ones grow: the others are of other words, too.
                counts[row, place] = max(np.int64(counts[row, place]), least)
            n[0] += 1
        frequent[number] = least >= OFTEN
        if n[0] >= width:
            n[0] = 0
            for row in range(counts.shape[0]):
                for place in range(width):
                    counts[row, place] >>= np.uint8(1)
            for place in range(len(told)):
                told[place] = 0


def seldom_used(
    named: NDArray[np.int32], n_rows: int, taken: NDArray[np.bool_], learned: NDArray[np.float32],
    most: int,
) -> NDArray[np.int64]:  # fmt: skip
    """Up to `most` rows that fewer than `OFTEN` items name, least used and learned first.

    named: rows as items name them, -1: none. taken, learned: (n_rows,); taken: rows that must stay,
    or that nobody has.
    """
    uses = np.bincount(named[named >= 0].ravel(), minlength=n_rows)[:n_rows]
    rows = np.flatnonzero((uses < OFTEN) & ~taken)
    order = np.lexsort((rows, learned[rows], uses[rows]))
    chosen: NDArray[np.int64] = np.sort(rows[order[:most]])
    return chosen
