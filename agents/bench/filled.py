"""A shop's tables filled by folding simulated events, with no broker: lists, groups, popularity.

The product's translation, fold and view; the simulator's catalogue and shoppers. A thread may go on
folding at a given rate while somebody ranks, as the worker's model thread does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import msgspec
import numpy as np

from agents.candidate_keeper import PAUSE_S, SHARE
from agents.describe import description_of
from agents.model import pause_after
from agents.simulate.shop import Shop, ShopConfig
from agents.translate import Translator
from profiles.fold import fold_batch
from profiles.interactions import Kinds
from profiles.items import ItemTable
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from profiles.view import ItemView
from streams.events import Event, Item, event_union

DESCRIBED_AT_ONCE = 10_000


class FilledShop:
    """Tables of one shop of `n_items`, all in the catalogue, and a view that follows them."""

    def __init__(self, n_items: int, n_users: int, seed: int, on_step: Callable[[str], None]):
        self.config = FoldConfig()
        self.kinds = Kinds()
        self.items = ItemTable(self.config.shape, self.config, capacity=n_items)
        self.profiles = ProfileTable(self.config.shape, capacity=n_users)
        self.view = ItemView(self.config.shape, self.config, capacity=n_items)
        self.n_folded = 0
        self._shop = Shop(ShopConfig(n_users=n_users, n_items=n_items, seed=seed))
        self._decode: Callable[[bytes], Event] = msgspec.json.Decoder(event_union()).decode
        self._translator = Translator(self.kinds, self.config.shape.n_tokens)
        self._events = self._forever()
        self._watermark_ms = 0
        self._describe(on_step)

    def fold(self, n: int) -> None:
        """Fold the next n events. The caller's thread is the tables' only writer."""
        events = [next(self._events) for _ in range(n)]
        missing = self.profiles.missing([event.user_id for event in events])
        self.profiles.load(missing, [None] * len(missing))
        offsets = list(range(self.n_folded, self.n_folded + n))
        batch = self._translator.translate(
            0, events, offsets, [event.ts for event in events], self.profiles, self.items
        )
        report = fold_batch(self.profiles, self.items, batch, self.config, self._watermark_ms)
        self._watermark_ms = report.watermark_ms
        self.n_folded += n

    def publish(self) -> None:
        """Let the view see what was folded."""
        self.view.apply(self.items.take_delta())

    def sample(self, n: int, seed: int) -> tuple[list[str], list[bytes]]:
        """Up to n different users with a profile, and their records."""
        known = [f"u{user}" for user in range(len(self._shop.shoppers))]
        missing = set(self.profiles.missing(known))
        known = [user_id for user_id in known if user_id not in missing]
        picks = np.random.default_rng(seed).permutation(len(known))[:n].tolist()
        chosen = [known[pick] for pick in picks]
        return chosen, self.profiles.pack(self.profiles.rows(chosen))

    @property
    def clock_ms(self) -> int:
        """The largest event time folded."""
        return self._watermark_ms

    @contextmanager
    def folding(
        self, rate_per_s: float, keeper: Callable[[float], None] | None = None
    ) -> Iterator[None]:
        """Within the block a thread folds so many events a second, and publishes them; another one
        calls the keeper, for a fifth of a core.

        keeper: told the time, by a clock that rises. A failure in a thread is raised at the end of
        the block.
        """
        stop = threading.Event()

        def fold() -> None:
            began, done, pause_s = time.perf_counter(), 0, 0.0
            while not stop.wait(pause_s):
                due = min(1_000, int((time.perf_counter() - began) * rate_per_s) - done)
                if due > 0:
                    self.fold(due)
                    done += due
                looked = time.perf_counter()
                if due > 0:
                    self.publish()
                pause_s = pause_after(time.perf_counter() - looked)

        def keep(keeper: Callable[[float], None]) -> None:
            pause_s = PAUSE_S
            while not stop.wait(pause_s):
                began = time.monotonic()
                keeper(began)
                pause_s = max(PAUSE_S, SHARE * (time.monotonic() - began))

        with ThreadPoolExecutor(2, thread_name_prefix="fold") as pool:
            work = [pool.submit(fold)] if rate_per_s > 0 else []
            if keeper is not None:
                work.append(pool.submit(keep, keeper))
            try:
                yield
            finally:
                stop.set()
            for one in work:
                one.result()

    def _describe(self, on_step: Callable[[str], None]) -> None:
        """Catalogue entries, a block at a time: a million of them at once are a gigabyte."""
        every = self._shop.items()
        for first in range(0, len(every), DESCRIBED_AT_ONCE):
            part: list[Item] = every[first : first + DESCRIBED_AT_ONCE]
            self.items.describe({item.item_id: description_of(item) for item in part})
            on_step(f"describing items, {first + len(part):,} of {len(every):,}")

    def _forever(self) -> Iterator[Event]:
        for chunk in self._shop.stream():
            yield from map(self._decode, chunk.values)
