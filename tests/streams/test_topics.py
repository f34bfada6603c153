"""Topics are created as declared; what differs is reported and never changed."""

from __future__ import annotations

import pytest

from streams.errors import BrokerAway
from streams.log_identity import log_identity
from streams.topics import DAY_MS, TopicMissing, TopicSet, ensure_topics, partition_counts


def test_topics_keyed_by_user_share_one_partition_count() -> None:
    topics = TopicSet("shop", partitions=6)
    assert topics.profile_changes.name == "shop.profile-changes"
    shared = [topics.events, topics.impressions, topics.requests, topics.recommendations]
    assert {topic.partitions for topic in [*shared, topics.profile_changes]} == {6}
    assert topics.events.retention_ms is None
    assert topics.items.cleanup == "compact"


async def test_missing_topics_are_created_as_declared(kafka: str, topics: TopicSet) -> None:
    report = await ensure_topics(kafka, topics.all())  # the fixture has created them
    assert (report.created, report.drift) == ([], [])
    names = [topic.name for topic in topics.all()]
    counts = await partition_counts(kafka, [*names, "not-there"])
    assert counts == {topic.name: topic.partitions for topic in topics.all()}


async def test_drift_is_reported_with_what_to_do(kafka: str, topics: TopicSet) -> None:
    other = TopicSet(topics.prefix, partitions=8, events_retention_ms=DAY_MS)
    report = await ensure_topics(kafka, [other.events])
    assert [drift.setting for drift in report.drift] == ["partitions", "retention.ms"]
    partitions, retention = report.drift
    assert (partitions.expected, partitions.actual) == ("8", "4")
    assert (retention.expected, retention.actual) == (str(DAY_MS), "-1")
    assert "retention.ms=86400000" in retention.remedy
    assert (await partition_counts(kafka, [topics.events.name])) == {topics.events.name: 4}


async def test_a_broker_that_is_away_is_named() -> None:
    with pytest.raises(BrokerAway, match=r"127\.0\.0\.1:1"):
        await partition_counts("127.0.0.1:1", ["t"])


async def test_a_log_knows_its_cluster_and_size(kafka: str, topics: TopicSet) -> None:
    identity = await log_identity(kafka, topics.events.name)
    assert identity.cluster_id
    assert (identity.topic, identity.n_partitions) == (topics.events.name, 4)
    with pytest.raises(TopicMissing):
        await log_identity(kafka, topics.prefix)
