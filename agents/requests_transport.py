"""Faust's connection to the broker for the agent on `requests`, ended as our own clients are.

Faust 0.15.3 ends its consumer with aiokafka's own `stop`, which, while the broker is away, raises
a CancelledError that nobody sent: its thread dies, and the worker waits for it for ever.
"""

from __future__ import annotations

import faust
from faust.transport.consumer import ConsumerThread
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.transport.drivers.aiokafka import Consumer as KafkaConsumer
from faust.transport.drivers.aiokafka import Transport as KafkaTransport

from streams.aiokafka_mends import mend
from streams.reader import stop_consumer


class _Thread(AIOKafkaConsumerThread):
    async def on_thread_stop(self) -> None:
        """Stop the queue of calls, then the consumer; within seconds, whoever is away."""
        await ConsumerThread.on_thread_stop(self)
        if self._consumer is not None:
            await stop_consumer(self._consumer, leave=True)


class _Consumer(KafkaConsumer):
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class _Transport(KafkaTransport):
    Consumer = _Consumer


class RequestsApp(faust.App):
    """A Faust application that can be stopped without its broker."""

    def _new_transport(self) -> _Transport:
        mend()
        return _Transport(self.conf.broker_consumer, self)
