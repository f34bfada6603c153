"""Every topic as data, and what makes the missing ones.

Owns names, keys, partition counts, retention and clean-up. `ensure_topics` creates what is
missing and reports what differs; it never changes a topic that is there: another retention may
be wanted, and another partition count would move users to other partitions.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from streams.errors import BrokerAway, NotAllowed, StreamsError

log = logging.getLogger(__name__)

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
MAX_MESSAGE_BYTES: Final = 1_048_588
"""Kafka's own default: 1 MiB and the overhead of a batch."""


class TopicMissing(StreamsError):
    """A topic that should be there is not: create it (`foldstream worker` does) or fix its name."""


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as it should be.

    key: what the message key is, for people. partitions: None takes the shared count.
    retention_ms: None keeps messages for ever. retention_bytes: of a partition, whichever comes
    first. segment_bytes: what is deleted at once; the broker's own 1 GB is more than some topics
    should ever hold.
    """

    name: str
    key: str
    partitions: int | None = None
    retention_ms: int | None = None
    cleanup: Literal["delete", "compact"] = "delete"
    timestamp_type: Literal["LogAppendTime", "CreateTime"] = "LogAppendTime"
    max_message_bytes: int = MAX_MESSAGE_BYTES
    retention_bytes: int | None = None
    segment_bytes: int | None = None

    def config(self) -> dict[str, str]:
        """Topic configuration under Kafka's own names."""
        config = {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(-1 if self.retention_ms is None else self.retention_ms),
            "message.timestamp.type": self.timestamp_type,
            "max.message.bytes": str(self.max_message_bytes),
        }
        if self.retention_bytes is not None:
            config["retention.bytes"] = str(self.retention_bytes)
        if self.segment_bytes is not None:
            config["segment.bytes"] = str(self.segment_bytes)
        return config


class TopicSet:
    """The topics of one installation.

    prefix: the part of each name before the dot. partitions: the count shared by all topics
    keyed by user, so one user is on one partition number everywhere.
    events_retention_ms: None keeps the log for ever, and with it the power to rebuild profiles.
    """

    def __init__(
        self,
        prefix: str = "foldstream",
        partitions: int = 16,
        events_retention_ms: int | None = None,
    ) -> None:
        self.prefix = prefix
        self.partitions = partitions

        def topic(suffix: str, key: str, **settings: Any) -> Topic:
            made = Topic(f"{prefix}.{suffix}", key, **settings)
            return made if made.partitions else replace(made, partitions=partitions)

        self.events = topic("events", "user_id", retention_ms=events_retention_ms)
        # Four: a catalogue is read whole by everyone; more would only cost connections and files.
        self.items = topic("items", "item_id", partitions=4, cleanup="compact")
        self.impressions = topic("impressions", "user_id", retention_ms=7 * DAY_MS)
        self.requests = topic("requests", "user_id", retention_ms=DAY_MS)
        self.profile_changes = topic("profile-changes", "partition", retention_ms=DAY_MS)
        self.recommendations = topic("recommendations", "user_id", retention_ms=7 * DAY_MS)
        # One partition: everyone adds in one order. Half a gigabyte is minutes of busy workers;
        # a process looks back to the last snapshot, which is seconds.
        self.item_deltas = topic(
            "item-deltas",
            "worker",
            partitions=1,
            retention_ms=HOUR_MS,
            retention_bytes=512 << 20,
            segment_bytes=64 << 20,
        )
        # 2 MiB: the original may have been of the default size, and gets headers on top.
        self.dead_letters = topic(
            "dead-letters",
            "original key",
            partitions=4,
            retention_ms=30 * DAY_MS,
            max_message_bytes=2 * MAX_MESSAGE_BYTES,
        )
        # Four: read whole by whoever evaluates; the key keeps a partition's trials in order.
        self.trials = topic("trials", "partition", partitions=4, retention_ms=7 * DAY_MS)
        self.metrics = topic("metrics", "none", partitions=1, retention_ms=30 * DAY_MS)
        # What `dead-letters replay` has sent, kept longer than any letter it speaks of. Not one of
        # `all`: no worker knows it, the command makes it.
        self.replays = topic("replays", "run", partitions=1, retention_ms=60 * DAY_MS)

    def all(self) -> list[Topic]:
        """Every topic, in the order of the documentation."""
        return [
            self.events,
            self.items,
            self.impressions,
            self.requests,
            self.profile_changes,
            self.recommendations,
            self.item_deltas,
            self.dead_letters,
            self.trials,
            self.metrics,
        ]


