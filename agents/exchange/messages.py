"""Row changes as messages and back: arrays of `profiles`, bytes of `streams`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from profiles.blend import N_PARTS, Blend
from profiles.interactions import MOST_WEIGHT
from profiles.learned import MOST_TIMES, Positives
from profiles.lists import DEPTH
from profiles.sharing import RowChanges
from profiles.terms import N_TERMS
from streams import item_deltas
from streams.item_deltas import ROWS_PER_MESSAGE_BYTES, Column, ItemDeltas, Rows, Weights

ITEMS, TOKENS, WORDS = "items", "tokens", "words"
"""Tables of rows: items, tokens of their texts, words of queries."""

RECENT = "recent_positives"
"""The list in which messages of version 1 name positives, without their history."""

POSITIVES_BYTES = 256 * 1024
"""Of positives in one round: 2,000 with words at four rounds a second, more than a ring holds."""

LEAST_POSITIVES = 16
"""Which go in a round whatever the limit."""

NEW_ID_BYTES = 4 + 5
"""Beside a new id itself: its place, and MessagePack's length of it."""

TYPES = {"<f2", "<f4", "<f8", "<i4", "<i8"}

Learned = tuple[NDArray[np.float32], NDArray[np.int64]]
"""Weights of a blend, (parts, terms), and the steps made of each part."""


def item_bytes(n_factors: int) -> int:
    """Of one item's row in a message: hash, half vector, sum, counts, positives."""
    return 8 + 2 * n_factors + 4 + 8 + 3 * 4 + 4


def token_bytes(n_factors: int) -> int:
    """Of one row of a token or word: hash, half vector, sum."""
    return 8 + 2 * n_factors + 4


def positive_bytes(n_words: int) -> int:
    """Of one positive at most: item, history, weight, words."""
    return 8 + 8 * DEPTH + 4 + 1 + 8 * n_words


def to_messages(
    blank: ItemDeltas,
    changes: Mapping[str, RowChanges | None],
    positives: Positives,
    blend: Blend,
    covers: Mapping[int, int],
    clock_ms: int,
) -> Iterator[ItemDeltas]:
    """One round: weights and positives in the first message, what the round covers in the last.

    Whoever reads it knows all rows of a message before its positives are counted. blank: a message
    of the sender without content or number.
    """
    portions = _portions(changes)
    for number, tables in enumerate(portions):
        yield msgspec.structs.replace(
            blank,
            clock_ms=clock_ms,
            tables=tables,
            covers=dict(covers) if number == len(portions) - 1 else {},
            n_learned=positives.n_learned if number == 0 else 0,
            positives=_positives(positives) if number == 0 and len(positives) else None,
            weights=Weights(blend.theta.tobytes(), blend.n.tobytes()) if number == 0 else None,
        )


def _portions(changes: Mapping[str, RowChanges | None]) -> list[list[Rows]]:
    """Rows with their new ids by message, at least one message."""
    portions: list[list[Rows]] = [[]]
    room = ROWS_PER_MESSAGE_BYTES
    for table, rows in changes.items():
        if rows is None:
            continue
        row_bytes = 8 + sum(column[:1].nbytes for column in rows.columns.values())
        sizes = np.full(len(rows), row_bytes)
        for place, item_id in rows.new_ids.items():
            sizes[place] += NEW_ID_BYTES + len(item_id.encode())
        ends = np.cumsum(sizes)
        first, sent = 0, 0
        while first < len(rows):
            end = int(np.searchsorted(ends, sent + room, "right"))
            if end <= first and portions[-1]:
                portions.append([])
                room = ROWS_PER_MESSAGE_BYTES
                continue
            end = max(end, first + 1)
            portions[-1].append(_rows(table, rows, slice(first, end)))
            room -= int(ends[end - 1]) - sent
            first, sent = end, int(ends[end - 1])
    return portions


