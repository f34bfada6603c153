"""Checks of the broker: topics, replicas, keys on their partitions, consumers, dead letters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from aiokafka.partitioner import murmur2

from agents.dead_letters import Selection, count
from agents.doctor.finding import Bench, Finding, Severity, length, some
from streams.batch import Message
from streams.cluster_state import cluster_state
from streams.manual_reader import ManualReader
from streams.membership import GroupState, group_states
from streams.topics import Drift, TopicMissing, TopicSet, check_topics, partition_counts

SAMPLE = 200
"""Messages looked at, from the end of each partition: a producer that hashes otherwise is wrong
in all but one of N keys."""

RECENT_MS = 3_600_000

WHY_DRIFT = {
    "partitions": "a user's events and profile are looked for by this count",
    "cleanup.policy": "what Kafka compacts or deletes otherwise is missing when it is read again",
    "retention.ms": "what retention has removed can't be folded anew (rebuild), and a worker that "
    "is away for longer finds a gap",
    "message.timestamp.type": "freshness, retention and the watermark go by the append time; a "
    "producer's clock would decide instead",
    "max.message.bytes": "larger messages are refused when they are sent",
}


async def topics(bench: Bench) -> list[Finding]:
    """Every topic against its declaration."""
    report = await check_topics(bench.settings.kafka, bench.topics.all())
    findings = [
        Finding(
            level="error",
            thing=f"topic {name}",
            finding="does not exist",
            why="what belongs there can't be sent or read",
            remedy="start a worker (it creates its topics), or correct topic_prefix",
        )
        for name in report.missing
    ]
    findings += [
        Finding(
            level="error" if right == "DESCRIBE" else "warning",
            thing=f"topic {name}",
            finding=f"the broker refuses this client ({right})",
            why="it may be there and in order; nobody can tell from here",
            remedy=f"grant this client {right} on the topic (kafka-acls.sh --add)",
        )
        for name, right in report.denied.items()
    ]
    findings += [_of_drift(drift, bench.topics) for drift in report.drift]
    named = {drift.topic for drift in report.drift} | set(report.missing) | set(report.denied)
    findings += [
        Finding(level="ok", thing=f"topic {topic.name}", finding="as declared")
        for topic in bench.topics.all()
        if topic.name not in named
    ]
    return findings


def _of_drift(drift: Drift, topics: TopicSet) -> Finding:
    level: Severity = "warning"
    if drift.setting == "partitions" and drift.topic not in (
        topics.items.name,
        topics.dead_letters.name,
    ):
        level = "error"
    if drift.setting == "cleanup.policy" and drift.topic == topics.events.name:
        level = "error"  # compaction keeps one event of each user
    return Finding(
        level=level,
        thing=f"topic {drift.topic}",
        finding=f"{drift.setting} is {drift.actual}, should be {drift.expected}",
        why=WHY_DRIFT.get(drift.setting, ""),
        remedy=drift.remedy,
    )


async def replicas(bench: Bench) -> list[Finding]:
    """Leaders, and copies in step."""
    names = [topic.name for topic in bench.topics.all()]
    state = await cluster_state(bench.settings.kafka, names)
    findings = []
    for name in names:
        mine = [part for part in state.partitions if part.topic == name]
        leaderless = [part.partition for part in mine if part.leader < 0]
        behind = [part.partition for part in mine if part.n_in_sync < part.n_replicas]
        few = [part.partition for part in mine if part.n_replicas < bench.settings.replication]
        if leaderless:
            findings.append(
                Finding(
                    level="error",
                    thing=f"topic {name}",
                    finding=f"partitions {some(leaderless)} have no leader",
                    why="they can be neither read nor written",
                    remedy="bring back a broker that holds them",
                )
            )
        elif behind:
            findings.append(
                Finding(
                    level="warning",
                    thing=f"topic {name}",
                    finding=f"replicas of partitions {some(behind)} are not in step",
                    why="another failure may lose the end of the log",
                    remedy="see whether a broker is down or slow",
                )
            )
        if few:
            findings.append(
                Finding(
                    level="warning",
                    thing=f"topic {name}",
                    finding=f"partitions {some(few)} have fewer copies than replication = "
                    f"{bench.settings.replication}",
                    why="the loss of one broker's disk loses the log",
                    remedy="kafka-reassign-partitions.sh, or set replication as it is",
                )
            )
    return findings or [Finding(level="ok", thing="partitions", finding="led, and in step")]


async def newest(bootstrap: str, topic: str, n: int) -> list[Message]:
    """Up to n committed messages from the end of each partition. Raises TopicMissing."""
    n_partitions = (await partition_counts(bootstrap, [topic])).get(topic)
    if not n_partitions:
        raise TopicMissing(f"topic {topic} does not exist")
    reader = ManualReader(bootstrap, topic, client_id="foldstream-doctor")
    await reader.start()
    try:
        numbers = range(n_partitions)
        begins, ends = await reader.begin_offsets(numbers), await reader.end_offsets(numbers)
        starts = {p: max(begins[p], ends[p] - n) for p in numbers if ends[p] > begins[p]}
        reader.assign(starts)
        found: list[Message] = []
        for partition, at in starts.items():
            while at < ends[partition]:
                batch = await reader.next_batch(partition, n)
                at = batch.end
                found += cast("Sequence[Message]", batch.records)
        return found
    finally:
        await reader.stop()


async def keys(bench: Bench) -> list[Finding]:
    """Whether producers choose the partition as we do."""
    topics = bench.topics
    counts = await partition_counts(
        bench.settings.kafka, [t.name for t in (topics.events, topics.impressions, topics.requests)]
    )
    findings = []
    for name, n_partitions in counts.items():
        sample = await newest(bench.settings.kafka, name, SAMPLE)
        findings.append(examine_keys(name, sample, n_partitions))
    return findings


def examine_keys(topic: str, sample: Sequence[Message], n_partitions: int) -> Finding:
    """The verdict on one topic's sample."""
    keyless = sum(message.key is None for message in sample)
    wrong = [
        message
        for message in sample
        if message.key is not None
        and (murmur2(message.key) & 0x7FFFFFFF) % n_partitions != message.partition
    ]
    thing = f"keys of {topic}"
    if wrong:
        one = wrong[-1]
        shown = (one.key or b"")[:40].decode(errors="backslashreplace")
        return Finding(
            level="error",
            thing=thing,
            finding=f"{len(wrong)} of the newest {len(sample)} lie on the wrong partition, such as "
            f"{shown!r} at {one.partition}/{one.offset}",
            why="such a user has two profiles, on two partitions, and the scorer reads one of them",
            remedy="set the producer's partitioner to murmur2 (librdkafka: "
            "partitioner=murmur2_random), then send those users' events again",
        )
    if keyless:
        return Finding(
            level="warning",
            thing=thing,
            finding=f"{keyless} of the newest {len(sample)} have no key",
            why="they lie on a partition of chance; events go to the dead letters (missing_key)",
            remedy="let the producer set the key to the user_id",
        )
    looked = f"the newest {len(sample)} lie where they belong" if sample else "nothing there yet"
    return Finding(level="ok", thing=thing, finding=looked)


