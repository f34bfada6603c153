"""What fold processes tell each other on `item-deltas`: sums to add, and who listens.

Owns the bytes. MessagePack, not JSON: nearly all of a message are columns of numbers. What the
columns mean is the business of whoever makes and adds them; a reader passes over tables, columns
and lists that it does not know, so newer senders may add some.
"""

from __future__ import annotations

from typing import Final

import msgspec

from streams.errors import DecodeError

DELTAS_VERSION: Final = 1
"""Raised only when a reader of before would add something wrong; it then leaves such messages."""

ROWS_PER_MESSAGE_BYTES: Final = 384 * 1024
"""Of rows in one message: well below the broker's 1 MiB, with room for new ids."""


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
    """Things that happened, oldest first, as keys (uint64): recent positives, say."""

    name: str
    hashes: bytes


class ItemDeltas(msgspec.Struct, frozen=True):
    """One message of `item-deltas`.

    generation: of the profiles; others' are passed over. sender: one process, from its start to
    its end. seq: 1, 2, ... of the sender's messages that
    hold something; 0: says only that it listens. base: version of the snapshot that the sums go
    back to, "" for an empty table. covers: by partition, the position up to which everything
    that the sender learned is in its messages so far. clock_ms: event time to which decayed
    counts refer. n_learned: positives learned since the message before. leaving: it listens no
    more.
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
