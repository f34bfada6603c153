"""The end of what runs beside a scenario."""

from __future__ import annotations

import asyncio


async def ended(task: asyncio.Task[None] | None) -> None:
    """Cancel it and wait for its end. Raises what ended it before: what it did not see can't be
    vouched for."""
    if task is not None:
        task.cancel()
        (end,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(end, Exception):
            raise end
