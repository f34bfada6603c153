"""The same protocol on the live system: events through a broker, ranked by a real worker.

One partition, from offset 0, every event sampled: the worker's ranks must be those of `FoldRanker`,
for both draw by (partition 0, offset) and neither the cut of batches nor the store changes a fold.
The catalogue is sent first: a worker reads it to its end before it folds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import redis
from numpy.typing import NDArray

from agents.bench.bed import Bed, made_bed
from agents.bench.figures import BenchFailed
from agents.bench.programs import checkpoint_count, running, watch, worker
from agents.evaluate.figures import Figures, figures
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.protocol import asked, prequential
from agents.evaluate.run import OnProgress
from agents.evaluate.stream import Stream
from agents.store_access import settings_of
from profiles.interactions import FIRST_OWN_CODE, Kinds
from profiles.shape import FoldConfig
from streams.bulk import BulkProducer
from streams.codec import encode
from streams.tailing import TopicTail
from streams.trials import MISS, Trial, decode_trials

YIELD_EVERY = 500


class Agreement(msgspec.Struct, frozen=True):
    """What a worker ranked. n: events ranked there or here; n_different: whose ranks differ, or
    that only one of the two ranked. first_different: offsets. figures: of the second half, of the
    worker's own three models."""

    data: str
    events: int
    n: int
    n_different: int
    first_different: list[int]
    figures: dict[str, Figures]


def agree(
    stream: Stream,
    config: FoldConfig,
    kinds: Kinds | None = None,
    on_progress: OnProgress = lambda what, done, n: None,
) -> Agreement:
    """Send the stream through a throw-away broker and worker, and compare every rank.

    Raises BenchFailed where the worker does not get through.
    """
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    with made_bed(None, None, 1, lambda step: on_progress(step, 0, len(stream))) as bed:
        asyncio.run(_send(bed, stream, on_progress))
        _work(bed, stream, config, kinds or Kinds(), on_progress)
        trials = asyncio.run(_trials(bed))
    events = asked(stream, 0)
    expected = prequential(
        FoldRanker(config, kinds),
        stream,
        events,
        on_event=lambda b: on_progress("without a broker", b, len(stream)),
    )
    here = dict(zip(events.tolist(), expected.ranks[:, 0].tolist(), strict=True))
    there = {trial.offset: _rank(trial.rank) for trial in trials}
    different = sorted(b for b in here.keys() | there.keys() if here.get(b) != there.get(b))
    half = set(asked(stream).tolist())
    second = [trial for trial in trials if trial.offset in half]
    return Agreement(
        data=stream.name,
        events=len(stream),
        n=len(here.keys() | there.keys()),
        n_different=len(different),
        first_different=different[:10],
        figures={
            FoldRanker.name: figures(ranks_of([trial.rank for trial in second])),
            "popularity": figures(ranks_of([trial.popularity for trial in second])),
            "item-kNN": figures(ranks_of([trial.iknn for trial in second])),
        },
    )


def setting_of(kinds: Kinds) -> list[dict[str, Any]]:
    """The setting `kinds` of a worker that is to know these: the own ones, as they are numbered."""
    own = [kind for kind in kinds.by_name.values() if kind.code >= FIRST_OWN_CODE]
    return [
        {"name": kind.name, "weight": kind.weight, "positive": kind.positive}
        for kind in sorted(own, key=lambda kind: kind.code)
    ]


def _rank(rank: float) -> float:
    return np.inf if rank == MISS else rank


def ranks_of(ranks: Sequence[float]) -> NDArray[np.float64]:
    """float64 (N,): a miss is infinite."""
    return np.array([_rank(rank) for rank in ranks], np.float64)


async def send_catalogue(bed: Bed, stream: Stream, on_progress: OnProgress) -> None:
    """What the catalogue says of the stream's items, acknowledged."""
    producer = BulkProducer(bed.kafka, "foldstream-evaluate")
    await producer.start()
    try:
        for number, (item_id, item) in enumerate(stream.items.items()):
            await producer.put(bed.topics.items.name, item_id.encode(), encode(item))
            if number % YIELD_EVERY == 0:
                on_progress("sending the catalogue", number, len(stream.items))
                await asyncio.sleep(0)
        await producer.flush()
    finally:
        await producer.stop()


async def _send(bed: Bed, stream: Stream, on_progress: OnProgress) -> None:
    """Event b becomes offset b: one partition, in order."""
    await send_catalogue(bed, stream, on_progress)
    producer = BulkProducer(bed.kafka, "foldstream-evaluate")
    await producer.start()
    try:
        for b, event in enumerate(stream.events):
            await producer.put(bed.topics.events.name, event.user_id.encode(), encode(event))
            if b % YIELD_EVERY == 0:
                on_progress("sending", b, len(stream))
                await asyncio.sleep(0)
        await producer.flush()
    finally:
        await producer.stop()


def _work(
    bed: Bed, stream: Stream, config: FoldConfig, kinds: Kinds, on_progress: OnProgress
) -> None:
    """Run a worker until it has folded everything."""
    command = worker(
        {
            "kafka": bed.kafka,
            "redis": bed.redis,
            "data_dir": bed.folder / "worker",
            "topic_prefix": bed.topics.prefix,
            "partitions": 1,
            "store_prefix": bed.name,
            "generation": "g1",
            "group": bed.name,
            "agents": "updater",
            "trials_sampling": 1,
            "kinds": msgspec.json.encode(setting_of(kinds)).decode(),
            **settings_of(config),
        }
    )
    n = len(stream)
    with redis.Redis.from_url(bed.redis) as store:
        count = checkpoint_count(store, bed.name, "g1", 1)
        with running("worker", command, bed.folder) as program:
            watch(program, count, n, lambda done: on_progress("in the worker", min(done, n), n))


async def _trials(bed: Bed) -> list[Trial]:
    """All trials, by offset; a worker that has ended has sent all."""
    found: dict[int, Trial] = {}
    topic = bed.topics.trials.name
    async with TopicTail(bed.kafka, topic, from_beginning=True, follow=False) as tail:
        async for records in tail.records():
            for record in records:
                if record.value is None:
                    raise BenchFailed(f"{topic}: an empty message")
                for trial in decode_trials(record.value).trials:
                    found[trial.offset] = trial
    return [found[offset] for offset in sorted(found)]
