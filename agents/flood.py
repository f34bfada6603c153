"""When a partition's messages are mostly bad, it stops: then we are wrong, not they.

Owns the look at one partition's last messages, over restarts: what lies before in the log counts,
whoever read it. Nothing is stored, so setting the remedy is all it takes to go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streams.batch import NOT_BAD, EventBatch, Message, RawBatch
from streams.codec import EventCodec
from streams.dead_letters import FloodGuard
from streams.errors import StreamsError

if TYPE_CHECKING:  # the doctor does without compiled functions
    from streams.event_columns import EventColumns

LookBack = Callable[[int, int, int], AsyncIterator[list[Message]]]
"""(partition, next_offset, n_offsets) -> the messages before, in portions. Raises BrokerAway."""

UntilDone = Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
"""Does something that needs the broker, however long it is away."""


class DeadLetterFlood(StreamsError):
    """Too many of a partition's last messages are bad: it stops before committing them."""


@dataclass(frozen=True, slots=True)
class FloodRule:
    """More than this share of so many last messages is a flood."""

    window: int = 1_000
    share: float = 0.5


class FloodWatch:
    """Watches one partition from one acquisition on."""

    def __init__(
        self, partition: int, codec: EventCodec, rule: FloodRule, look_back: LookBack | None = None
    ) -> None:
        """look_back: None: only what comes is counted."""
        self._partition = partition
        self._codec = codec
        self._rule = rule
        self._look_back = look_back  # until the first bad message, then None
        self._guard = FloodGuard(rule.window, rule.share)

    async def check(
        self, raw: RawBatch, batch: EventBatch | EventColumns, until_done: UntilDone
    ) -> None:
        """Count one batch. Raises DeadLetterFlood, which names the first bad offset and the way on.

        until_done: for the look back, once, at the first bad message: rare, so that a healthy
        partition is not read twice.
        """
        bad = places_of_bad(raw, batch)
        if bad and self._look_back is not None:
            await until_done(lambda: self._count_back(raw.start))
            self._look_back = None
        first = self._guard.observe(len(raw.records), bad)
        if first is None:
            return
        newest = [reject for reject in batch.rejects if reject.code not in NOT_BAD][-1]
        raise DeadLetterFlood(
            f"partition {self._partition}: more than {self._rule.share:.0%} of the last "
            f"{self._rule.window:,} messages are bad, from offset {first} on (at "
            f"{newest.record.offset}: {newest.code}, {newest.detail[:200]}); nothing from offset "
            f"{raw.start} on is committed. Mend their producer; then set flood_stop=false and "
            "start the worker again: it sets them aside as dead letters and goes on"
        )

    async def _count_back(self, next_offset: int) -> None:
        """Begin with the messages before an offset. Raises BrokerAway."""
        assert self._look_back is not None
        guard = FloodGuard(self._rule.window, self._rule.share)
        async for records in self._look_back(self._partition, next_offset, self._rule.window):
            raw = RawBatch(self._partition, next_offset, next_offset, records)
            guard.observe(len(records), places_of_bad(raw, self._codec.decode_batch(raw)))
        self._guard = guard


def places_of_bad(raw: RawBatch, batch: EventBatch | EventColumns) -> list[tuple[int, int]]:
    """Place in the batch and offset of each bad message."""
    bad = {reject.record.offset for reject in batch.rejects if reject.code not in NOT_BAD}
    if not bad:
        return []
    offsets = enumerate(record.offset for record in raw.records)
    return [(place, offset) for place, offset in offsets if offset in bad]
