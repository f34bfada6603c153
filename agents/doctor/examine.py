"""All checks at once, each with its time; a check that fails is a finding, not the end.

Nothing is changed in broker or store, and no group is joined.
"""

from __future__ import annotations

import asyncio

from agents.doctor import broker, log, machine, store
from agents.doctor.finding import Bench, Check, Finding, Need
from agents.errors import AgentsError
from agents.generations import read_settings
from agents.settings import Settings
from agents.store_access import store_of
from profiles.errors import ProfilesError
from streams.cluster_state import cluster_state
from streams.errors import StreamsError
from streams.topics import TopicMissing

CHECK_S = 15.0
"""For one check; together they take as long as the slowest. A healthy one takes milliseconds."""

REACH = "reach"

BROKER: frozenset[Need] = frozenset({"broker"})
STORE: frozenset[Need] = frozenset({"store"})

CHECKS = (
    Check("topics", BROKER, broker.topics),
    Check("replicas", BROKER, broker.replicas),
    Check("keys", BROKER, broker.keys),
    Check("dead-letters", BROKER, broker.dead_letters),
    Check("consumers", BROKER, broker.consumers),
    Check("log", BROKER | STORE, log.identity),
    Check("lag", BROKER | STORE, log.lag),
    Check("snapshot", BROKER | STORE, log.snapshot),
    Check("broker-clock", BROKER, log.broker_clock),
    Check("servers", STORE, store.servers),
    Check("store-health", STORE, store.health),
    Check("meta", STORE, store.meta),
    Check("checkpoints", STORE, store.checkpoints),
    Check("versions", frozenset(), machine.versions),
    Check("kernels", frozenset(), machine.kernels),
    Check("disk", frozenset(), machine.disk),
)
"""In the order in which they are shown."""


async def examine(settings: Settings, check_s: float = CHECK_S) -> list[Finding]:
    """Every finding. Raises nothing: what is away is a finding of the check `reach`."""
    bench = Bench(settings, settings.topics(), store_of(settings))
    try:
        reached = await asyncio.gather(_reach_broker(bench, check_s), _reach_store(bench, check_s))
        there = {
            need for need, ok in (("broker", reached[0]), ("store", reached[1])) if ok.level == "ok"
        }
        if "store" in there:
            bench = await _of_live_generation(bench, check_s)
        able = [check for check in CHECKS if check.needs <= there]
        found = await asyncio.gather(*(_look(check, bench, check_s) for check in able))
    finally:
        await bench.store.close()
    return [*reached, *(finding for findings in found for finding in findings)]


def away(findings: list[Finding]) -> list[Finding]:
    """The neighbours that could not be reached."""
    return [one for one in findings if one.check == REACH and one.level == "error"]


async def _of_live_generation(bench: Bench, check_s: float) -> Bench:
    """The bench with the settings that workers follow: after a promotion the configuration may
    still name the one before. Where they can't be read, as it was: the check `meta` says why.
    """
    try:
        async with asyncio.timeout(check_s):
            settings = await read_settings(bench.settings, bench.store)
            store = store_of(settings)
            await store.start()
    except (TimeoutError, AgentsError, ProfilesError):
        return bench
    await bench.store.close()
    return Bench(settings, bench.topics, store)


async def _reach_broker(bench: Bench, check_s: float) -> Finding:
    thing = f"broker {bench.settings.kafka}"
    try:
        async with asyncio.timeout(check_s):
            state = await cluster_state(bench.settings.kafka, [bench.topics.events.name])
    except (TimeoutError, StreamsError) as error:
        return Finding(
            level="error",
            check=REACH,
            thing=thing,
            finding=_told(error, check_s),
            why="nothing is read, folded or sent",
            remedy="start it (foldstream up), or correct the setting kafka",
        )
    if state.version is None:
        return Finding(
            level="warning",
            check=REACH,
            thing=thing,
            finding="Kafka is older than 2.3",
            why="static members and the requests used here are not tested there",
            remedy="upgrade the broker",
        )
    brokers = "one broker" if state.n_brokers == 1 else f"{state.n_brokers} brokers"
    return Finding(
        level="ok", check=REACH, thing=thing, finding=f"Kafka {state.version} or newer, {brokers}"
    )


async def _reach_store(bench: Bench, check_s: float) -> Finding:
    try:
        async with asyncio.timeout(check_s):
            await bench.store.start()
            facts = await bench.store.server_facts()
    except (TimeoutError, ProfilesError) as error:
        return Finding(
            level="error",
            check=REACH,
            thing="store",
            finding=_told(error, check_s),
            why="commits wait; profiles can't be read",
            remedy="start it (foldstream up), or correct the setting redis",
        )
    first = facts[0]
    nodes = f"a cluster of {len(facts)}" if first.cluster else "standalone"
    return Finding(
        level="ok",
        check=REACH,
        thing=f"store {first.address}",
        finding=f"{first.software} {first.version}, {nodes}",
    )


async def _look(check: Check, bench: Bench, check_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(check_s):
            findings = await check.look(bench)
    except TopicMissing as missing:  # the check of the topics names it, and what to do
        findings = [Finding(level="warning", thing=check.name, finding=f"not looked at: {missing}")]
    except Exception as error:  # noqa: BLE001  told as a finding; the other checks go on
        findings = [
            Finding(
                level="error",
                thing=check.name,
                finding=f"could not be looked at: {_told(error, check_s)}",
                why="what this check would find is not known",
                remedy="see the reason; run doctor again",
            )
        ]
    return [_named(finding, check.name) for finding in findings]


def _named(finding: Finding, name: str) -> Finding:
    values = {field: getattr(finding, field) for field in Finding.__struct_fields__}
    return Finding(**(values | {"check": name}))


def _told(error: BaseException, check_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {check_s:g} s"
    return str(error) or type(error).__name__