async def consumers(bench: Bench) -> list[Finding]:
    """Whether anyone folds and scores."""
    settings, topics = bench.settings, bench.topics
    followed = {
        f"{settings.group}-updater": (topics.events.name, "no event is folded"),
        f"{settings.group}-scorer": (topics.profile_changes.name, "no list is made"),
    }
    states = await group_states(settings.kafka, list(followed))
    return [
        examine_group(state, followed[state.name][0], settings.partitions, followed[state.name][1])
        for state in states
    ]


def examine_group(state: GroupState, topic: str, n_partitions: int, without: str) -> Finding:
    """The verdict on one group. without: what does not happen while nobody reads."""
    thing = f"group {state.name}"
    holders = state.holders(topic)
    if not state.members:
        return Finding(
            level="warning",
            thing=thing,
            finding="nobody is in it",
            why=without,
            remedy="start a worker (foldstream worker)",
        )
    if state.state != "Stable":
        return Finding(
            level="warning",
            thing=thing,
            finding=f"it is sharing its partitions out anew ({state.state})",
            why=f"{without} until it has; where it stays so, a member is stuck",
            remedy="look again in a few seconds; then see the workers' logs",
        )
    free = [p for p in range(n_partitions) if p not in holders]
    if free:
        return Finding(
            level="error",
            thing=thing,
            finding=f"partitions {some(free)} of {topic} are held by nobody",
            why=f"{without} there",
            remedy="all workers must have the same topic_prefix and group; restart them",
        )
    names = sorted({member.client_id for member in state.members})
    return Finding(level="ok", thing=thing, finding=f"{len(names)} members: {', '.join(names[:4])}")


async def dead_letters(bench: Bench) -> list[Finding]:
    """What was set aside in the last hour."""
    name = bench.topics.dead_letters.name
    selection = Selection(since_ms=int(bench.now_ms()) - RECENT_MS)
    counts = await count(bench.settings.kafka, name, selection)
    if not counts.n:
        return [Finding(level="ok", thing=f"topic {name}", finding="none in the last hour")]
    reasons = ", ".join(f"{n:,} {code}" for code, n in counts.by_code.most_common(4))
    return [
        Finding(
            level="warning",
            thing=f"topic {name}",
            finding=f"{counts.n:,} in the last {length(RECENT_MS)}: {reasons}",
            why="a producer sends what is no event; it is not folded",
            remedy="foldstream dead-letters list --since 1h; mend the producer; then foldstream "
            "dead-letters replay",
        )
    ]
