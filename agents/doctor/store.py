"""Checks of the store: its settings, its health, and what lies there of ours."""

from __future__ import annotations

from agents.doctor.finding import Bench, Finding, length, some
from agents.store_access import fingerprint_of
from profiles.errors import StoreMismatch
from profiles.store_health import NodeHealth
from profiles.store_scan import ServerFacts

LEAST_VERSIONS = {"redis": (6, 2), "valkey": (7, 2)}
"""The oldest servers that the contract tests have passed on, or their makers still mend."""

FULL_SHARE = 0.9
"""From this share of its memory limit on, a store is about to refuse commits."""

CLIENTS_SHARE = 0.9

SKEW_MS = 1_000.0

CHUNK_ROWS = 4_096
"""Rows of one chunk of the item table: the largest value that we write but the seen ring."""


async def servers(bench: Bench) -> list[Finding]:
    """Version, memory, eviction and persistence of each node."""
    return [one for facts in await bench.store.server_facts() for one in examine_server(facts)]


def examine_server(facts: ServerFacts) -> list[Finding]:
    """One node of the store."""
    thing = f"{facts.software} {facts.version} at {facts.address}"
    findings = []
    if facts.eviction_policy not in (None, "noeviction"):
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"maxmemory-policy is {facts.eviction_policy}",
                why="at the memory limit profiles vanish without a word, and checkpoints with them",
                remedy="CONFIG SET maxmemory-policy noeviction, and in the configuration file",
            )
        )
    if not facts.aof:
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding="appendonly is off",
                why="a restart loses profiles; they come back by folding the log anew",
                remedy="CONFIG SET appendonly yes, and in the configuration file",
            )
        )
    elif facts.fsync == "no":
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding="appendfsync is no",
                why="a power cut loses what the kernel has not written, up to half a minute",
                remedy="CONFIG SET appendfsync everysec, and in the configuration file",
            )
        )
    elif facts.fsync == "always":
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding="appendfsync is always",
                why="each commit waits for the disk; nothing is gained: what a power cut loses is "
                "folded again",
                remedy="CONFIG SET appendfsync everysec, and in the configuration file",
            )
        )
    if facts.max_memory and facts.used_memory > FULL_SHARE * facts.max_memory:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"{facts.used_memory / facts.max_memory:.0%} of maxmemory is used",
                why="a full store refuses commits: they wait, and lose nothing",
                remedy="raise maxmemory; profile_retention_s lets old profiles go",
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
                why="commands may be missing or behave otherwise",
                remedy="upgrade the server",
            )
        )
    return findings or [Finding(level="ok", thing=thing, finding="policy, persistence, memory")]


async def health(bench: Bench) -> list[Finding]:
    """Clock, limits and disk of each node."""
    settings = bench.settings
    largest = largest_value(settings.seen_window, settings.n_factors)
    return [
        one
        for node in await bench.store.health.nodes(bench.now_ms)
        for one in examine_node(node, largest)
    ]


def largest_value(n_seen_slots: int, n_factors: int) -> int:
    """Bytes of the largest value that a commit or snapshot writes: ring, or chunk of items.

    >>> largest_value(262_144, 64)
    12910592
    """
    # An item with 48 neighbours has 4 K + 830 bytes; of groups, tokens and queries a chunk holds
    # 4 K + 200 for each. Twice of each, for a longer list.
    return max(8 * n_seen_slots, 2 * CHUNK_ROWS * (8 * n_factors + 1_064))