@dataclass(frozen=True, slots=True)
class Drift:
    """One setting of one topic that is not as declared; remedy: what to do about it."""

    topic: str
    setting: str
    expected: str
    actual: str
    remedy: str

    def __str__(self) -> str:
        return (
            f"topic {self.topic}: {self.setting} is {self.actual}, expected {self.expected}; "
            f"{self.remedy}"
        )


@dataclass(frozen=True, slots=True)
class TopicReport:
    """created: names of the topics that were missing. drift: what differs in the others."""

    created: list[str]
    drift: list[Drift]


@dataclass(frozen=True, slots=True)
class TopicCheck:
    """What `check_topics` found: names of topics that are not there, and differences.

    denied: topics that the broker does not let us look at, and what it refused.
    """

    missing: list[str]
    drift: list[Drift]
    denied: dict[str, str]


REFUSALS: Final = frozenset(
    error.errno
    for error in (
        TopicAuthorizationFailedError,
        GroupAuthorizationFailedError,
        ClusterAuthorizationFailedError,
    )
)


def is_refusal(code: int) -> bool:
    """Whether Kafka's error code says that this client may not do that."""
    return code in REFUSALS


@asynccontextmanager
async def admin_client(bootstrap: str, timeout_s: float = 20.0) -> AsyncIterator[Any]:
    """An aiokafka admin client. Raises BrokerAway when no broker answers."""
    admin = AIOKafkaAdminClient(
        bootstrap_servers=bootstrap,
        client_id="foldstream-admin",
        request_timeout_ms=int(timeout_s * 1_000),
    )
    try:
        try:
            await admin.start()
        except (KafkaError, OSError) as error:
            raise BrokerAway(f"no answer from Kafka at {bootstrap}: {error}") from error
        try:
            yield admin
        except OSError as error:  # TimeoutError too
            raise BrokerAway(f"Kafka at {bootstrap} stopped answering: {error}") from error
        except KafkaError as error:
            if is_refusal(error.errno):
                raise NotAllowed(f"Kafka at {bootstrap} refuses this client: {error}") from error
            if error.retriable:
                raise BrokerAway(f"Kafka at {bootstrap}: {error}") from error
            raise
    finally:
        await admin.close()


async def partition_counts(bootstrap: str, names: Sequence[str]) -> dict[str, int]:
    """Partition count of each topic that exists; one that does not is left out.

    Raises BrokerAway, NotAllowed.
    """
    async with admin_client(bootstrap) as admin:
        return await _partition_counts(admin, names)


async def _partition_counts(admin: Any, names: Sequence[str]) -> dict[str, int]:
    counts, denied = await _counts_and_denied(admin, names)
    if denied:
        raise NotAllowed(
            f"topic {', '.join(sorted(denied))}: the broker refuses this client; grant it DESCRIBE"
        )
    return counts


