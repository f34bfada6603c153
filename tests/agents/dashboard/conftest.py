"""A real worker in a process of its own, with a small shop in it, and a real browser."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, async_playwright

from agents.http.address import read_addresses
from streams.embedded.guard import Guarded
from streams.embedded.stack import Stack
from streams.events import Item, Purchase
from streams.producer import Producer
from streams.topics import TopicSet

FLAGS = [
    "--headless",
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 120  # the first start compiles the kernel


@dataclass(frozen=True, slots=True)
class Shop:
    """A running worker, and where its topics are."""

    address: str
    kafka: str
    topics: TopicSet

    def producer(self) -> Producer:
        """A producer of the shop's own."""
        return Producer(self.kafka, self.topics, client_id="shop")


@pytest.fixture(scope="session")
def shop(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A worker with every agent, and 40 items in two groups that 30 shoppers keep apart."""
    folder = tmp_path_factory.mktemp("shop")
    name = f"d{uuid.uuid4().hex[:10]}"
    config = folder / "foldstream.toml"
    config.write_text(
        f'kafka = "{stack.kafka}"\nredis = "{stack.redis}"\ndata_dir = "{folder}"\n'
        f'topic_prefix = "{name}"\nstore_prefix = "{name}"\ngroup = "{name}"\npartitions = 4\n'
    )
    worker = Guarded(
        "worker",
        [sys.executable, "-m", "agents", "worker", "--config", config],
        folder / "worker.log",
        grace_s=10,
    )
    try:
        address = wait_until_ready(folder, worker)
        running = Shop(address, stack.kafka, TopicSet(name, 4))
        asyncio.run(fill(running))
        yield running
    finally:
        worker.stop()


def wait_until_ready(folder: Path, worker: Guarded) -> str:
    """The worker's address once it says that it is ready."""
    give_up_s = time.monotonic() + START_S
    while time.monotonic() < give_up_s and worker.alive:
        for entry in read_addresses(folder):
            if httpx.get(f"{entry.address}/readyz", trust_env=False).status_code == 200:
                return entry.address
        time.sleep(0.2)
    raise AssertionError(f"the worker did not get ready:\n{worker.log_tail()}")


async def fill(shop: Shop) -> None:
    """Catalogue and first events."""
    now_ms = time.time_ns() // 1_000_000
    async with shop.producer() as producer:
        for number in range(40):
            group = "Garden" if number % 2 else "Kitchen"
            await producer.send_item(
                Item(item_id=f"i{number}", title=f"{group} thing {number}", price=1.5 + number)
            )
        await producer.send_events(
            [
                Purchase(
                    user_id=f"shopper-{user}",
                    item_id=f"i{(user % 2 + 2 * (user + 7 * step)) % 40}",
                    ts=now_ms,
                    event_id=f"{user}-{step}",
                )
                for step in range(10)
                for user in range(30)
            ]
        )


@pytest_asyncio.fixture
async def browser(tmp_path: Path) -> AsyncIterator[BrowserContext]:
    """Chromium with a profile folder of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium: apt-get install chromium")
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            tmp_path / "chromium",
            executable_path=chromium,
            args=FLAGS,
            headless=True,
            viewport={"width": 1280, "height": 900},
        )
        yield context
        await context.close()


@pytest_asyncio.fixture
async def page(browser: BrowserContext, shop: Shop) -> AsyncIterator[Page]:
    """A page; it must not complain, nor ask another host for anything."""
    complaints: list[str] = []
    opened = await watched(browser, shop, complaints)
    yield opened
    assert complaints == []


async def watched(browser: BrowserContext, shop: Shop, complaints: list[str]) -> Page:
    """A new page that reports errors, and requests that leave the worker, to `complaints`."""
    opened = await browser.new_page()
    ours = (shop.address, shop.address.replace("http", "ws"), "data:", "blob:")
    opened.on(
        "console",
        lambda message: (
            complaints.append(message.text) if message.type in ("error", "warning") else None
        ),
    )
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "request",
        lambda request: None if request.url.startswith(ours) else complaints.append(request.url),
    )
    return opened
