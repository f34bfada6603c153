"""What fold processes tell each other on `item-deltas`: sums to add, and who listens.

Owns the bytes. MessagePack, not JSON: nearly all of a message are columns of numbers. What the
columns mean is the business of whoever makes and adds them; a reader passes over tables, columns
and lists that it does not know, so newer senders may add some.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streams.errors import DecodeError

DELTAS_VERSION: Final = 2
"""Raised only when a reader of before would add something wrong; it then leaves such messages.

2: vectors of items are what is left beside their tokens', and positives come with their history
(docs/decisions/0052). Messages of version 1 are read."""

HELLO_VERSION: Final = 1
"""Of a message that only says who listens: workers of all versions hear of each other, and go on
telling what they learn."""

ROWS_PER_MESSAGE_BYTES: Final = 384 * 1024
"""Of rows with new ids in one message: well below the broker's 1 MiB, with room for positives."""


class Column(msgspec.Struct, frozen=True, array_like=True):
    """Numbers to add to one column of a table. type: numpy's name, ``<f2``, ``<f4``, ``<f8``,
    ``<i4``; data: row after row."""

    name: str
    type: str
    data: bytes


class Rows(msgspec.Struct, frozen=True, array_like=True):
    """Changed rows of one table.

    hashes: uint64, little-endian, the row's key. new_at, new_ids: places in `hashes` (int32) of
    rows that a reader may not know, and their ids.
    """

    table: str
    hashes: bytes
    new_at: bytes
    new_ids: list[str]
    columns: list[Column]


class EventList(msgspec.Struct, frozen=True, array_like=True):
    """Things that happened, oldest first, as keys (uint64): in version 1 the recent positives."""

    name: str
    hashes: bytes


class Positives(msgspec.Struct, frozen=True, array_like=True):
    """N positives that were learned, oldest first; all numbers little-endian.

    hashes: uint64, the items. history: uint64, for each the items that its user had before, newest
    first, 0: none; the same number for each. weights: float32, what each counts for. n_words:
    uint8, words of the query that was pending; words: uint64, their hashes, one after the other.
    """

    hashes: bytes
    history: bytes
    weights: bytes
    n_words: bytes
    words: bytes


class Weights(msgspec.Struct, frozen=True, array_like=True):
    """The sender's blend. theta: float32, (parts, terms); n: int64, the steps of each part."""

    theta: bytes
    n: bytes


class ItemDeltas(msgspec.Struct, frozen=True):
    """One message of `item-deltas`.

    generation: of the profiles; others' are passed over. sender: one process, from its start to
    its end. seq: 1, 2, ... of the sender's messages that
    hold something; 0: says only that it listens. base: version of the snapshot that the sums go
    back to, "" for an empty table. covers: by partition, the position up to which everything
    that the sender learned is in its messages so far. clock_ms: event time to which decayed
    counts refer. n_learned: positives learned since the message before. leaving: it listens no
    more. positives: of the n_learned ones, or a sample that counts for all. weights: of a sender
    that folds.
    """

    generation: str
    sender: str
    seq: int = 0
    base: str = ""
    covers: dict[int, int] = {}
    clock_ms: int = 0
    n_learned: int = 0
    tables: list[Rows] = []
    lists: list[EventList] = []
    leaving: bool = False
    version: int = DELTAS_VERSION
    positives: Positives | None = None
    weights: Weights | None = None


_decoder = msgspec.msgpack.Decoder(ItemDeltas)
_encoder = msgspec.msgpack.Encoder()


def encode_deltas(message: ItemDeltas) -> bytes:
    """One message as bytes."""
    return _encoder.encode(message)


def decode_deltas(value: bytes | None) -> ItemDeltas:
    """One message. Raises DecodeError: not one of ours, or of a newer version."""
    try:
        message = _decoder.decode(value or b"")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DecodeError("invalid_event", f"not item deltas: {error}") from error
    if message.version > DELTAS_VERSION:
        raise DecodeError(
            "unknown_type",
            f"item deltas of version {message.version}, this worker reads {DELTAS_VERSION}:"
            " upgrade it",
        )
    return message
