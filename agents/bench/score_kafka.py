"""The rest of `bench score`: requests as a user sends them, through Kafka, to a running worker.

A request is timed from its sending until its answer can be read on `recommendations`, while other
events are folded and other users' lists are pushed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import redis
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition

from agents.bench.bed import Bed
from agents.bench.figures import BenchFailed, figure
from agents.bench.programs import checkpoint_count, watch
from agents.bench.report import Table
from agents.bench.score import quantiles
from agents.bench.worker_runs import workers
from agents.simulate.run import SimulationPlan, SimulationReport, simulate
from agents.simulate.shop import Shop, ShopConfig
from streams.bulk import BulkProducer
from streams.codec import decode_recommendation
from streams.events import RecommendRequest
from streams.producer import Producer
from streams.reader import start_client

N_EVENTS = 20_000
N_USERS = 5_000
PATIENCE_S = 10.0
IN_FLIGHT = {"one": 1, "32 at once": 32}


def score_kafka(
    bed: Bed,
    n_items: int,
    seconds: float,
    repeats: int,
    rate_per_s: float,
    on_step: Callable[[str], None],
) -> dict[str, Table]:
    """Tables of requests/s and latency by how many are under way. Raises BenchFailed."""
    shop = Shop(ShopConfig(n_users=N_USERS, n_items=n_items, seed=3, search=0.0))
    asyncio.run(_send(bed, shop, SimulationPlan(n_events=N_EVENTS, rate=None, with_catalogue=True)))
    name = f"{bed.name}-score"
    with (
        redis.Redis.from_url(bed.redis) as store,
        workers(bed, name, 1, {"agents": "catalogue,updater,scorer"}) as (started,),
    ):
        count = checkpoint_count(store, name, "g1", bed.topics.partitions)
        watch(
            started.program,
            count,
            N_EVENTS,
            lambda n: on_step(f"through Kafka: worker folds, {n:,} of {N_EVENTS:,}"),
        )
        run = _measure(bed, shop, seconds, repeats, rate_per_s, on_step)
        rates, latencies, n_bytes = uvloop.run(run)
        if not started.program.alive():
            raise BenchFailed(f"the worker ended:\n{started.program.log_tail()}")
    return {
        "kafka, requests": Table(
            f"{n_items:,} items, through Kafka: requests",
            "requests/s",
            {about: {"": figure(values)} for about, values in rates.items()},
        ),
        "kafka, latency": Table(
            f"{n_items:,} items, through Kafka: sent to readable",
            "ms",
            {about: quantiles(rounds) for about, rounds in latencies.items()},
        ),
        "kafka, bytes": Table(
            "an answer on Kafka", "bytes", {"20 items with their reasons": {"": figure([n_bytes])}}
        ),
    }


async def _send(bed: Bed, shop: Shop, plan: SimulationPlan) -> None:
    producer = BulkProducer(bed.kafka, "foldstream-bench")
    await producer.start()
    try:
        await simulate(shop, producer, bed.topics, plan, SimulationReport())
    finally:
        await producer.stop()


async def _measure(
    bed: Bed,
    shop: Shop,
    seconds: float,
    repeats: int,
    rate_per_s: float,
    on_step: Callable[[str], None],
) -> tuple[dict[str, list[float]], dict[str, list[list[float]]], float]:
    """Requests/s, seconds of each request, and the mean bytes of an answer."""
    rates: dict[str, list[float]] = {}
    latencies: dict[str, list[list[float]]] = {}
    plan = SimulationPlan(n_events=None, rate=rate_per_s, with_catalogue=False)
    async with _client(bed) as client:
        load = asyncio.create_task(_send(bed, shop, plan))
        try:
            await client.ask("u0")  # connections, and the lists of what was there before
            for number in range(1, repeats + 1):
                for about, n in IN_FLIGHT.items():
                    on_step(f"through Kafka, round {number} of {repeats}: {about}")
                    took_s, within_s = await _round(client, n, seconds)
                    rates.setdefault(about, []).append(len(took_s) / within_s)
                    latencies.setdefault(about, []).append(took_s)
                    if load.done():
                        load.result()
        finally:
            load.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await load
    return rates, latencies, client.answered_bytes / client.n_answers


async def _round(client: _Client, n: int, seconds: float) -> tuple[list[float], float]:
    """Seconds of each request, n under way at any time; and how long all took."""
    took_s: list[float] = []
    began = time.perf_counter()

    async def keep_asking(first: int) -> None:
        user = first
        while time.perf_counter() - began < seconds:
            took_s.append(await client.ask(f"u{user % N_USERS}"))
            user += n

    await asyncio.gather(*(keep_asking(first) for first in range(n)))
    return took_s, time.perf_counter() - began


class _Client:
    """A shop's client: one producer, one reader of all answers."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._n = 0
        self._waiting: dict[str, asyncio.Future[float]] = {}
        self.n_answers = 0
        self.answered_bytes = 0

    async def ask(self, user_id: str) -> float:
        """Seconds until the answer could be read. Raises BenchFailed without one."""
        self._n += 1
        request_id = f"r{self._n}"
        answer: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = answer
        began = time.perf_counter()
        await self._producer.send_request(RecommendRequest(request_id=request_id, user_id=user_id))
        try:
            async with asyncio.timeout(PATIENCE_S):
                answered_s = await answer
            return answered_s - began
        except TimeoutError as error:
            raise BenchFailed(f"no answer to a request within {PATIENCE_S:.0f} s") from error

    async def follow(self, consumer: AIOKafkaConsumer) -> None:
        """Note when each answer could be read."""
        while True:
            fetched = await consumer.getmany(timeout_ms=1_000)
            now_s = time.perf_counter()
            for records in fetched.values():
                for record in records:
                    if b'"request_id"' not in record.value:
                        continue  # a list that was pushed
                    answer = decode_recommendation(record.value)
                    waiting = self._waiting.pop(answer.request_id or "", None)
                    if waiting is None or waiting.done():
                        continue
                    if answer.error is None and answer.items:
                        waiting.set_result(now_s)
                        self.n_answers += 1
                        self.answered_bytes += len(record.value)
                    else:
                        waiting.set_exception(BenchFailed(f"a wrong answer: {answer.error}"))


@asynccontextmanager
async def _client(bed: Bed) -> AsyncIterator[_Client]:
    producer = Producer(bed.kafka, bed.topics, client_id="foldstream-bench")
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bed.kafka, enable_auto_commit=False, group_id=None
    )
    await producer.start()
    await start_client(consumer, bed.kafka)
    topic = bed.topics.recommendations
    parts = [TopicPartition(topic.name, number) for number in range(bed.topics.partitions)]
    consumer.assign(parts)
    await consumer.seek_to_end(*parts)
    for part in parts:
        await consumer.position(part)  # the seek is lazy: fix the end before anybody asks
    client = _Client(producer)
    following = asyncio.create_task(client.follow(consumer))
    try:
        yield client
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await consumer.stop()
        await producer.stop()
