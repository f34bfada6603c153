"""`foldstream recommend USER`: ask the running scorer through the topics, like any client."""

from __future__ import annotations

import asyncio
import uuid
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from agents.catalogue import Catalogue
from agents.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    KafkaOption,
    Output,
    PrefixOption,
    RedisOption,
    run,
    settings_for,
)
from agents.errors import NothingRuns
from agents.metrics import Metrics
from agents.requests import Requester
from agents.settings import Settings
from streams.events import Recommendation, RecommendRequest, Request, RerankRequest


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("recommend")
    def recommend(
        user: Annotated[str, typer.Argument(help="The user's id.")],
        n: Annotated[int, typer.Option("--n", min=1, max=1_000, help="How many items.")] = 10,
        candidates: Annotated[
            str | None, typer.Option("--candidates", help="Order these items instead: a,b,c.")
        ] = None,
        after_offset: Annotated[
            int | None, typer.Option("--after-offset", min=0, help="Wait for this event.")
        ] = None,
        timeout: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 10.0,
        config: ConfigOption = None,
        data_dir: DataDirOption = None,
        kafka: KafkaOption = None,
        redis: RedisOption = None,
        topic_prefix: PrefixOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Ask the scorer for a list, through the requests topic."""
        settings = settings_for(
            config, data_dir=data_dir, kafka=kafka, redis=redis, topic_prefix=topic_prefix
        ).settings
        request: Request
        if candidates:
            request = RerankRequest(
                request_id=uuid.uuid4().hex,
                user_id=user,
                candidates=candidates.split(","),
                after_offset=after_offset,
                n=n,
            )
        else:
            request = RecommendRequest(
                request_id=uuid.uuid4().hex, user_id=user, n=n, after_offset=after_offset
            )
        run(_ask(settings, request, timeout, Output(as_json)))


async def _ask(settings: Settings, request: Request, timeout_s: float, output: Output) -> None:
    topics = settings.topics()
    catalogue = Catalogue(settings.kafka, topics.items.name, Metrics())
    async with Requester(settings.kafka, topics) as requester:
        with output.progress(counted=False) as progress:
            progress.add_task("waiting for the scorer")
            try:
                answer = await requester.ask(request, timeout_s)
            except TimeoutError as error:
                raise NothingRuns(
                    f"no answer within {timeout_s:g} s: is a worker with the scorer running "
                    f"(`foldstream worker`) on {settings.kafka}?"
                ) from error
        await catalogue.start()
        try:
            show(answer, catalogue, output)
        finally:
            await catalogue.stop()
    await asyncio.sleep(0)


def show(answer: Recommendation, catalogue: Catalogue, output: Output) -> None:
    """Print one list for people or machines."""
    output.result(msgspec.to_builtins(answer))
    known = (
        "no profile yet: what is popular"
        if answer.profile_offset is None
        else (f"profile at offset {answer.profile_offset}")
    )
    table = Table("", "item", "title", "score", "because of", box=None)
    for item in answer.items:
        because = "; ".join(
            f"{reason.kind} {catalogue.title(reason.item_id)} {reason.share:.0%}"
            for reason in item.reasons
        )
        title = catalogue.title(item.item_id)
        table.add_row(str(item.rank), item.item_id, title, f"{item.score:.3f}", because)
    output.say(f"[bold]{answer.user_id}[/bold]  {known}")
    output.show(table)
