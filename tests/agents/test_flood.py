"""A flood of bad messages is seen over restarts, by what lies before in the log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from agents.flood import DeadLetterFlood, FloodRule, FloodWatch
from streams.batch import RawBatch
from streams.codec import EventCodec
from streams.errors import BrokerAway

CODEC = EventCodec()
GOOD = b'{"type":"click","user_id":"u","item_id":"i","ts":5}'
UNKNOWN = GOOD.replace(b"click", b"wave")
BAD = b"{"


def log_of(*values: bytes) -> list[Any]:
    """Messages at every second offset, as transactions leave them."""
    return [
        SimpleNamespace(
            topic="events",
            partition=3,
            offset=2 * n,
            timestamp=1,
            key=b"u",
            value=value,
            headers=(),
        )
        for n, value in enumerate(values)
    ]


async def once(send: Callable[[], Awaitable[None]]) -> None:
    await send()


class Restarted:
    """A partition's watch after each restart: it reads back what is in the log."""

    def __init__(self, log: list[Any], rule: FloodRule) -> None:
        self.log, self.rule = log, rule
        self.n_looks = 0

    def watch(self) -> FloodWatch:
        return FloodWatch(3, CODEC, self.rule, self._look_back)

    async def _look_back(self, partition: int, before: int, n: int) -> AsyncIterator[list[Any]]:
        self.n_looks += 1
        found = [one for one in self.log if before - 2 * n <= one.offset < before]
        for at in range(0, len(found), 7):
            yield found[at : at + 7]

    async def read(self, watch: FloodWatch, first: int, end: int) -> None:
        raw = RawBatch(3, 2 * first, 2 * end, self.log[first:end])
        await watch.check(raw, CODEC.decode_batch(raw), once)


async def test_a_flood_stops_at_its_batch_and_names_its_first_offset_and_the_remedy() -> None:
    part = Restarted(log_of(*[GOOD] * 30, *[BAD] * 30), FloodRule(window=20, share=0.5))
    watch = part.watch()
    await part.read(watch, 0, 30)
    await part.read(watch, 30, 40)  # ten of twenty are not more than half
    with pytest.raises(DeadLetterFlood) as stopped:
        await part.read(watch, 40, 45)
    text = str(stopped.value)
    assert "from offset 60 on" in text
    assert "nothing from offset 80 on is committed" in text
    assert "flood_stop=false" in text
    assert "invalid_json" in text


async def test_after_a_restart_it_stops_at_once_and_not_half_a_window_later() -> None:
    part = Restarted(log_of(*[GOOD] * 30, *[BAD] * 30), FloodRule(window=20, share=0.5))
    for _ in range(3):
        with pytest.raises(DeadLetterFlood, match="from offset 60 on"):
            await part.read(part.watch(), 40, 41)


async def test_a_healthy_partition_is_never_read_twice() -> None:
    part = Restarted(log_of(*[GOOD] * 30, *[UNKNOWN] * 60, BAD, BAD), FloodRule(20, 0.5))
    watch = part.watch()
    await part.read(watch, 0, 30)
    await part.read(watch, 30, 90)  # types of another version are not bad
    assert part.n_looks == 0
    await part.read(watch, 90, 91)
    await part.read(watch, 91, 92)
    assert part.n_looks == 1


async def test_a_broker_that_is_away_while_looking_back_is_asked_again() -> None:
    part = Restarted(log_of(*[BAD] * 60), FloodRule(window=20, share=0.5))
    away = True

    async def until_done(send: Callable[[], Awaitable[None]]) -> None:
        if away:
            raise BrokerAway("given up")
        await send()

    watch = part.watch()
    raw = RawBatch(3, 80, 82, part.log[40:41])
    with pytest.raises(BrokerAway):
        await watch.check(raw, CODEC.decode_batch(raw), until_done)
    away = False
    with pytest.raises(DeadLetterFlood):
        await watch.check(raw, CODEC.decode_batch(raw), until_done)
