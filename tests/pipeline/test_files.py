"""Whole public data sets by the commands that people type: ingest, fold, check."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agents.__main__ import run_command
from agents.cli.common import Exit
from agents.settings import Settings
from agents.store_access import store_of
from streams.partitioner import partition_of
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    WorkerProcess,
    all_folded,
    put_events,
    settings_of,
    state_of,
    stream_of,
    until,
    write_config,
)


class Command:
    """Runs commands on a settings' stack, as a shell would; in a thread, beside the worker."""

    def __init__(self, settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = write_config(settings)
        self._capsys = capsys
        self.code = 0

    async def __call__(self, *arguments: str) -> dict[str, object]:
        """The command's JSON document; its exit code is in `code`."""
        with contextlib.suppress(ValueError):
            self._capsys.readouterr()
        line = [*arguments, "--json", "--config", str(self._config)]
        self.code = await asyncio.to_thread(run_command, line)
        printed = self._capsys.readouterr().out
        found: dict[str, object] = json.loads(printed) if printed.startswith("{") else {}
        return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "file", "lines", "accepted", "twice"),
    [
        ("yoochoose-clicks-2014", "clicks.csv.gz", 83_846, 83_846, True),
        # Not accepted: lines without a customer or a product.
        ("online-retail-2011", "purchases.csv.gz", 541_909, 404_909, False),
    ],
)
async def test_a_whole_data_set_is_counted_exactly(
    kafka: str,
    redis_url: str,
    topics: TopicSet,
    generation: str,
    tmp_path: Path,
    require_data: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    file: str,
    lines: int,
    accepted: int,
    twice: bool,
) -> None:
    path = require_data(name) / file
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    run = Command(settings, capsys)
    async with WorkerProcess(settings) as worker:
        await worker.ready()
        report = await run("ingest", str(path))
        assert run.code == Exit.DONE
        assert report["lines"] == lines
        assert report["accepted"] == accepted
        rejected = report["rejected"]
        assert isinstance(rejected, dict)
        assert accepted == lines - sum(rejected.values())
        await all_folded(settings, within_s=120)
        first = await state_of(settings)
        assert first.n_events == accepted

        if twice:
            again = await run("ingest", str(path))
            assert again["sent_events"] == accepted
            await all_folded(settings, within_s=120)
            assert (await state_of(settings)).digest == first.digest

        async def caught_up() -> bool:  # the lag is measured once a second
            return await worker.metric("foldstream_partition_lag") == 0

        await until(caught_up, "no lag is left", 5)

        check = await run("rebuild", "--check")
        assert run.code == Exit.DONE
        assert check["agrees"] is True
        assert check["digest_rebuilt"] == first.digest


async def test_rebuild_finds_what_somebody_changed_in_the_store(
    kafka: str,
    redis_url: str,
    topics: TopicSet,
    generation: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    run = Command(settings, capsys)
    await put_events(settings, stream_of(2_000, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
    assert (await run("rebuild", "--check"))["agrees"] is True
    assert run.code == Exit.DONE
    users = ["u1", "u2", "u3"]
    await tamper(settings, users)
    report = await run("rebuild", "--check")
    assert run.code == Exit.DIFFERENCE
    assert report["n_differences"] == 4
    found = {one["user_id"]: one["what"] for one in report["differences"]}  # type: ignore[index,attr-defined]
    assert found == {"u1": "different", "u2": "missing", "u3": "different", "ghost": "unknown"}
    async with store_of(settings) as store:  # nothing of the check is left
        keys = await store._pool.ask(store._topology.masters[0], [_keys("*:check-*")], 1)
        assert keys == [[]]


def _keys(pattern: str) -> bytes:
    from profiles.store_link import pack

    return pack("KEYS", pattern)


async def tamper(settings: Settings, users: list[str]) -> None:
    """Swap two users' records, delete one, invent one."""
    from profiles.store_link import pack

    async with store_of(settings) as store:

        def key(user_id: str) -> bytes:
            partition = partition_of(user_id, settings.partitions)
            return store.keys.record_head[partition] + user_id.encode()

        first, gone, other = users
        records = {}
        for user_id in users:
            partition = partition_of(user_id, settings.partitions)
            (records[user_id],) = await store.read_many(partition, [user_id])
        commands = [
            pack("SET", key(first), records[other] or b""),
            pack("SET", key(other), records[first] or b""),
            pack("DEL", key(gone)),
            pack("SET", key("ghost"), records[gone] or b""),
        ]
        await store._pool.ask(store._topology.masters[0], commands, len(commands))


async def test_rebuild_follows_a_worker_that_goes_on_folding(
    kafka: str,
    redis_url: str,
    topics: TopicSet,
    generation: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    run = Command(settings, capsys)
    await put_events(settings, stream_of(20_000, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
        putting = asyncio.create_task(put_events(settings, stream_of(3_000, seed=2)))
        report = await run("rebuild", "--check")
        await putting
        assert report["n_differences"] == 0
        assert run.code in (Exit.DONE, Exit.DIFFERENCE)  # the latter only for what kept moving
        await all_folded(settings)
        assert (await run("rebuild", "--check"))["agrees"] is True
