"""What it costs in quality that several workers share the learning (`--through-kafka --workers`).

The same stream, at the same pace, over the same partitions, so that draws and order within a
partition do not change: only who learns what does. The workers exchange their items as they always
do. How they interleave is up to the machine, so figures differ a little from run to run.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

import msgspec
import redis

from agents.bench.bed import Bed, made_bed
from agents.bench.figures import BenchFailed
from agents.bench.programs import STALL_S, checkpoint_count
from agents.chaos.worker_process import NotWithin, WorkerProcess, until
from agents.evaluate.figures import Figures, figures
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.protocol import asked
from agents.evaluate.run import OnProgress
from agents.evaluate.stream import Stream
from agents.evaluate.through_kafka import ranks_of, send_catalogue, setting_of
from agents.settings import load_settings
from agents.store_access import settings_of
from profiles.interactions import Kinds
from profiles.shape import FoldConfig
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.tailing import TopicTail
from streams.trials import Trial, decode_trials

PARTITIONS = 4
"""However many workers there are."""

STEP_S = 0.02
LOOK_S = 0.2
DIVIDED_S = 300.0
"""Until every worker has partitions: they join the group one after the other."""


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
    kinds: Kinds | None = None,
    on_progress: OnProgress = lambda what, done, n: None,
) -> Shared:
    """Send the stream through a throw-away broker to so many workers.

    rate: events sent a second. Raises BenchFailed where they do not get through.
    """
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with made_bed(None, None, PARTITIONS, lambda step: on_progress(step, 0, len(stream))) as bed:
        trials = asyncio.run(
            _ranked(bed, stream, config, n_workers, rate, kinds or Kinds(), on_progress)
        )
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
    kinds: Kinds,
    on_progress: OnProgress,
) -> dict[int, Trial]:
    """Event -> its trial."""
    n = len(stream)
    await send_catalogue(bed, stream, on_progress)
    async with AsyncExitStack() as stack:
        workers = [_worker(bed, config, kinds, number) for number in range(n_workers)]
        for number, worker in enumerate(workers):
            on_progress("starting workers", number, n_workers)
            await stack.enter_async_context(worker)
        await _shared_out(workers)
        await _send(bed, stream, rate, on_progress)
        store = stack.enter_context(redis.Redis.from_url(bed.redis))
        count = checkpoint_count(store, bed.name, "g1", PARTITIONS)
        await watched(workers, count, n, lambda done: on_progress("in the workers", done, n))
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


async def _shared_out(workers: Sequence[WorkerProcess]) -> None:
    """Wait until every worker has partitions. Raises BenchFailed."""

    async def divided() -> bool:
        held = [await w.metric("foldstream_partitions_assigned") for w in workers]
        return sum(held) == PARTITIONS and min(held) > 0

    try:
        for worker in workers:
            await worker.ready()
        await until(divided, "every worker has partitions", DIVIDED_S)
    except NotWithin as late:
        raise BenchFailed(str(late)) from late


async def watched(
    workers: Sequence[WorkerProcess],
    count: Callable[[], int],
    n: int,
    on_progress: Callable[[int], None],
    stall_s: float = STALL_S,
) -> None:
    """Wait until n events are done, however long it takes.

    Raises BenchFailed when a worker ends, or nothing is done for `stall_s`.
    """
    done, moved_s = -1, time.monotonic()
    while done < n:
        now, now_s = await asyncio.to_thread(count), time.monotonic()
        if now != done:
            done, moved_s = now, now_s
            on_progress(min(done, n))
            continue
        for worker in workers:
            if not worker.alive():
                raise BenchFailed(
                    f"worker {worker.name} ended after {done:,} events:\n{worker.log_tail()}"
                )
        if now_s - moved_s > stall_s:
            raise BenchFailed(
                f"the workers stand at {done:,} of {n:,} events for {stall_s:.0f} s:\n"
                + "\n".join(worker.log_tail() for worker in workers)
            )
        await asyncio.sleep(LOOK_S)


class _Named(msgspec.Struct):
    event_id: str


def _worker(bed: Bed, config: FoldConfig, kinds: Kinds, number: int) -> WorkerProcess:
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
        "kinds": setting_of(kinds),
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
