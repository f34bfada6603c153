"""What `foldstream demo` tells: the shop is filled, a shopper buys, the list changes."""

from __future__ import annotations

import asyncio
import time

import msgspec
from rich.table import Table

from agents.app import prepare_topics
from agents.catalogue import Catalogue
from agents.cli.common import Output
from agents.demo import (
    Chapter,
    Story,
    client_of,
    dashboard_of,
    data_file,
    fill,
    find_story,
    fold_everything,
    running_worker,
)
from agents.metrics import Metrics
from agents.settings import Settings
from streams.mappings.reader import scan_file

N_SHOWN = 10


async def tell(settings: Settings, lines: int, stays: bool, output: Output) -> None:
    """Run the demonstration on a stack that is up; with `stays`, until Ctrl-C."""
    began = time.monotonic()
    await prepare_topics(settings)
    async with running_worker(settings, settings.data_dir / "worker.log") as worker:
        with output.progress() as progress:
            task = progress.add_task("real purchases to Kafka", total=lines, rate="")
            await fill(settings, "items.csv.gz", None, lambda line: None)
            report = await fill(
                settings,
                "purchases.csv.gz",
                lines,
                lambda line: progress.update(task, completed=line),
            )
            progress.update(task, completed=lines)
            path = data_file("purchases.csv.gz")
            story = await asyncio.to_thread(lambda: find_story(path, scan_file(path).sha256, lines))
            address = await dashboard_of(settings, worker)
            fold = progress.add_task("folded into profiles", total=None, rate="")
            await fold_everything(
                settings,
                lambda done, total: progress.update(fold, completed=done, total=total),
            )
        output.say(
            f"[bold]{report.events:,} real events[/bold] of {report.accepted:,} purchase lines are "
            f"folded, {time.monotonic() - began:.0f} s after the start; "
            f"{sum(report.rejected.values()):,} lines could not be events: {report.rejected}"
        )
        output.say(f"dashboard: [link={address}]{address}[/link]\n")
        catalogue = Catalogue(settings.kafka, settings.topics().items.name, Metrics())
        await catalogue.start()
        try:
            await _show_story(settings, story, catalogue, address, output)
        finally:
            await catalogue.stop()
        if stays:
            output.say(
                f"\nThe dashboard stays at {address} - open {address}/shopper and send a click.\n"
                "Ctrl-C ends everything."
            )
            while await asyncio.to_thread(worker.wait, 0.5) is None:
                pass


async def _show_story(
    settings: Settings, story: Story, catalogue: Catalogue, address: str, output: Output
) -> None:
    async with client_of(settings) as client:
        before = await client.ask(story.user_id, N_SHOWN)
        offset = 0
        for event in story.next_events:
            offset = await client.act(event)
        after = await client.ask(story.user_id, N_SHOWN, after_offset=offset)
    bought = {event.item_id for event in story.next_events}
    hits = [item.item_id for item in before.answer.items if item.item_id in bought]
    output.result(
        {
            "user_id": story.user_id,
            "events_before": story.n_before,
            "dashboard": address,
            "bought": [event.item_id for event in story.next_events],
            "bought_and_in_list_before": hits,
            "before": msgspec.to_builtins(before.answer),
            "after": msgspec.to_builtins(after.answer),
            "from_last_event_to_list_ms": round(after.waited_ms, 1),
        }
    )
    output.say(
        f"Shopper {story.user_id} has {story.n_before} events behind them, and now buys:\n  "
        + "\n  ".join(catalogue.title(event.item_id) for event in story.next_events)
    )
    output.say()
    output.show(side_by_side(before, after, catalogue))
    output.say(
        f"\nThe new list knows the last purchase ({after.answer.profile_offset} is its offset); it "
        f"came {after.waited_ms:.0f} ms after Kafka had acknowledged it."
    )


def side_by_side(before: Chapter, after: Chapter, catalogue: Catalogue) -> Table:
    """Two lists, and how each item of the second has moved."""
    places = {item.item_id: item.rank for item in before.answer.items}
    table = Table(
        "", "before", "after", "moved", "because of", title="what the shopper is recommended"
    )
    for old, new in zip(before.answer.items, after.answer.items, strict=False):
        place = places.get(new.item_id)
        if place is None:
            moved = "[green]new[/green]"
        elif place == new.rank:
            moved = ""
        else:
            moved = f"{'▲' if place > new.rank else '▼'} {abs(place - new.rank)}"
        because = catalogue.title(new.reasons[0].item_id) if new.reasons else "popular"
        table.add_row(
            str(new.rank),
            catalogue.title(old.item_id),
            catalogue.title(new.item_id),
            moved,
            because,
        )
    return table
