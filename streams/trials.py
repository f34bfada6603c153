"""Messages of `foldstream.trials`: ranks of events that were ranked before they were learned."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from streams.errors import StreamsError

MISS = 0.0
"""A rank that is none: the item was never seen, or the model diverged. JSON has no infinity."""


class Trial(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One event. rank, popularity, iknn: 1 is the top, half ranks for ties, 0 a miss.

    ts: event time in ms. n_history: the user's positive events in the profile, n_item: the item's
    positives, n_seen: items ranked against, each before the event. top: our best 20.
    """

    offset: int
    ts: int
    rank: float
    popularity: float
    iknn: float
    n_history: int
    n_item: int
    n_seen: int
    top: list[str] = []


class TrialBatch(Struct, frozen=True, kw_only=True):
    """Trials of one partition, rising by offset. One (partition, offset) may come twice."""

    partition: int
    trials: list[Trial]


def encode_trials(batch: TrialBatch) -> bytes:
    """The message."""
    return msgspec.json.encode(batch)


def decode_trials(value: bytes) -> TrialBatch:
    """The batch of a message. Raises StreamsError for what is none of ours."""
    try:
        return msgspec.json.decode(value, type=TrialBatch)
    except msgspec.DecodeError as error:
        raise StreamsError(f"not a batch of trials: {error}") from error
