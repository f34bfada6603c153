"""The two links of a bed's workers: to the broker and to the store.

Owns the proxies; the broker is started anew, so that it tells whoever comes by the proxy to stay on
it. What stays true: workers with `Links.settings` reach broker and store by these links only, while
load, watcher and verifier go straight there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from agents.chaos.bed import Bed
from agents.chaos.link import LOOPBACK, Link


@dataclass(frozen=True, slots=True)
class Links:
    """Both links, by the names that `/readyz` uses for what lies behind them."""

    broker: Link
    store: Link

    @property
    def settings(self) -> dict[str, str]:
        """What a worker has to be told."""
        return {"kafka": self.broker.address, "redis": f"redis://{self.store.address}/0"}

    def named(self, name: str) -> Link:
        """``broker`` or ``store``."""
        return {"broker": self.broker, "store": self.store}[name]


@asynccontextmanager
async def linked(bed: Bed) -> AsyncIterator[Links]:
    """Put a link before the broker and one before the (standalone) store of a bed."""
    broker = bed.broker.server
    async with (
        Link("broker", LOOPBACK, 0) as to_broker,
        Link("store", LOOPBACK, bed.store.server.port) as to_store,
    ):
        await bed.broker.terminate()
        broker.proxy_port = to_broker.port
        await bed.broker.start()
        to_broker.aim(LOOPBACK, broker.behind_proxy)
        yield Links(to_broker, to_store)
