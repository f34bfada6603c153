"""Looks at topics and store for settings that would lose, evict or misplace data.

Each finding names the thing, what is wrong and the remedy; nothing is changed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from agents.app import store_of
from agents.settings import Settings
from profiles.errors import StoreMismatch
from profiles.store import ProfileStore
from profiles.store_scan import ServerFacts
from streams.topics import TopicSet, check_topics

LEAST_VERSIONS = {"redis": (6, 2), "valkey": (7, 2)}
"""The oldest servers that the contract tests have passed on, or their makers still mend."""

FULL_SHARE = 0.9
"""From this share of its memory limit on, a store is about to refuse commits."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing looked at. level: ok, warning (works, with a risk) or error (mend it)."""

    level: Literal["ok", "warning", "error"]
    thing: str
    finding: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Everything that doctor looks at. Raises BrokerAway and StoreAway."""
    findings = await _examine_topics(settings, settings.topics())
    store = store_of(settings)
    await store.start()
    try:
        for facts in await store.server_facts():
            findings += examine_server(facts)
        findings.append(await _examine_meta(settings, store))
    finally:
        await store.close()
    return findings


async def _examine_topics(settings: Settings, topics: TopicSet) -> list[Finding]:
    report = await check_topics(settings.kafka, topics.all())
    missing = set(report.missing)
    findings = [
        Finding(
            level="error",
            thing=f"topic {name}",
            finding="does not exist",
            remedy="start a worker (it creates its topics), or correct topic_prefix",
        )
        for name in report.missing
    ]
    findings += [
        Finding(
            level="error" if drift.setting == "partitions" else "warning",
            thing=f"topic {drift.topic}",
            finding=f"{drift.setting} is {drift.actual}, should be {drift.expected}",
            remedy=drift.remedy,
        )
        for drift in report.drift
    ]
    drifted = {drift.topic for drift in report.drift}
    findings += [
        Finding(level="ok", thing=f"topic {topic.name}", finding="as declared")
        for topic in topics.all()
        if topic.name not in drifted | missing
    ]
    return findings


def examine_server(facts: ServerFacts) -> list[Finding]:
    """One node of the store."""
    thing = f"{facts.software} {facts.version} at {facts.address}"
    findings = []
    if facts.eviction_policy not in (None, "noeviction"):
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"maxmemory-policy is {facts.eviction_policy}: profiles may vanish",
                remedy="CONFIG SET maxmemory-policy noeviction, and in the configuration file",
            )
        )
    if not facts.aof:
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding="appendonly is off: a restart loses profiles, and the log is replayed",
                remedy="CONFIG SET appendonly yes, and in the configuration file",
            )
        )
    elif facts.fsync == "no":
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding="appendfsync is no: a power cut loses what the kernel has not written",
                remedy="CONFIG SET appendfsync everysec",
            )
        )
    if facts.max_memory and facts.used_memory > FULL_SHARE * facts.max_memory:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"{facts.used_memory / facts.max_memory:.0%} of maxmemory is used",
                remedy="raise maxmemory; commits wait, and lose nothing, while it is full",
            )
        )
    least = LEAST_VERSIONS.get(facts.software)
    version = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if least and version < least:
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding=f"older than {'.'.join(map(str, least))}, the oldest one tested",
                remedy="upgrade the server",
            )
        )
    return findings or [Finding(level="ok", thing=thing, finding="policy, persistence, memory")]


async def _examine_meta(settings: Settings, store: ProfileStore) -> Finding:
    thing = f"store, {settings.store_prefix}:meta"
    try:
        meta = await store.read_meta()
    except StoreMismatch as error:
        return Finding(level="error", thing=thing, finding=str(error), remedy="see the message")
    if meta is None:
        return Finding(level="warning", thing=thing, finding="no worker has used this store yet")
    if meta.n_partitions != settings.partitions:
        return Finding(
            level="error",
            thing=thing,
            finding=f"made with {meta.n_partitions} partitions, settings say {settings.partitions}",
            remedy=f"set partitions = {meta.n_partitions}",
        )
    if meta.generation != settings.generation:
        return Finding(
            level="warning",
            thing=thing,
            finding=f"live generation is {meta.generation}, settings say {settings.generation}",
            remedy=f"set generation = {meta.generation}, unless this is on purpose",
        )
    return Finding(level="ok", thing=thing, finding=f"generation {meta.generation}")
