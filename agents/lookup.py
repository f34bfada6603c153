"""Reads what a running foldstream keeps, for commands: profiles, item ids, titles."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from agents.catalogue import Catalogue
from agents.generations import read_settings
from agents.metrics import Metrics
from agents.settings import Settings
from agents.store_access import fold_config_of, store_of
from profiles.items import ItemTable
from profiles.profile import Profile
from profiles.record import decode_profile
from profiles.view import ItemView
from streams.partitioner import partition_of


class Lookup:
    """One generation of the store and the catalogue, opened for reading."""

    def __init__(self, settings: Settings) -> None:
        """settings: as given; those of the generation are read from the store at the start."""
        self.catalogue: Catalogue | None = None
        self._open(settings)

    def _open(self, settings: Settings) -> None:
        self.settings = settings
        self.kinds = settings.kinds_table()
        self.config = fold_config_of(settings)
        self.view = ItemView(self.config.shape, self.config)
        self.store = store_of(settings)

    async def __aenter__(self) -> Self:
        async with self.store as store:
            self._open(await read_settings(self.settings, store))
        await self.store.start()
        snapshot = await self.store.read_item_snapshot()
        if snapshot is not None:
            table = ItemTable.restore(
                self.config.shape, self.config, snapshot.header, snapshot.chunks
            )
            self.view.apply(table.take_delta())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.catalogue is not None:
            await self.catalogue.stop()
        await self.store.close()

    def partition(self, user_id: str) -> int:
        """The partition that owns this user."""
        return partition_of(user_id, self.settings.partitions)

    async def profile(self, user_id: str) -> Profile | None:
        """The user's profile; None if no event of theirs was folded."""
        record = (await self.store.read_many(self.partition(user_id), [user_id]))[0]
        return None if record is None else decode_profile(record, self.config.shape, user_id)

    def item_id(self, item_hash: int) -> str:
        """The id behind a record's hash; the hash in hex while no snapshot knows the item."""
        row = int(self.view.rows_of_hashes([item_hash])[0])
        return self.view.ids[row] if row >= 0 else f"#{item_hash:016x}"

    async def titles(self) -> dict[str, str]:
        """Item id -> title, for the items that the catalogue knows."""
        if self.catalogue is None:
            topic = self.settings.topics().items.name
            self.catalogue = Catalogue(self.settings.kafka, topic, Metrics())
            await self.catalogue.start()
        return self.catalogue.titles()
