"""The pages in a real browser, on a real worker, broker and store."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import BrowserContext, Page, expect

from streams.events import Click

Shop = Any  # the one of conftest.py, which can't be imported from here

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

WITHIN_S = 1.0
"""The promise: a click changes the list of the shopper on the screen within a second."""


async def open_shopper(page: Page, shop: Shop, user_id: str) -> None:
    """Search for a shopper as a person would."""
    await page.goto(f"{shop.address}/shopper")
    await page.get_by_label("Shopper (user id)").fill(user_id)
    await page.get_by_role("button", name="Show").click()
    await expect(page.locator(".card h2 small").filter(has_text=user_id)).to_be_visible()
    await expect(page.locator(".entry .title").first).to_be_visible()


async def test_a_click_changes_the_shoppers_list_within_a_second(
    page: Page, shop: Shop, tmp_path: Path
) -> None:
    await open_shopper(page, shop, "shopper-4")
    await expect(page.locator(".history tbody tr")).to_have_count(10)
    before = await page.locator(".entry .title").all_inner_texts()
    assert len(before) == 12

    await page.get_by_label("Item: title or id").fill("garden thing 21")
    await page.locator(".found button").first.click()
    began = time.monotonic()
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator("[data-list-ms]")).to_be_visible(timeout=WITHIN_S * 1_000)
    seen_s = time.monotonic() - began
    after = await page.locator(".entry .title").all_inner_texts()
    await page.screenshot(path=tmp_path / "shopper.png", full_page=True)

    assert seen_s < WITHIN_S
    assert after != before
    measured = await page.locator("[data-list-ms]").get_attribute("data-list-ms")
    assert measured is not None
    assert 0 < float(measured) < WITHIN_S * 1_000
    moves = await page.locator(".entry .move").all_inner_texts()
    assert any(re.search(r"new|▲|▼", move) for move in moves)
    await expect(page.locator(".history tbody tr").first).to_contain_text("Garden thing 21")
    await expect(page.locator(".counts")).to_contain_text("1 click")


async def test_a_shopper_nobody_knows_gets_what_is_popular_and_then_a_profile(
    page: Page, shop: Shop
) -> None:
    user_id = "<b>new & curious</b>"
    await open_shopper(page, shop, user_id)
    await expect(page.locator(".empty")).to_contain_text("No event of this shopper")
    await expect(page.locator(".entry .why").first).to_have_text("popular now")
    await page.locator(".entry").nth(2).get_by_role("button", name="click").click()
    await expect(page.locator("[data-list-ms]")).to_be_visible()
    await expect(page.locator(".counts")).to_contain_text("1 click")
    await expect(page.locator(".entry .why").first).to_contain_text("because of click")
    assert await page.locator("h2 small b").count() == 0  # the id is text, not markup


async def test_a_lately_active_shopper_is_one_click_away_and_has_an_address(
    page: Page, shop: Shop
) -> None:
    await page.goto(f"{shop.address}/shopper")
    chip = page.locator(".chips button").first
    user_id = await chip.inner_text()
    await chip.click()
    await expect(page.locator(".card h2 small").filter(has_text=user_id)).to_be_visible()
    await expect(page).to_have_url(re.compile("user="))
    await page.reload()
    await expect(page.locator(".card h2 small").filter(has_text=user_id)).to_be_visible()


async def test_an_event_without_an_item_is_not_sent_and_says_why(page: Page, shop: Shop) -> None:
    await open_shopper(page, shop, "shopper-6")
    await page.get_by_role("button", name="Send", exact=True).click()
    await expect(page.locator(".notice.bad")).to_contain_text("Choose an item first")


async def test_two_browsers_see_their_own_shopper(
    page: Page, browser: BrowserContext, shop: Shop
) -> None:
    other = await browser.new_page()
    await open_shopper(page, shop, "shopper-8")
    await open_shopper(other, shop, "shopper-9")
    await other.get_by_label("Item: title or id").fill("i17")
    await other.get_by_role("button", name="Send", exact=True).click()
    await expect(other.locator("[data-list-ms]")).to_be_visible()
    await expect(other.locator(".counts")).to_contain_text("1 click")
    assert await page.locator("[data-list-ms]").count() == 0
    await expect(page.locator(".counts")).not_to_contain_text("click")
    await expect(page.locator(".card h2 small").filter(has_text="shopper-8")).to_be_visible()
    await expect(page.get_by_label("Item: title or id")).to_have_value("")


async def test_the_overview_counts_while_events_are_folded(
    page: Page, shop: Shop, tmp_path: Path
) -> None:
    from_tile = page.locator('[data-tile="Events/s"]')
    await page.goto(shop.address)
    await expect(from_tile.locator(".note")).to_contain_text("since start")
    await expect(page.locator(".badge.good").first).to_have_text("ready")
    before = await from_tile.locator(".note").inner_text()
    async with shop.producer() as producer:
        await producer.send_events(
            [
                Click(
                    user_id=f"shopper-{number % 30}",
                    item_id=f"i{number % 40}",
                    ts=time.time_ns() // 1_000_000,
                )
                for number in range(300)
            ]
        )
    await expect(from_tile.locator(".note")).not_to_have_text(before)
    await expect(from_tile.locator(".value")).not_to_have_text("0")
    await expect(page.locator('[data-tile="Lag"] .value')).to_have_text("0")
    await expect(page.locator('[data-tile="Freshness p50"] .value')).to_contain_text("ms")
    await expect(page.locator("polyline")).not_to_have_count(0)
    rows = page.locator("table tbody tr")
    await expect(rows.filter(has_text="updater")).to_contain_text("running")
    await expect(rows.filter(has_text="scorer")).to_contain_text("running")
    assert await rows.count() == 4 + 4  # agents and partitions
    await page.screenshot(path=tmp_path / "overview.png", full_page=True)


async def test_dead_letters_are_shown_as_text(page: Page, shop: Shop, tmp_path: Path) -> None:
    async with shop.producer() as producer:
        where = await producer.send_raw(
            shop.topics.events.name, b"<script>document.title='owned'</script>\xff", b"shopper-1"
        )
    await page.goto(f"{shop.address}/dead-letters")
    line = page.locator("tbody tr").first
    await expect(line).to_contain_text("invalid_utf8", timeout=15_000)
    await expect(line).to_contain_text(
        f"{shop.topics.events.name} / {where.partition} / {where.offset}"
    )
    await expect(line.locator("code")).to_have_text("<script>document.title='owned'</script>\\xff")
    await expect(page).to_have_title("foldstream: dead letters")
    await page.screenshot(path=tmp_path / "dead-letters.png")


async def test_pages_fit_a_phone_and_the_dark(page: Page, shop: Shop, tmp_path: Path) -> None:
    await page.set_viewport_size({"width": 390, "height": 844})
    await page.emulate_media(color_scheme="dark")
    for path in ("", "/shopper?user=shopper-3", "/dead-letters"):
        await page.goto(f"{shop.address}{path}")
        await expect(page.locator("main .card").first).to_be_visible()
        width = await page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, path
        colour = await page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(20, 23, 27)"
    await page.screenshot(path=tmp_path / "phone.png")


async def test_a_running_worker_tells_machines_how_it_is(shop: Shop) -> None:
    async with httpx.AsyncClient(base_url=shop.address, trust_env=False) as client:
        alive = await client.get("/livez")
        assert alive.status_code == 200
        assert set(alive.json()["progress_age_s"]) == {"updater", "scorer"}
        assert (await client.get("/readyz")).status_code == 200
        async with asyncio.timeout(20):
            text = ""
            while 'events_folded_total{kind="purchase"} 300.0' not in text:
                text = (await client.get("/metrics")).text
        assert (await client.get("/no-such-page")).status_code == 404
