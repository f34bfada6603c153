"""The item table as the store holds it, once it holds a given part of the log."""

from __future__ import annotations

from collections.abc import Mapping

from agents.chaos.worker_process import until
from agents.settings import Settings
from agents.store_access import fold_config_of, store_of
from profiles.items import ItemTable
from profiles.store_items import StoredSnapshot


async def stored_items(settings: Settings, ends: Mapping[int, int]) -> ItemTable:
    """The table of the first snapshot that covers the log up to `ends`, by partition.

    Raises NotWithin when no worker writes one.
    """
    found: StoredSnapshot | None = None
    async with store_of(settings) as store:

        async def covers() -> bool:
            nonlocal found
            found = await store.read_item_snapshot()
            return found is not None and all(
                found.next_offsets.get(partition, 0) >= end for partition, end in ends.items()
            )

        await until(covers, f"the item snapshot covers {dict(ends)}")
    assert found is not None
    config = fold_config_of(settings)
    return ItemTable.restore(config.shape, config, found.header, found.chunks)
