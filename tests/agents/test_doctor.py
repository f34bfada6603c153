"""Doctor names what would lose, evict or misplace data, with the way out, and changes nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agents.app import prepare
from agents.doctor import Finding, examine, examine_server
from profiles.store_scan import ServerFacts
from streams.topics import TopicSet, admin_client
from tests.builders import settings_of, until

HEALTHY = ServerFacts(
    address="h:1",
    software="valkey",
    version="9.1.2",
    cluster=False,
    role="master",
    used_memory=10,
    max_memory=100,
    eviction_policy="noeviction",
    aof=True,
    fsync="everysec",
    n_clients=1,
)


def test_a_healthy_server_is_said_to_be_so() -> None:
    assert [finding.level for finding in examine_server(HEALTHY)] == ["ok"]


@pytest.mark.parametrize(
    ("facts", "level", "said"),
    [
        (replace(HEALTHY, eviction_policy="allkeys-lru"), "error", "maxmemory-policy noeviction"),
        (replace(HEALTHY, aof=False), "warning", "appendonly yes"),
        (replace(HEALTHY, fsync="no"), "warning", "appendfsync everysec"),
        (replace(HEALTHY, used_memory=95), "error", "raise maxmemory"),
        (replace(HEALTHY, software="redis", version="6.0.16"), "warning", "upgrade"),
    ],
)
def test_what_is_wrong_with_a_server_comes_with_its_remedy(
    facts: ServerFacts, level: str, said: str
) -> None:
    (finding,) = examine_server(facts)
    assert finding.level == level
    assert said in finding.remedy


def test_a_server_that_tells_nothing_is_not_accused() -> None:
    silent = replace(HEALTHY, eviction_policy=None, max_memory=None, fsync=None)
    assert [finding.level for finding in examine_server(silent)] == ["ok"]


def worst(findings: list[Finding], part: str) -> list[Finding]:
    return [f for f in findings if part in f.thing and f.level != "ok"]


async def test_topics_and_meta_are_compared_with_what_we_declare(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    (unused,) = worst(await examine(settings), "meta")
    assert "no worker" in unused.finding
    await prepare(settings)
    findings = await examine(settings)
    assert not worst(findings, "topic")
    assert not worst(findings, "meta")
    other = settings.model_copy(update={"generation": "other"})
    (elsewhere,) = worst(await examine(other), "meta")
    assert f"generation = {generation}" in elsewhere.remedy
    more = settings.model_copy(update={"partitions": 8})
    findings = await examine(more)
    assert {finding.level for finding in worst(findings, "topic")} == {"error"}
    (count,) = worst(findings, "meta")
    assert "partitions = 4" in count.remedy


async def test_a_missing_topic_is_named(
    kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path
) -> None:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    async with admin_client(kafka) as admin:
        await admin.delete_topics([topics.impressions.name])
    found: list[Finding] = []

    async def named() -> bool:  # a deletion reaches the metadata a moment later
        found[:] = worst(await examine(settings), topics.impressions.name)
        return bool(found)

    await until(named, "the missing topic is named")
    (missing,) = found
    assert missing.level == "error"
    assert "start a worker" in missing.remedy
