"""The scorer's promises: everybody whose profile changed gets a list, whatever comes between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents.app import build_app
from agents.scorer import MOST_FORETOLD, Announcement, ScoringService
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store_link import pack
from streams.codec import decode_recommendation
from streams.events import ChangedUser, ProfileChange
from streams.producer import Producer
from streams.topics import TopicSet
from tests.builders import (
    InProcess,
    all_folded,
    announced,
    click,
    messages_of,
    put_events,
    settings_of,
    state_of,
    stream_of,
    until,
    user_on,
)


@pytest.fixture
def settings(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> Settings:
    return settings_of(
        kafka, redis_url, topics, generation, tmp_path, agents=["updater", "catalogue", "scorer"]
    )


async def lists(settings: Settings) -> dict[str, set[int]]:
    """User -> the profile offsets that their lists know."""
    found: dict[str, set[int]] = {}
    for record in await messages_of(settings, settings.topics().recommendations.name):
        one = decode_recommendation(record.value)
        assert record.key == one.user_id.encode()
        found.setdefault(one.user_id, set()).add(one.profile_offset or 0)
    return found


async def everybody_has_a_list(settings: Settings) -> None:
    state = await state_of(settings)

    async def served() -> bool:
        found = await lists(settings)
        return all(offset in found.get(user, ()) for user, offset in state.last_offset.items())

    await until(served, "everybody has a list of their newest profile")


async def test_everybody_who_changed_gets_a_list(settings: Settings) -> None:
    await put_events(settings, stream_of(3_000, seed=1))
    async with InProcess(settings):
        await all_folded(settings)
        await everybody_has_a_list(settings)


async def test_what_changed_while_no_scorer_ran_is_served_later(settings: Settings) -> None:
    await put_events(settings, stream_of(1_000, seed=1))
    alone = settings.model_copy(update={"agents": ("updater",)})
    async with InProcess(alone):
        await all_folded(settings)
    scorer = settings.model_copy(update={"agents": ("scorer",)})
    async with InProcess(scorer):  # another process, with the snapshot alone
        await everybody_has_a_list(settings)


async def test_a_restart_in_the_middle_leaves_nobody_out(settings: Settings) -> None:
    events = stream_of(6_000, seed=2)
    for start in range(0, 6_000, 2_000):
        async with InProcess(settings):
            await put_events(settings, events[start : start + 2_000])
            await all_folded(settings)  # folded; how far the scorer came is chance
    async with InProcess(settings):
        await everybody_has_a_list(settings)


async def test_one_unreadable_profile_keeps_nobody_from_their_list(settings: Settings) -> None:
    broken, well = user_on(0, 4), user_on(0, 4, 1)
    updater = settings.model_copy(update={"agents": ("updater",)})
    async with InProcess(updater):
        await put_events(settings, [click(broken, "i1"), click(well, "i2")])
        await all_folded(settings)
    async with store_of(settings) as store:
        key = store.keys.record_head[0] + broken.encode()
        await store._pool.ask_slot(store.keys.slot[0], [pack("SET", key, b"?")], 1, broken)
    scorer = settings.model_copy(update={"agents": ("scorer",)})
    async with InProcess(scorer) as running:

        async def served() -> bool:
            return well in await lists(settings)

        await until(served, "the other has a list")
        assert running.metric("foldstream_profiles_unreadable_total") == 1
        assert not running.crashed
    assert broken not in await lists(settings)


async def test_what_is_no_profile_change_is_counted_and_passed_over(settings: Settings) -> None:
    async with InProcess(settings) as running:
        async with Producer(settings.kafka, settings.topics()) as producer:
            await producer.announce(0, b"{")
        await put_events(settings, [click(user_on(0, 4), "i1")])
        await all_folded(settings)
        await everybody_has_a_list(settings)
        unreadable = {"topic": "profile-changes", "code": "invalid_json"}
        assert running.metric("foldstream_messages_unreadable_total", **unreadable) == 1
        assert not running.crashed


async def test_what_its_own_updater_foretells_is_served_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message on `profile-changes` that follows only says how far the scorer came."""
    foretold: list[bool] = []
    known = ScoringService._known

    def spy(scorer: ScoringService, partition: int, next_offset: int) -> Announcement | None:
        found = known(scorer, partition, next_offset)
        foretold.append(found is not None)
        return found

    monkeypatch.setattr(ScoringService, "_known", spy)
    events = stream_of(1_200, seed=3)
    async with InProcess(settings) as running:
        scorer = running.worker.scorer
        assert scorer is not None
        await until(lambda: scorer._assigned == {0, 1, 2, 3}, "the scorer has its partitions")
        for start in range(0, len(events), 40):
            await put_events(settings, events[start : start + 40])
        await all_folded(settings)
        await everybody_has_a_list(settings)

        async def all_read() -> bool:  # lists may come before their announcements
            topic = settings.topics().profile_changes.name
            return len(foretold) == len(await messages_of(settings, topic))

        await until(all_read, "every announcement was read")
        assert all(foretold)
        await until(lambda: not scorer._unanswered, "every list is acknowledged")
        assert not any(scorer._foretold.values())
        n_overtaken = running.metric("foldstream_scoring_skipped_total")
    n_lists = len(await messages_of(settings, settings.topics().recommendations.name))
    n_changes = sum(map(len, (await announced(settings)).values()))
    assert n_lists == n_changes - n_overtaken
    async with InProcess(settings.model_copy(update={"agents": ("scorer",)})) as running:
        other = running.worker.scorer
        assert other is not None
        await until(lambda: bool(other._assigned), "another scorer has the partitions")
        await asyncio.sleep(1.0)
    after = await messages_of(settings, settings.topics().recommendations.name)
    assert len(after) == n_lists  # the position was remembered: nothing comes again


def test_what_waits_is_bounded_however_often_it_changes(settings: Settings) -> None:
    """The store may answer for nobody while commits go on."""
    scorer = build_app(settings).scorer
    assert scorer is not None
    scorer._assigned = {0}
    users = [f"u{number}" for number in range(20)]
    for number in range(MOST_FORETOLD + 10):
        changed = [ChangedUser(user, number, 0, 0) for user in users]
        change = ProfileChange(partition=0, next_offset=number + 1, folded_ms=number, users=changed)
        scorer.foretell(change)
    assert scorer.n_waiting == len(users)
    told = scorer._foretold[0]
    assert len(told) == MOST_FORETOLD
    assert [one.n_waiting for one in told.values() if one.n_waiting] == [len(users)]