def _positives(positives: Positives) -> item_deltas.Positives:
    return item_deltas.Positives(
        hashes=positives.hashes.tobytes(),
        history=positives.history.tobytes(),
        weights=positives.weights.tobytes(),
        n_words=positives.n_words.tobytes(),
        words=positives.words.tobytes(),
    )


def _rows(table: str, changes: RowChanges, part: slice) -> Rows:
    new = {at - part.start: i for at, i in changes.new_ids.items() if part.start <= at < part.stop}
    return Rows(
        table=table,
        hashes=changes.hashes[part].tobytes(),
        new_at=np.fromiter(new, np.int32, len(new)).tobytes(),
        new_ids=list(new.values()),
        columns=[
            Column(name, column.dtype.newbyteorder("<").str, column[part].tobytes())
            for name, column in changes.columns.items()
        ],
    )


def from_rows(rows: Rows, clock_ms: int, n_factors: int) -> RowChanges:
    """Raises ValueError for columns that don't fit together, or a vector of another length."""
    hashes = np.frombuffer(rows.hashes, np.uint64)
    columns = {}
    for name, kind, data in ((c.name, c.type, c.data) for c in rows.columns):
        if kind not in TYPES:
            continue
        column = np.frombuffer(data, kind)
        if name == "vectors":
            column = column.reshape(len(hashes), n_factors)
        if len(column) != len(hashes):
            raise ValueError(f"column {name} has {len(column)} rows, not {len(hashes)}")
        if not np.isfinite(column).all():
            raise ValueError(f"column {name} has a number that is not finite")
        columns[name] = column
    if "counts" in columns and "fast" not in columns:  # version 1: learned a moment ago
        columns["fast"] = columns["slow"] = columns["counts"]
    at = np.frombuffer(rows.new_at, np.int32).tolist()
    return RowChanges(hashes, dict(zip(at, rows.new_ids, strict=True)), columns, clock_ms)


def positives_of(message: ItemDeltas) -> Positives:
    """What the sender learned from. Raises ValueError for columns that don't fit together, and
    for numbers and words that no sender has."""
    if message.n_learned < 0:
        raise ValueError(f"{message.n_learned} positives learned")
    sent = message.positives
    if sent is None:
        parts = [np.frombuffer(p.hashes, np.uint64) for p in message.lists if p.name == RECENT]
        hashes = np.concatenate([*parts, np.zeros(0, np.uint64)])
        n = len(hashes)
        return Positives(
            message.n_learned,
            hashes,
            np.zeros((n, DEPTH), np.uint64),
            np.ones(n, np.float32),
            np.zeros(n, np.uint8),
            np.zeros(0, np.uint64),
        )
    hashes = np.frombuffer(sent.hashes, np.uint64)
    n = len(hashes)
    weights = np.frombuffer(sent.weights, np.float32)
    n_words = np.frombuffer(sent.n_words, np.uint8)
    words = np.frombuffer(sent.words, np.uint64)
    if not (len(weights) == len(n_words) == n and int(n_words.sum()) == len(words)):
        raise ValueError(f"{n} positives with {len(weights)} weights and {len(words)} words")
    if not ((weights >= 0) & (weights <= MOST_WEIGHT * MOST_TIMES)).all():
        raise ValueError("a positive has a weight that is out of range")
    if not words.all():
        raise ValueError("a word has the hash 0")
    history = np.frombuffer(sent.history, np.uint64).reshape(n, -1 if n else 0)
    return Positives(message.n_learned, hashes, history, weights, n_words, words)


def weights_of(message: ItemDeltas) -> Learned | None:
    """The sender's blend; None: it sent none, or one of other terms."""
    sent = message.weights
    if sent is None or len(sent.theta) != 4 * N_PARTS * N_TERMS or len(sent.n) != 8 * N_PARTS:
        return None
    theta = np.frombuffer(sent.theta, np.float32).reshape(N_PARTS, N_TERMS)
    n = np.frombuffer(sent.n, np.int64)
    return (theta, n) if np.isfinite(theta).all() and (n >= 0).all() else None