def examine_node(node: NodeHealth, largest_bytes: int) -> list[Finding]:
    """One node. largest_bytes: of a value that we write."""
    thing = f"store at {node.address}"
    findings = []
    skew_ms = max(0.0, abs(node.clock_ahead_ms) - node.clock_within_ms)
    if skew_ms > SKEW_MS:
        direction = "ahead of" if node.clock_ahead_ms > 0 else "behind"
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding=f"its clock is {length(skew_ms)} {direction} this machine's",
                why="times to live end early or late; logs of the two can't be compared",
                remedy="let NTP set both clocks",
            )
        )
    if node.max_bulk_bytes is not None and node.max_bulk_bytes < largest_bytes:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"proto-max-bulk-len is {node.max_bulk_bytes:,} bytes, a commit or "
                f"snapshot writes up to {largest_bytes:,}",
                why="the store cuts the connection in the middle of a commit, again and again",
                remedy="CONFIG SET proto-max-bulk-len 536870912 (the default), and in the file",
            )
        )
    if not node.aof_writes:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding="its last write to the append-only file failed",
                why="it refuses commits until it can write again",
                remedy="free its disk, or mend it; see the store's log",
            )
        )
    if not node.snapshots_write:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding="its last snapshot (BGSAVE) failed",
                why="with stop-writes-on-bgsave-error it refuses commits",
                remedy="free its disk or memory (vm.overcommit_memory); see the store's log",
            )
        )
    if node.evicted_keys:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"it has evicted {node.evicted_keys:,} keys since it started",
                why="profiles, rings of seen ids or checkpoints may be among them",
                remedy="maxmemory-policy noeviction; then foldstream rebuild --check tells",
            )
        )
    if node.max_clients and node.n_clients > CLIENTS_SHARE * node.max_clients:
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding=f"{node.n_clients:,} of {node.max_clients:,} connections are taken",
                why="workers that start or take partitions over can't connect",
                remedy="CONFIG SET maxclients, or find out who holds them (CLIENT LIST)",
            )
        )
    return findings or [Finding(level="ok", thing=thing, finding="clock, limits, disk")]


async def meta(bench: Bench) -> list[Finding]:
    """Whether the settings are those of the live generation."""
    settings = bench.settings
    thing = f"store, {settings.store_prefix}:meta"
    try:
        meta = await bench.store.read_meta()
    except StoreMismatch as error:
        return [Finding(level="error", thing=thing, finding=str(error), remedy="see the message")]
    if meta is None:
        return [
            Finding(
                level="warning",
                thing=thing,
                finding="no worker has used this store yet",
                why="there are no profiles; or this is another store than you think",
                remedy="start a worker, or correct redis and store_prefix",
            )
        ]
    findings = []
    if meta.n_partitions != settings.partitions:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"made with {meta.n_partitions} partitions, settings say "
                f"{settings.partitions}",
                why="users are looked for where they are not; a worker refuses to start",
                remedy=f"set partitions = {meta.n_partitions}",
            )
        )
    if meta.generation != settings.generation:
        findings.append(
            Finding(
                level="warning",
                thing=thing,
                finding=f"live generation is {meta.generation}, settings say {settings.generation}",
                why="what is folded there is not what readers are shown",
                remedy=f"set generation = {meta.generation}, unless this is on purpose",
            )
        )
    return findings or [
        Finding(
            level="ok",
            thing=thing,
            finding=f"generation {meta.generation}, record format {meta.record_format}",
        )
    ]


async def checkpoints(bench: Bench) -> list[Finding]:
    """Whether any commit was applied in part, and whether the settings shape records as before."""
    settings, store = bench.settings, bench.store
    torn, other, n_found = {}, [], 0
    expected = fingerprint_of(settings)
    for partition in range(settings.partitions):
        checkpoint = await store.read_checkpoint(partition)
        if checkpoint is None:
            continue
        n_found += 1
        if checkpoint.fingerprint != expected:
            other.append(partition)
        reason = await store.health.torn(partition)
        if reason is not None:
            torn[partition] = reason
    findings = []
    thing = f"checkpoints of {settings.generation}"
    if torn:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"partitions {some(list(torn))}: a commit was applied in part "
                f"({next(iter(torn.values()))})",
                why="some users may be counted twice; the partition stays stopped",
                remedy="fold into a new generation (docs/decisions/0022-no-half-commit.md)",
            )
        )
    if other:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"partitions {some(other)} were folded with other settings",
                why="n_factors, history, seen_window, profile_retention_s and kinds shape records; "
                "a worker with these settings refuses them",
                remedy="set them back, or fold into a new generation",
            )
        )
    told = f"{n_found} of {settings.partitions} partitions have one"
    return findings or [Finding(level="ok", thing=thing, finding=told)]
