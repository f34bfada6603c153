"""The sweeper: removes profiles that retention has ended, off the hot path and at a set pace.

Each worker sweeps the partitions it holds, so workers share the work as they share the partitions.
Two that sweep one partition for a moment do no harm: what is safe does not depend on who owns it
(`profiles.store_sweep`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import structlog
from mode import Service

from agents.metrics import Metrics
from profiles.errors import ProfilesError, StoreAway
from profiles.store import ProfileStore
from profiles.store_sweep import STEP_KEYS

ROUND_S = 60.0
"""From one round's beginning to the next, at least: retention is a matter of days."""

TTL_MS = 3_600_000
"""An hour between the verdict and the end, in which an operator may still PERSIST."""

logger = structlog.get_logger(__name__)


class Sweeper(Service):
    """Goes round and round over the records of the partitions held here."""

    def __init__(
        self,
        store: ProfileStore,
        partitions: Callable[[], Collection[int]],
        metrics: Metrics,
        retention_ms: int,
        keys_per_s: int,
        *,
        round_s: float = ROUND_S,
        ttl_ms: int = TTL_MS,
    ) -> None:
        """partitions: those held now. keys_per_s: keys of the store looked at, at most."""
        super().__init__()
        self._store = store
        self._partitions = partitions
        self._metrics = metrics
        self._retention_ms = retention_ms
        self._keys_per_s = keys_per_s
        self._round_s = round_s
        self._ttl_ms = ttl_ms
        self._step_keys = max(1, min(STEP_KEYS, keys_per_s))

    @Service.task
    async def _sweep_regularly(self) -> None:
        while not self.should_stop:
            began = time.monotonic()
            if self._partitions():
                try:
                    await self.sweep()
                except StoreAway as away:
                    logger.warning("sweep broken off", reason=str(away))
                except ProfilesError as error:
                    # Profiles are folded as before; the store only keeps what nobody needs.
                    logger.error("profiles are not swept any more", reason=str(error))
                    return
            await self.sleep(max(1.0, self._round_s - (time.monotonic() - began)))

    async def sweep(self) -> int:
        """One round, at the set pace; returns how many profiles got a time to live.

        Raises StoreAway (begin again), StoreMismatch (the store's user may not do this).
        """
        n_expired = n_looked = 0
        began = time.monotonic()
        async for step in self._store.sweep(
            self._partitions, self._retention_ms, self._ttl_ms, self._step_keys
        ):
            n_looked += step.n_looked
            n_expired += step.n_expired
            self._metrics.swept.inc(step.n_expired)
            self._metrics.sweep_looked.inc(step.n_looked)
            ahead_s = n_looked / self._keys_per_s - (time.monotonic() - began)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
        self._metrics.sweep_time.set(time.time())
        return n_expired
