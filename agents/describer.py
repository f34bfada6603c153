"""The item table hears what the catalogue says: all before anything is folded, then each change.

Owns when. What the table had heard at an event is no fact: no profile's facts depend on it, and a
replay may have heard more.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from mode import Service

from agents.catalogue import Catalogue
from agents.describe import description_of
from agents.model import Model
from profiles.facets import Description

PORTION = 500
"""Items told in one go: some 10 ms of the event loop, and then of the model thread."""

SMALL = 8
"""So few are told without a change of threads: well under a millisecond."""


class Describer(Service):
    """Tells the item table what the catalogue says."""

    def __init__(self, catalogue: Catalogue, model: Model) -> None:
        super().__init__()
        self._catalogue = catalogue
        self._model = model

    async def on_start(self) -> None:
        await self._tell()
        await self._model.run(self._forget)
        self._model.note_news()

    @Service.task
    async def _follow(self) -> None:
        while not self.should_stop:
            await self.wait(self._catalogue.has_news)
            await self._tell()

    async def _tell(self) -> None:
        model = self._model
        while told := self._catalogue.take_news(PORTION):
            said = {i: None if item is None else description_of(item) for i, item in told.items()}
            await model.run(partial(self._describe, said), small=len(said) <= SMALL)
            model.note_news()

    def _forget(self) -> None:
        """In the model thread: a snapshot may tell of entries that were deleted since."""
        items = self._model.items
        items.describe(
            {item_id: None for item_id in items.descriptions() if not self._catalogue.get(item_id)}
        )

    def _describe(self, said: Mapping[str, Description | None]) -> None:
        """In the model thread: the table may have been replaced since."""
        self._model.items.describe(said)
