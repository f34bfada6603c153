"""The evaluator: reads trials, and says how good the lists are, over a window and by slice.

It reads without a group, every evaluator all partitions: figures of a part would be of no use. It
goes on from the trials of the last hour after a restart. Nothing depends on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from mode import Service

from agents.metrics import Metrics
from agents.windows import Window, Windows
from streams.errors import BrokerAway, StreamsError
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.trials import decode_trials

PUBLISH_S = 5.0
LOOK_BACK_MS = 3_600_000
RETRY_S = 1.0

logger = structlog.get_logger(__name__)


class Evaluator(Service):
    """Publishes a `Window` whenever trials came, at most every `PUBLISH_S`."""

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        producer: Producer,
        metrics: Metrics,
        window: int,
        now_ms: Callable[[], int],
        publish_s: float = PUBLISH_S,
    ) -> None:
        """window: trials that the figures are of."""
        super().__init__()
        self.windows = Windows(window)
        self.latest: Window | None = None
        self._bootstrap = bootstrap
        self._topic = topic
        self._producer = producer
        self._metrics = metrics
        self._now_ms = now_ms
        self._publish_s = publish_s
        self._news = asyncio.Event()

    @Service.task
    async def _read(self) -> None:
        while not self.should_stop:
            try:
                since_ms = self._now_ms() - LOOK_BACK_MS
                async with TopicTail(self._bootstrap, self._topic, from_ms=since_ms) as tail:
                    async for records in tail.records():
                        for record in records:
                            self._take(record.value)
            except BrokerAway as away:
                logger.warning("evaluator waits for the broker", reason=str(away))
                await self.sleep(RETRY_S)

    def _take(self, value: bytes | None) -> None:
        try:
            batch = decode_trials(value or b"")
        except StreamsError as error:
            logger.warning("a trial that can't be read", reason=str(error))
            return
        n, breaks = self.windows.take(batch.partition, batch.trials)
        self._metrics.trials.inc(n)
        for found in breaks:
            self._metrics.trial_breaks.labels(found.model).inc()
            logger.warning(
                "hit rate broke",
                model=found.model,
                before=found.before,
                after=found.after,
                event_ms=found.ts,
            )
        if n:
            self._news.set()

    @Service.task
    async def _publish(self) -> None:
        while not self.should_stop:
            await self.wait(self._news)
            if self.should_stop:
                return
            self._news.clear()
            window = self.windows.window()
            if window is not None:
                self.latest = window
                self._metrics.observe_window(window)
                try:
                    await self._producer.send_metrics(msgspec.json.encode(window))
                except BrokerAway as away:
                    logger.warning("window not published", reason=str(away))
            await self.sleep(self._publish_s)
