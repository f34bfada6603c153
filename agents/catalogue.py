"""The catalogue: `foldstream.items`, read whole by every process that needs it.

Owns what the shop says of its items: titles, prices, whether they are in stock. Item vectors are
the model's business.
"""

from __future__ import annotations

import asyncio
from itertools import islice

import msgspec
import structlog
from mode import Service

from agents.metrics import Metrics
from streams.batch import Message
from streams.codec import decode_item
from streams.errors import DecodeError
from streams.events import Item
from streams.reader import ANSWER_S
from streams.replica import Replica

logger = structlog.get_logger(__name__)

SAID = 100
"""Refused items that get a line each in the log; then every hundredth does, for a flood."""


class Catalogue(Service):
    """All items of the shop, kept up to date from the compacted topic."""

    def __init__(
        self, bootstrap: str, topic: str, metrics: Metrics, answer_s: float = ANSWER_S
    ) -> None:
        """answer_s: of the broker; without one for so long, its connection is made anew."""
        super().__init__()
        self.out_of_stock: set[str] = set()
        self.version = 0  # rises with every change, so that readers know when to look again
        self.has_news = asyncio.Event()  # set while `take_news` has something
        self._news: dict[str, None] = {}
        self._items: dict[str, Item] = {}
        self._n_refused = 0
        self._metrics = metrics
        self._replica = Replica(bootstrap, topic, self._take, answer_s=answer_s)

    async def on_start(self) -> None:
        await self._replica.start()
        await self._replica.caught_up()
        # In an order that hangs on no partition: a table that learns draws from it.
        self._news = dict.fromkeys(sorted(self._news))
        logger.info("catalogue read", items=len(self._items))

    async def on_stop(self) -> None:
        await self._replica.stop()

    @Service.task
    async def _watch(self) -> None:
        """A replica that has ended would leave stock and titles as they were for ever."""
        await self._replica.wait()

    def get(self, item_id: str) -> Item | None:
        """What the shop says of an item; None if nothing."""
        return self._items.get(item_id)

    def take_news(self, most: int) -> dict[str, Item | None]:
        """Items that say something else than at the last call, in the order of their news; None:
        gone. Of everything at first, by id; stock makes no news. One caller takes them."""
        told = {item_id: self._items.get(item_id) for item_id in islice(self._news, most)}
        for item_id in told:
            del self._news[item_id]
        if not self._news:
            self.has_news.clear()
        return told

    def title(self, item_id: str) -> str:
        """A name for people: the title, else the id."""
        item = self._items.get(item_id)
        return item.title if item is not None and item.title else item_id

    def titles(self) -> dict[str, str]:
        """Item id -> title, of the items that have one."""
        return {item_id: item.title for item_id, item in self._items.items() if item.title}

    def __len__(self) -> int:
        return len(self._items)

    def _take(self, message: Message) -> None:
        """One upsert or, with a null value, deletion."""
        item_id = (message.key or b"").decode("utf-8", "replace")
        before = self._items.get(item_id)
        if message.value is None:
            self._items.pop(item_id, None)
            self.out_of_stock.discard(item_id)
        else:
            try:
                item = decode_item(message.value)
                if message.key != item.item_id.encode():
                    raise DecodeError(
                        "key_mismatch", "compaction goes by the key, which is not the item_id"
                    )
            except DecodeError as error:
                self._metrics.unreadable.labels("items", error.code).inc()
                self._n_refused += 1
                if self._n_refused <= SAID or self._n_refused % SAID == 0:
                    logger.warning(
                        "not an item",
                        key=item_id[:64],
                        offset=message.offset,
                        reason=str(error)[:200],
                        refused=self._n_refused,
                    )
                return
            self._items[item.item_id] = item
            if item.in_stock:
                self.out_of_stock.discard(item.item_id)
            else:
                self.out_of_stock.add(item.item_id)
        self.version += 1  # behind the change: a thread may look at both
        if not _says_the_same(before, self._items.get(item_id)):
            self._news[item_id] = None
            self.has_news.set()
        self._metrics.catalogue_items.set(len(self._items))


def _says_the_same(one: Item | None, other: Item | None) -> bool:
    """Whether two entries differ in stock at most."""
    if one is None or other is None:
        return one is other
    return one == msgspec.structs.replace(other, in_stock=one.in_stock)
