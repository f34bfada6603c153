"""The verifier finds nothing in what a worker made, and names each thing that is made wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest_asyncio
import redis.asyncio as redis

from agents.chaos.bed import Bed
from agents.chaos.load import Load
from agents.chaos.scenario import Report
from agents.chaos.verifier import reaches_end, verify
from agents.chaos.watcher import Watcher
from profiles.store_keys import Keys
from streams.partitioner import partition_of
from streams.producer import Producer
from streams.topics import TopicSet
from tests.builders import InProcess, click, put_events, user_on

N_EVENTS = 3_000


class Folded:
    """A log, folded to its end, and a hand in its store and its topics."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.settings = bed.settings()
        self.keys = Keys(
            self.settings.store_prefix, self.settings.generation, self.settings.partitions
        )
        self.store: Any = redis.Redis.from_url(self.settings.redis)

    def key(self, user_id: str) -> bytes:
        """Of a user's record."""
        return self.keys.record(partition_of(user_id, self.settings.partitions), user_id)

    async def failures(self, watcher: Watcher | None = None) -> list[str]:
        """What the verifier has to say."""
        report = Report()
        await verify(self.bed, report, watcher)
        return report.failures


@pytest_asyncio.fixture
async def folded(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> AsyncIterator[Folded]:
    """Some events of a made-up shop, late, repeated and malformed ones among them."""
    nobody = cast("Any", None)  # these servers are everybody's, and no fault may strike them
    bed = Bed(
        folder=tmp_path,
        kafka=kafka,
        redis=redis_url,
        partitions=topics.partitions,
        broker=nobody,
        store=nobody,
        nodes=[],
        overrides={
            "topic_prefix": topics.prefix,
            "store_prefix": generation,
            "generation": generation,
            "group": generation,
            "max_batch_events": 100,
        },
        versions={},
    )
    load = Load(bed, 1, N_EVENTS, n_users=300, n_items=50, repeat=0.1, malformed=0.03)
    await load.done()
    async with InProcess(bed.settings()):
        report = Report()
        await verify(bed, report)
        assert not report.failures
        assert report.figures["events"].value == N_EVENTS
        assert cast("int", report.figures["repeats in the log"].value) > N_EVENTS * 0.05
        assert cast("int", report.figures["dead letters"].value) > N_EVENTS * 0.02
    hand = Folded(bed)
    yield hand
    await hand.store.aclose()


def says(failures: list[str], *sentences: str) -> None:
    """Each of the sentences is there, and nothing else."""
    assert sorted(failure.partition(":")[0] for failure in failures) == sorted(sentences)


DIGEST = "the digest of the facts is the oracle's"
COUNTS = "the counts of events and users are the oracle's"
FACTS = "every profile's facts are the oracle's"
LOST = "no event is lost"
DOUBLED = "no event is folded twice"


async def test_a_profile_that_is_gone_is_lost(folded: Folded) -> None:
    assert await folded.store.delete(folded.key("u0"))
    says(await folded.failures(), LOST, FACTS, DIGEST, COUNTS)


async def test_an_event_that_is_folded_behind_the_log_s_back_is_doubled(folded: Folded) -> None:
    """As a batch would be that is folded twice: the profile is put back, and then some."""
    kept = await folded.store.get(folded.key("u1"))
    await put_events(folded.settings, [click("u1", "i1", event_id="once more")])
    async with InProcess(folded.settings):
        await folded.failures()
    newer = await folded.store.get(folded.key("u1"))
    assert newer != kept
    # What the log says twice is one event: sent again under its id, it changes nothing.
    await put_events(folded.settings, [click("u1", "i1", event_id="once more")])
    async with InProcess(folded.settings):
        says(await folded.failures(), ACKNOWLEDGED)
    await folded.store.set(folded.key("u1"), kept)
    says(await folded.failures(), LOST, FACTS, DIGEST, COUNTS, ACKNOWLEDGED)


ACKNOWLEDGED = "the log holds every acknowledged event once, or more often with the same id"


async def test_a_record_of_another_user_is_a_stranger_s_and_stale(folded: Folded) -> None:
    record = await folded.store.get(folded.key("u2"))
    await folded.store.set(folded.key("nobody"), record)
    failures = await folded.failures()
    assert any(f.startswith("no profile is there that the log knows nothing of") for f in failures)
    assert any(f.startswith(DOUBLED) for f in failures)


async def test_a_checkpoint_that_fell_is_seen_and_its_profiles_are_too_new(folded: Folded) -> None:
    checkpoint = folded.keys.checkpoint[0]
    async with Watcher(folded.bed) as watcher:
        at = int(await folded.store.hget(checkpoint, "next_offset"))
        await folded.store.hset(checkpoint, "next_offset", at - 50)
        await watcher.sample()
        report = Report()
        await verify(folded.bed, report, watcher, wait=False)
    says(report.failures, "no next_offset ever falls", "no profile is newer than its checkpoint")
    assert [(fall.before, fall.after) for fall in watcher.falls] == [(at, at - 50)]


async def test_a_dead_letter_too_many_and_one_that_says_nothing_are_found(folded: Folded) -> None:
    settings = folded.settings
    async with Producer(settings.kafka, settings.topics()) as producer:
        await producer.send_raw(
            settings.topics().dead_letters.name,
            b"x",
            b"u1",
            [
                ("__foldstream.errors.topic", settings.topics().events.name.encode()),
                ("__foldstream.errors.partition", b"0"),
                ("__foldstream.errors.offset", b"1000000"),
            ],
        )
    failures = await folded.failures()
    says(failures, "the dead letters, distinct by position, are what the oracle refuses")


async def test_an_announcement_that_was_lost_is_missed_also_when_a_later_one_names_the_user(
    folded: Folded,
) -> None:
    """Of one commit nobody hears, and it is gone from the outbox; the user changes again later."""
    settings = folded.settings
    one, other = (user_on(1, settings.partitions, number) for number in (0, 1))
    running = InProcess(settings)
    updater = running.worker.updater
    assert updater is not None
    announcer = updater._parts.announcer
    announce = announcer.announce

    async def swallow(partition: int, messages: Any) -> None:
        return None

    async with running:
        announcer.announce = swallow  # type: ignore[method-assign]
        await put_events(settings, [click(one, "i1", event_id="unheard")])
        await _to_the_end(folded)
        announcer.announce = announce  # type: ignore[method-assign]
        for user in (other, one):
            await put_events(settings, [click(user, "i2", event_id=f"heard of {user}")])
            await _to_the_end(folded)
        failures = await folded.failures()
    says(failures, "the announcement of every commit is there", ACKNOWLEDGED)


async def _to_the_end(folded: Folded) -> None:
    assert await reaches_end(folded.settings, Report())