async def _counts_and_denied(
    admin: Any, names: Sequence[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """Partition count by topic, and what was refused of the topics we may not look at."""
    counts: dict[str, int] = {}
    denied: dict[str, str] = {}
    for found in await admin.describe_topics(list(names)):
        error = for_code(found["error_code"])
        if error is UnknownTopicOrPartitionError:
            continue
        if is_refusal(found["error_code"]):
            denied[found["topic"]] = "DESCRIBE"
            continue
        if found["error_code"]:
            raise error(f"topic {found['topic']}")
        counts[found["topic"]] = len(found["partitions"])
    return counts, denied


async def ensure_topics(
    bootstrap: str, topics: Sequence[Topic], replication: int = 1
) -> TopicReport:
    """Create the missing topics; report what differs in those that were there.

    replication: copies of each partition, for new topics. Returns once every topic is known to
    the broker with its leaders. Raises BrokerAway, and StreamsError when a topic is refused.
    """
    async with admin_client(bootstrap) as admin:
        names = [topic.name for topic in topics]
        before = await _partition_counts(admin, names)
        missing = [topic for topic in topics if topic.name not in before]
        if missing:
            await _create(admin, missing, replication)
            await _wait_until_led(admin, [topic.name for topic in missing])
        there = [topic for topic in topics if topic.name in before]
        drift = await _drift(admin, there, before) if there else []
    return TopicReport([topic.name for topic in missing], drift)


async def check_topics(bootstrap: str, topics: Sequence[Topic]) -> TopicCheck:
    """Which topics are missing and what differs in the others; changes nothing.

    Raises BrokerAway.
    """
    async with admin_client(bootstrap) as admin:
        counts, denied = await _counts_and_denied(admin, [topic.name for topic in topics])
        there = [topic for topic in topics if topic.name in counts]
        drift = await _drift(admin, there, counts, denied) if there else []
    missing = [t.name for t in topics if t.name not in counts and t.name not in denied]
    return TopicCheck(missing, drift, denied)


async def _create(admin: Any, topics: Sequence[Topic], replication: int) -> None:
    response = await admin.create_topics(
        [
            NewTopic(topic.name, topic.partitions or 1, replication, topic_configs=topic.config())
            for topic in topics
        ]
    )
    for name, code, *message in response.topic_errors:
        # Another worker may have been quicker: that is what we wanted.
        if code and for_code(code) is not TopicAlreadyExistsError:
            reason = message[0] if message and message[0] else for_code(code).__name__
            raise StreamsError(
                f"topic {name} could not be created: {reason}; create it by hand or give this "
                "client the right to"
            )


async def _wait_until_led(admin: Any, names: Sequence[str], timeout_s: float = 20.0) -> None:
    """Wait until each partition has a leader: a topic can be known before it can be written."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        found = await admin.describe_topics(list(names))
        if all(
            not topic["error_code"]
            and topic["partitions"]
            and all(part["leader"] >= 0 for part in topic["partitions"])
            for topic in found
        ):
            return
        if asyncio.get_running_loop().time() > deadline:
            raise BrokerAway(f"new topics without a leader after {timeout_s:.0f} s: {names}")
        await asyncio.sleep(0.05)


async def _drift(
    admin: Any,
    topics: Sequence[Topic],
    counts: dict[str, int],
    denied: dict[str, str] | None = None,
) -> list[Drift]:
    """denied: takes the topics whose settings we may not read; None: those are passed over."""
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, topic.name, dict.fromkeys(topic.config(), ""))
        for topic in topics
    ]
    actual: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for code, message, _kind, name, entries in response.resources:
            if is_refusal(code):
                log.warning("settings of topic %s can't be read: not allowed", name)
                if denied is not None:
                    denied[name] = "DESCRIBE_CONFIGS"
                continue
            if code:
                raise StreamsError(f"settings of topic {name} can't be read: {message}")
            actual[name] = {entry[0]: entry[1] for entry in entries}
    drift: list[Drift] = []
    for topic in topics:
        partitions = topic.partitions or 1
        if counts[topic.name] != partitions:
            drift.append(
                Drift(
                    topic.name,
                    "partitions",
                    str(partitions),
                    str(counts[topic.name]),
                    f"set partitions = {counts[topic.name]}, or use another topic prefix: "
                    "a changed count moves users to other partitions",
                )
            )
        for setting, expected in topic.config().items() if topic.name in actual else ():
            value = actual[topic.name].get(setting, "")
            if value != expected:
                drift.append(
                    Drift(
                        topic.name,
                        setting,
                        expected,
                        value,
                        f"kafka-configs.sh --alter --entity-type topics --entity-name "
                        f"{topic.name} --add-config {setting}={expected}",
                    )
                )
    return drift
