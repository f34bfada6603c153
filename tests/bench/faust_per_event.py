"""Reference: the Faust agent as its documentation shows it. One event, one GET, one SET."""

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
        autodiscover=False,
    )
    topic = app.topic(order.topic, key_serializer="raw", value_serializer="raw", internal=False)
    store = redis.asyncio.Redis.from_url(order.redis)
    progress = Progress(order.progress)
    work = SmallWork()
    work.warm_up()

    @app.agent(topic, name="fold")
    async def fold(stream: faust.StreamT[bytes]) -> None:
        async for value in stream:
            event = decode(value)
            key = f"{order.prefix}:{event.user_id}"
            (record,) = work.fold([event], [event.user_id], [await store.get(key)])
            await store.set(key, record)
            progress.add(1)

    return app


if __name__ == "__main__":
    faust.Worker(build(read_order()), loglevel="warning").execute_from_commandline()
