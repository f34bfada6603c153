"""Reference: a careful Faust agent. `take(1000)`, one MGET, one kernel call, one MSET.

Everything is tuned that Faust lets one tune: raw values (no record classes), uvloop, a stream
buffer as large as several takes, no web, no tables. Faust commits positions as it always does.
"""

from __future__ import annotations

import mode.loop

mode.loop.use("uvloop")

import faust  # noqa: E402 - after the loop is chosen, as mode asks
import redis.asyncio  # noqa: E402
from small_work import Order, Progress, SmallWork, decode, read_order  # noqa: E402


def build(order: Order) -> faust.App:
    """The application with its one agent."""
    app = faust.App(
        order.prefix,
        broker=f"kafka://{order.kafka}",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        reply_create_topic=False,
        datadir=f"{order.folder}/{order.prefix}",
        consumer_auto_offset_reset="earliest",
        stream_buffer_maxsize=16_384,
        autodiscover=False,
    )
    topic = app.topic(order.topic, key_serializer="raw", value_serializer="raw", internal=False)
    store = redis.asyncio.Redis.from_url(order.redis)
    progress = Progress(order.progress)
    work = SmallWork()
    work.warm_up()

    @app.agent(topic, name="fold")
    async def fold(stream: faust.StreamT[bytes]) -> None:
        async for values in stream.take(1_000, within=0.05):
            events = [decode(value) for value in values]
            user_ids = list(dict.fromkeys(event.user_id for event in events))
            keys = [f"{order.prefix}:{user_id}" for user_id in user_ids]
            records = work.fold(events, user_ids, await store.mget(keys))
            await store.mset(dict(zip(keys, records, strict=True)))
            progress.add(len(events))

    return app


if __name__ == "__main__":
    faust.Worker(build(read_order()), loglevel="warning").execute_from_commandline()
