"""Work that ends although it is cancelled. (The fence itself: tests/contracts.)"""

from __future__ import annotations

import asyncio

import pytest

from profiles.store_commit import unhurried


async def test_a_cancelled_caller_waits_for_the_end():
    gate, ended = asyncio.Event(), []

    async def work() -> str:
        await gate.wait()
        ended.append(True)
        return "done"

    caller = asyncio.create_task(unhurried(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_results_and_errors_pass():
    async def fine() -> int:
        return 5

    async def wrong() -> None:
        raise KeyError("x")

    assert await unhurried(fine()) == 5
    with pytest.raises(KeyError):
        await unhurried(wrong())


async def test_an_error_of_cancelled_work_is_not_reported_as_unseen():
    gate = asyncio.Event()

    async def work() -> None:
        await gate.wait()
        raise KeyError("x")

    caller = asyncio.create_task(unhurried(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
