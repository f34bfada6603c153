"""Where the product's decoder and the verifier's judge differ about a message: nowhere, we say."""

from __future__ import annotations

from typing import NamedTuple

from agents.chaos.hostile import Headers, Message
from agents.chaos.judge import Judge
from agents.chaos.strict_json import Refused
from streams.batch import EventBatch, RawBatch
from streams.codec import EventCodec
from streams.errors import DecodeError


class _Record(NamedTuple):
    """A message as it comes from the log."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def decoded(codec: EventCodec, message: Message) -> EventBatch:
    """A batch of this message alone, through the hot path."""
    record = _Record("events", 0, 0, 1, message.key, message.value, message.headers)
    return codec.decode_batch(RawBatch(0, 0, 1, [record]))


def disagreement(codec: EventCodec, judge: Judge, message: Message) -> str | None:
    """What the two say of a message where that is not the same; None: it is."""
    batch = decoded(codec, message)
    if len(batch.events) + len(batch.rejects) != 1:
        return f"{len(batch.events)} events and {len(batch.rejects)} rejects of {message}"
    product = None if batch.events else batch.rejects[0].code
    try:
        one = codec.decode(message.value, message.key, message.headers)
        alone = None
        if batch.events and (one.event, one.repeat_hash) != (
            batch.events[0],
            batch.repeat_hashes[0],
        ):
            return f"alone it is another event than in a batch: {message}"
    except DecodeError as error:
        alone = error.code
    if alone != product:
        return f"alone {alone}, in a batch {product}: {message}"
    try:
        judged = judge.read(message.value, message.key, message.headers)
    except Refused as refused:
        return None if product else f"taken for an event, but {refused}: {message}"
    if product:
        return f"refused as {product}, but an event: {message}"
    event = batch.events[0]
    for name in event.__struct_fields__:
        ours, theirs = getattr(event, name), judged.event.get(name)
        if ours != theirs:
            return f"{name} is {ours!r}, and {theirs!r} in the document: {message}"
    return None
