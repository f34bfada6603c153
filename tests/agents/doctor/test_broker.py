"""Doctor on the broker: topics, keys, consumers, dead letters, and rights that are missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.admin import NewPartitions
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from agents.doctor import broker as checks
from agents.doctor.broker import examine_group
from agents.doctor.finding import Bench, Finding
from agents.settings import Settings
from agents.store_access import store_of
from streams.codec import encode
from streams.delivery import Delivery, OutMessage
from streams.embedded.kafka import KafkaServer
from streams.errors import NotAllowed
from streams.log_identity import log_identity
from streams.membership import GroupMember, GroupState
from streams.partitioner import partition_of
from streams.producer import Producer
from streams.tailing import TopicTail
from streams.topics import TopicSet, admin_client, ensure_topics
from tests.builders import InProcess, click, put_raw, set_aside, settings_of, until


@pytest.fixture
def bench(kafka: str, redis_url: str, topics: TopicSet, generation: str, tmp_path: Path) -> Bench:
    settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    return Bench(settings, settings.topics(), store_of(settings))


def bad(findings: list[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.level != "ok"]
    for finding in found:
        assert finding.why, finding
        assert finding.remedy, finding
    return found


async def alter(kafka: str, topic: str, **values: str) -> None:
    configs = {name.replace("_", "."): value for name, value in values.items()}
    async with admin_client(kafka) as admin:
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs)])


async def test_topics_as_declared_are_in_order(bench: Bench) -> None:
    assert bad(await checks.topics(bench)) == []
    assert bad(await checks.replicas(bench)) == []
    assert bad(await checks.keys(bench)) == []
    assert bad(await checks.dead_letters(bench)) == []


async def test_every_setting_that_differs_is_named(bench: Bench) -> None:
    kafka, topics = bench.settings.kafka, bench.topics
    await alter(kafka, topics.events.name, cleanup_policy="compact")
    await alter(kafka, topics.requests.name, retention_ms="1000")
    await alter(kafka, topics.recommendations.name, message_timestamp_type="CreateTime")
    await alter(kafka, topics.dead_letters.name, max_message_bytes="1000")
    async with admin_client(kafka) as admin:
        await admin.create_partitions({topics.profile_changes.name: NewPartitions(6)})

    def found() -> dict[tuple[str, str], str]:
        return {
            (finding.thing.removeprefix("topic "), finding.finding.split()[0]): finding.level
            for finding in findings
        }

    findings: list[Finding] = []

    async def all_there() -> bool:  # settings reach the broker's view a moment later
        findings[:] = bad(await checks.topics(bench))
        return len(found()) >= 5

    await until(all_there, "five differences")
    levels = found()
    assert levels[topics.events.name, "cleanup.policy"] == "error"
    assert levels[topics.requests.name, "retention.ms"] == "warning"
    assert levels[topics.recommendations.name, "message.timestamp.type"] == "warning"
    assert levels[topics.dead_letters.name, "max.message.bytes"] == "warning"
    assert levels[topics.profile_changes.name, "partitions"] == "error"


async def test_a_missing_topic_is_named(bench: Bench) -> None:
    async with admin_client(bench.settings.kafka) as admin:
        await admin.delete_topics([bench.topics.impressions.name])
    found: list[Finding] = []

    async def named() -> bool:  # a deletion reaches the metadata a moment later
        found[:] = bad(await checks.topics(bench))
        return bool(found)

    await until(named, "the missing topic is named")
    (missing,) = found
    assert (missing.level, missing.finding) == ("error", "does not exist")
    assert bench.topics.impressions.name in missing.thing


async def test_too_few_copies_are_named(bench: Bench) -> None:
    settings = bench.settings.model_copy(update={"replication": 3})
    findings = bad(await checks.replicas(Bench(settings, bench.topics, bench.store)))
    assert {f"topic {topic.name}" for topic in bench.topics.all()} == {f.thing for f in findings}


async def test_keys_on_the_wrong_partition_are_found_by_a_sample(bench: Bench) -> None:
    topics = bench.topics
    delivery = Delivery(bench.settings.kafka, topics.all(), "crc32", None)
    await delivery.start()
    users = [f"u{n}" for n in range(100)]
    right = [OutMessage(topics.events.name, encode(click(u, "i")), u.encode()) for u in users]
    await delivery.deliver(right)
    assert bad(await checks.keys(bench)) == []
    await delivery.deliver([one._replace(key=None, partition=1) for one in right[:3]])
    (keyless,) = bad(await checks.keys(bench))
    assert (keyless.level, "3 of the newest 103" in keyless.finding) == ("warning", True)
    elsewhere = (partition_of("u7", 4) + 1) % 4
    await delivery.deliver([right[7]._replace(partition=elsewhere)])
    await delivery.stop()
    (wrong,) = bad(await checks.keys(bench))
    assert wrong.level == "error"
    assert f"'u7' at {elsewhere}/" in wrong.finding
    assert "murmur2" in wrong.remedy


async def test_nobody_consuming_is_told_from_somebody(bench: Bench) -> None:
    assert [finding.finding for finding in bad(await checks.consumers(bench))] == [
        "nobody is in it",
        "nobody is in it",
    ]
    async with InProcess(bench.settings):

        async def held() -> bool:
            return len(bad(await checks.consumers(bench))) == 1

        await until(held, "the updater is seen")
        (scorer,) = bad(await checks.consumers(bench))
        assert scorer.thing.endswith("-scorer")


def test_partitions_that_nobody_holds_are_named() -> None:
    member = GroupMember("w0", "h", {"t": [0, 2]})
    finding = examine_group(GroupState("g", "Stable", [member]), "t", 4, "no event is folded")
    assert (finding.level, "1, 3 of t" in finding.finding) == ("error", True)
    moving = examine_group(GroupState("g", "PreparingRebalance", [member]), "t", 4, "nothing")
    assert moving.level == "warning"
    whole = GroupMember("w1", "h", {"t": [1, 3]})
    fine = examine_group(GroupState("g", "Stable", [member, whole]), "t", 4, "nothing")
    assert fine.level == "ok"


async def test_dead_letters_of_the_last_hour_are_counted_by_reason(bench: Bench) -> None:
    await put_raw(bench.settings, [(b"u", b"{"), (b"v", b"{"), (b"w", None)])
    await set_aside(bench.settings)
    (finding,) = bad(await checks.dead_letters(bench))
    assert "3 in the last" in finding.finding
    assert "2 invalid_json, 1 empty_value" in finding.finding


# Rights -------------------------------------------------------------------------------------


class GuardedKafka(KafkaServer):
    """A broker that asks who may do what; without a rule on it, everybody may do everything."""

    def _write_config(self) -> Path:
        config = super()._write_config()
        with config.open("a") as file:
            file.write(
                "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n"
                "allow.everyone.if.no.acl.found=true\n"
            )
        return config


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[KafkaServer]:
    server = GuardedKafka(tmp_path / "kafka", ephemeral=True)
    server.start()
    yield server
    server.stop()


def keep_for_alice(kafka: str, topic: str) -> None:
    """From now on only alice may do anything with the topic."""
    rule = AclBinding(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        "User:alice",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    admin = AdminClient({"bootstrap.servers": kafka})
    for done in admin.create_acls([rule]).values():
        done.result(20)


async def test_a_topic_that_may_not_be_seen_is_not_taken_for_a_broker_that_is_away(
    guarded: KafkaServer, redis_url: str, generation: str, tmp_path: Path
) -> None:
    kafka, topics = guarded.bootstrap, TopicSet(generation, 4)
    await ensure_topics(kafka, topics.all())
    settings: Settings = settings_of(kafka, redis_url, topics, generation, tmp_path)
    bench = Bench(settings, settings.topics(), store_of(settings))
    await asyncio.to_thread(keep_for_alice, kafka, topics.events.name)
    found: list[Finding] = []

    async def refused() -> bool:
        found[:] = bad(await checks.topics(bench))
        return any(finding.level == "error" for finding in found)

    await until(refused, "the rule is in force")
    (denied,) = found
    assert (denied.level, denied.thing) == ("error", f"topic {topics.events.name}")
    assert "refuses this client (DESCRIBE)" in denied.finding
    for doing in (
        log_identity(kafka, topics.events.name),
        ensure_topics(kafka, topics.all()),
        Producer(kafka, topics).start(),
        TopicTail(kafka, topics.events.name).__aenter__(),
    ):
        with pytest.raises(NotAllowed, match="grant it DESCRIBE"):
            await doing
