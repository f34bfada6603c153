"""The ring of event ids seen in the last N offsets of one partition: how repeats are recognised.

Slot ``offset mod N`` holds the 64-bit hash of that offset's event id, 0 without one and in gaps of
the log. A repeat writes its hash too, so an id stays known while it keeps coming. The ring is part
of the atomic commit: `writes` says which bytes changed. An index over the ring (4 bytes a place,
2 MB at the default size) makes a lookup one or two probes; it is built at the first batch, for only
the first offset says which slot is the oldest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from profiles.errors import RecordCorrupt
from profiles.jit import Integer, compiled

SLOT_BYTES = 8


@compiled
def _place(slots: NDArray[np.uint64], index: NDArray[np.int32], key: Integer) -> Integer:
    """Where `key` is in the index, or the free place where it would go."""
    mask = np.uint64(len(index) - 1)
    place = np.uint64(key) & mask
    while index[place] >= 0 and slots[index[place]] != key:
        place = (place + np.uint64(1)) & mask
    return np.int64(place)


@compiled
def _forget(slots: NDArray[np.uint64], index: NDArray[np.int32], slot: Integer) -> None:
    """Empty a slot; when the index points to it, close the hole that its entry leaves."""
    key = slots[slot]
    if key == np.uint64(0):
        return
    hole = _place(slots, index, key)
    if index[hole] == slot:
        mask = np.int64(len(index) - 1)
        index[hole] = -1
        place = (hole + 1) & mask
        while index[place] >= 0:
            home = np.int64(slots[index[place]] & np.uint64(mask))
            if ((place - home) & mask) >= ((place - hole) & mask):
                index[hole] = index[place]
                index[place] = -1
                hole = place
            place = (place + 1) & mask
    slots[slot] = np.uint64(0)


@compiled
def _write(
    slots: NDArray[np.uint64], index: NDArray[np.int32], slot: Integer, key: Integer
) -> bool:
    """Put `key` into `slot`; whether it was in the ring already (in the slot's old content too)."""
    known = bool(key != np.uint64(0) and index[_place(slots, index, key)] >= 0)
    _forget(slots, index, slot)
    if key != np.uint64(0):
        place = _place(slots, index, key)
        slots[slot] = key
        index[place] = slot
    return known


@compiled
def _index_all(slots: NDArray[np.uint64], index: NDArray[np.int32], oldest: Integer) -> None:
    """Fill an empty index, oldest slot first: of two slots with one hash the newer one stays."""
    n = len(slots)
    for step in range(n):
        slot = (oldest + step) % n
        if slots[slot] != np.uint64(0):
            index[_place(slots, index, slots[slot])] = slot


@compiled
def _filter(
    slots: NDArray[np.uint64],
    index: NDArray[np.int32],
    offsets: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    start: Integer,
    end: Integer,
    keep: NDArray[np.bool_],
) -> None:
    n = len(slots)
    upcoming = start
    for b in range(len(offsets)):
        for gap in range(max(upcoming, offsets[b] - n), offsets[b]):
            _forget(slots, index, gap % n)
        keep[b] = not _write(slots, index, offsets[b] % n, hashes[b])
        upcoming = offsets[b] + 1
    for gap in range(max(upcoming, end - n), end):
        _forget(slots, index, gap % n)


class SeenRing:
    """The ids of the last `n_slots` offsets; batches come in order, each where the last ended.

    A batch whose commit was refused must be followed by a new ring, loaded from the store.

    >>> ring = SeenRing(n_slots=4)
    >>> ring.filter(np.int64([7, 9]), np.uint64([5, 5]), start=7, end=10).tolist()
    [True, False]
    >>> [(at, len(data)) for at, data in ring.writes(7, 10)]
    [(24, 8), (0, 16)]
    """

    def __init__(self, n_slots: int = 262_144, data: bytes | None = None) -> None:
        """data: the ring as the store has it; slots never written may be missing at its end.

        Raises RecordCorrupt when it is longer than the ring or not whole slots.
        """
        if n_slots < 1:
            raise ValueError("a ring needs at least one slot")
        self.n_slots = n_slots
        # Filled, not zeros: their pages would be taken one by one, and a worker that only fills
        # its ring would look like one that leaks.
        self._slots: NDArray[np.uint64] = np.full(n_slots, 0, np.uint64)
        self._index: NDArray[np.int32] | None = None
        if data:
            if len(data) % SLOT_BYTES or len(data) > n_slots * SLOT_BYTES:
                raise RecordCorrupt(
                    f"the ring of seen ids has {len(data)} bytes, not at most {n_slots} slots of"
                    f" {SLOT_BYTES}; use the n_seen_slots it was made with, or a new generation"
                )
            self._slots[: len(data) // SLOT_BYTES] = np.frombuffer(data, np.uint64)

    def filter(
        self,
        offsets: NDArray[np.int64] | list[int],
        hashes: NDArray[np.uint64] | list[int],
        start: int,
        end: int,
    ) -> NDArray[np.bool_]:
        """bool (B,): which events are no repeats; the ring then stands at `end`.

        offsets: rising, within [start, end). hashes: of the ids, 0 for an event without one, which
        is never a repeat. An event is a repeat when one of the N offsets before its own has its
        hash, this batch's included, so the answer does not depend on the cut of the batches.
        Raises ValueError for offsets outside the batch.
        """
        at = np.array(offsets, np.int64)
        keys = np.array(hashes, np.uint64)
        if at.shape != keys.shape:
            raise ValueError(f"{len(at)} offsets, {len(keys)} hashes")
        if len(at) and (at[0] < start or at[-1] >= end or (np.diff(at) <= 0).any()):
            raise ValueError(f"offsets that are not rising within [{start}, {end})")
        if self._index is None:
            places = 1 << max(4, (2 * self.n_slots - 1).bit_length())
            self._index = np.full(places, -1, np.int32)
            _index_all(self._slots, self._index, start % self.n_slots)
        keep = np.ones(len(at), np.bool_)
        _filter(self._slots, self._index, at, keys, start, end, keep)
        return keep

    def writes(self, start: int, end: int) -> list[tuple[int, bytes]]:
        """(byte position, bytes) pairs that bring the store's ring from `start` to `end`."""
        n = self.n_slots
        if end <= start:
            return []
        if end - start >= n:
            return [(0, self._slots.tobytes())]
        first, last = start % n, end % n
        if first < last:
            return [(first * SLOT_BYTES, self._slots[first:last].tobytes())]
        writes = [(first * SLOT_BYTES, self._slots[first:].tobytes())]
        if last:
            writes.append((0, self._slots[:last].tobytes()))
        return writes
