"""The load of `bench latency`, a process of its own: sends on schedule, whatever comes back.

An event that is due is sent, also when earlier ones have not been acknowledged: a load that waits
for the system hides its pauses. Run as ``python -m agents.bench.open_loop ORDER``.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from aiokafka import AIOKafkaProducer

from agents.bench.load import Load, click


class LoadOrder(msgspec.Struct, frozen=True):
    """rounds: of `seconds` each, measured, after `warm_s`. result: file for the `LoadResult`."""

    kafka: str
    topic: str
    rate_per_s: float
    warm_s: float
    seconds: float
    rounds: int
    seed: int
    probe_share: float
    result: str


class Probe(msgspec.Struct, frozen=True, array_like=True):
    """One event of a probe user. sent_ms: when it was due; appended_ms: the broker's stamp."""

    round: int
    user_id: str
    offset: int
    sent_ms: float
    appended_ms: int


class LoadResult(msgspec.Struct, frozen=True):
    """behind_ms: the most that an event was sent after it was due."""

    probes: list[Probe]
    n_sent: int
    behind_ms: float


async def send(order: LoadOrder) -> LoadResult:
    """Send the whole schedule; returns the probes once everything is acknowledged."""
    load = Load(seed=order.seed, first_ms=0)
    chosen = load.probes(order.probe_share)
    n = int(order.rate_per_s * (order.warm_s + order.rounds * order.seconds))
    n_warm = int(order.rate_per_s * order.warm_s)
    n_round = max(1, int(order.rate_per_s * order.seconds))
    producer = AIOKafkaProducer(
        bootstrap_servers=order.kafka, acks="all", enable_idempotence=True, linger_ms=0
    )
    await producer.start()
    sent: list[tuple[int, str, float, asyncio.Future[Any]]] = []
    last: asyncio.Future[Any] | None = None
    behind_s = 0.0
    began_s, began_ms = time.perf_counter(), time.time() * 1_000
    try:
        for number, user, item in load.draws(n):
            due_s = number / order.rate_per_s
            wait_s = due_s - (time.perf_counter() - began_s)
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            behind_s = max(behind_s, -wait_s)
            key, value = click(order.seed, number, user, item, time.time_ns() // 1_000_000)
            last = await producer.send(order.topic, key=key, value=value)
            if number >= n_warm and user in chosen:
                round_ = (number - n_warm) // n_round
                sent.append((round_, key.decode(), began_ms + due_s * 1_000, last))
        if last is not None:
            await producer.flush()
    finally:
        await producer.stop()
    probes = [
        Probe(round_, user_id, (await ack).offset, sent_ms, (await ack).timestamp)
        for round_, user_id, sent_ms, ack in sent
    ]
    return LoadResult(probes, n, behind_s * 1_000)


def main() -> None:
    """Run the order in argv[1]; the result is written last, so its presence says "done"."""
    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # retries are its business
    order = msgspec.json.decode(sys.argv[1].encode(), type=LoadOrder)
    result = uvloop.run(send(order))
    part = Path(order.result + ".part")
    part.write_bytes(msgspec.json.encode(result))
    part.replace(order.result)


if __name__ == "__main__":
    main()
