"""What it costs in quality that several workers share the learning (`--through-kafka --workers`).

The same stream, at the same pace, over the same partitions, so that draws and order within a
partition do not change: only who learns what does. The workers exchange their items as they always
do. How they interleave is up to the machine, so figures differ a little from run to run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AsyncExitStack

import msgspec

from agents.bench.bed import Bed, made_bed
from agents.chaos.worker_process import WorkerProcess, until
from agents.evaluate.figures import Figures, figures
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.protocol import asked
from agents.evaluate.run import OnProgress
from agents.evaluate.stream import Stream
from agents.evaluate.through_kafka import ranks_of
from agents.settings import load_settings
from agents.store_access import settings_of
from profiles.shape import FoldConfig
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.tailing import TopicTail
from streams.trials import Trial, decode_trials

PARTITIONS = 4
"""However many workers there are."""

STEP_S = 0.02
STALL_S = 300.0


class Shared(msgspec.Struct, frozen=True):
    """What `workers` workers ranked together at `rate` events a second.

    n: events ranked, of n_asked. figures: of the second half, of the workers' own three models; the
    two rivals are each worker's own and see its share of the events alone.
    """

    data: str
    events: int
    workers: int
    rate: float
    n: int
    n_asked: int
    figures: dict[str, Figures]


def shared(
    stream: Stream,
    config: FoldConfig,
    n_workers: int,
    rate: float,
    on_progress: OnProgress = lambda what, done, n: None,
) -> Shared:
    """Send the stream through a throw-away broker to so many workers.

    rate: events sent a second. Raises NotWithin where they do not get through.
    """
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with made_bed(None, None, PARTITIONS, lambda step: on_progress(step, 0, len(stream))) as bed:
        trials = asyncio.run(_ranked(bed, stream, config, n_workers, rate, on_progress))
    half = asked(stream)
    second = [trials[b] for b in half.tolist() if b in trials]
    return Shared(
        data=stream.name,
        events=len(stream),
        workers=n_workers,
        rate=rate,
        n=len(second),
        n_asked=len(half),
        figures={
            FoldRanker.name: figures(ranks_of([trial.rank for trial in second])),
            "popularity": figures(ranks_of([trial.popularity for trial in second])),
            "item-kNN": figures(ranks_of([trial.iknn for trial in second])),
        },
    )


async def _ranked(
    bed: Bed,
    stream: Stream,
    config: FoldConfig,
    n_workers: int,
    rate: float,
    on_progress: OnProgress,
) -> dict[int, Trial]:
    """Event -> its trial."""
    n = len(stream)
    async with AsyncExitStack() as stack:
        workers = [_worker(bed, config, number) for number in range(n_workers)]
        for number, worker in enumerate(workers):
            on_progress("starting workers", number, n_workers)
            await stack.enter_async_context(worker)
        for worker in workers:
            await worker.ready()

        async def divided() -> bool:
            held = [await w.metric("foldstream_partitions_assigned") for w in workers]
            return sum(held) == PARTITIONS and min(held) > 0

        await until(divided, "every worker has partitions", STALL_S)
        await _send(bed, stream, rate, on_progress)

        async def folded() -> bool:
            done = [await w.metric("foldstream_events_folded_total") for w in workers]
            on_progress("in the workers", min(n, int(sum(done))), n)
            await asyncio.sleep(0.5)
            return sum(done) >= n

        await until(folded, "all events are folded", STALL_S)
    place: dict[tuple[int, int], int] = {}
    of_id = {event.event_id: b for b, event in enumerate(stream.events)}
    decode = msgspec.json.Decoder(_Named).decode
    topics = bed.topics
    async with TopicTail(bed.kafka, topics.events.name, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            for record in records:
                place[record.partition, record.offset] = of_id[decode(record.value).event_id]
    found: dict[int, Trial] = {}
    async with TopicTail(bed.kafka, topics.trials.name, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            for record in records:
                batch = decode_trials(record.value)
                for trial in batch.trials:
                    found[place[batch.partition, trial.offset]] = trial
    return found


class _Named(msgspec.Struct):
    event_id: str


def _worker(bed: Bed, config: FoldConfig, number: int) -> WorkerProcess:
    values = {
        "kafka": bed.kafka,
        "redis": bed.redis,
        "data_dir": bed.folder / "workers",
        "worker_id": f"w{number}",
        "topic_prefix": bed.topics.prefix,
        "partitions": PARTITIONS,
        "store_prefix": bed.name,
        "generation": "g1",
        "group": bed.name,
        "agents": ["updater"],
        "trials_sampling": 1.0,
        **settings_of(config),
    }
    return WorkerProcess(load_settings(values, environment={}).settings)


async def _send(bed: Bed, stream: Stream, rate: float, on_progress: OnProgress) -> None:
    """All events in order, at a pace: the exchange goes by the clock."""
    producer = BulkProducer(bed.kafka, "foldstream-evaluate")
    await producer.start()
    began = time.monotonic()
    try:
        for b, event in enumerate(stream.events):
            early_s = b / rate - (time.monotonic() - began)
            if early_s > STEP_S:
                on_progress("sending", b, len(stream))
                await producer.send_open()
                await asyncio.sleep(early_s)
            await producer.put(bed.topics.events.name, event.user_id.encode(), encode(event))
        await producer.flush()
    finally:
        await producer.stop()
