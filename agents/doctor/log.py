"""Checks of the log against what the store says of it: identity, lag, snapshot, clocks."""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from agents.doctor.broker import newest
from agents.doctor.finding import Bench, Finding, length, some
from profiles.store import Checkpoint
from streams.codec import decode_change
from streams.errors import DecodeError
from streams.log_identity import log_identity
from streams.manual_reader import ManualReader

LAG_MS = 60_000
"""An event that has waited for longer than a minute is late by any measure of ours."""

SNAPSHOT_MS = 120_000
"""At least; or ten intervals. A crash loses the item learning since the last snapshot."""

SKEW_MS = 1_000.0

SAMPLE = 20


async def _checkpoints(bench: Bench) -> dict[int, Checkpoint]:
    found = {}
    for partition in range(bench.settings.partitions):
        checkpoint = await bench.store.read_checkpoint(partition)
        if checkpoint is not None:
            found[partition] = checkpoint
    return found


async def identity(bench: Bench) -> list[Finding]:
    """Whether the profiles were folded from this log, and the log still holds what follows."""
    topic = bench.topics.events.name
    checkpoints = await _checkpoints(bench)
    thing = f"log {topic}"
    if not checkpoints:
        return [Finding(level="ok", thing=thing, finding="nothing was folded from it yet")]
    here = await log_identity(bench.settings.kafka, topic)
    findings = []
    elsewhere = {
        p: c.log
        for p, c in checkpoints.items()
        if c.log is not None
        and (c.log.cluster_id, c.log.topic, c.log.n_partitions)
        != (here.cluster_id, here.topic, here.n_partitions)
    }
    if elsewhere:
        log = next(iter(elsewhere.values()))
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"partitions {some(list(elsewhere))} were folded from {log.topic} with "
                f"{log.n_partitions} partitions in cluster {log.cluster_id}; this is {here.topic} "
                f"with {here.n_partitions} in cluster {here.cluster_id}",
                why="offsets of one log mean nothing in another; a worker refuses to start",
                remedy="correct kafka, topic_prefix or redis; or fold this log into a new "
                "generation (foldstream rebuild)",
            )
        )
    reader = ManualReader(bench.settings.kafka, topic, client_id="foldstream-doctor")
    await reader.start()
    try:
        same = [p for p in checkpoints if p < here.n_partitions and p not in elsewhere]
        begins, ends = await reader.begin_offsets(same), await reader.end_offsets(same)
        anew = []
        for partition in same:
            checkpoint = checkpoints[partition]
            last = checkpoint.log
            if last is None or last.last_offset is None:
                continue
            if not begins[partition] <= last.last_offset < ends[partition]:
                continue  # told below, or retention has passed what was folded
            record = await reader.read_one(partition, last.last_offset)
            if record is None or (record.timestamp, xxh3_64_intdigest(record.key or b"")) != (
                last.last_timestamp_ms,
                last.last_key_hash,
            ):
                anew.append(partition)
    finally:
        await reader.stop()
    behind = [p for p in same if checkpoints[p].next_offset < begins[p]]
    ahead = [p for p in same if checkpoints[p].next_offset > ends[p]]
    if anew:
        findings.append(
            Finding(
                level="error",
                thing=thing,
                finding=f"partitions {some(anew)} hold another event where the last one was folded",
                why="the topic was made anew or restored differently; a worker refuses to start",
                remedy="restore the topic, or fold this log into a new generation",
            )
        )
    for partitions, finding in (
        (behind, "no longer hold the next event: retention has taken it"),
        (ahead, "end before what was folded: the log lost its end"),
    ):
        if partitions:
            first = partitions[0]
            findings.append(
                Finding(
                    level="error",
                    thing=thing,
                    finding=f"partitions {some(partitions)} {finding} (partition {first}: folded "
                    f"to {checkpoints[first].next_offset}, the log holds {begins[first]} to "
                    f"{ends[first]})",
                    why="a worker stops there rather than skip events in silence",
                    remedy="restore the log; or accept the gap, or rebuild: the worker's message "
                    "says how",
                )
            )
    return findings or [
        Finding(level="ok", thing=thing, finding="the one that the profiles were folded from")
    ]


async def lag(bench: Bench) -> list[Finding]:
    """How far the profiles are behind the log, and for how long the oldest event has waited."""
    topic = bench.topics.events.name
    reader = ManualReader(bench.settings.kafka, topic, client_id="foldstream-doctor")
    await reader.start()
    try:
        checkpoints = await _checkpoints(bench)
        partitions = range(bench.settings.partitions)
        begins, ends = await reader.begin_offsets(partitions), await reader.end_offsets(partitions)
        lags = {}
        for p in partitions:
            at = checkpoints[p].next_offset if p in checkpoints else 0
            lags[p] = (max(at, begins[p]), ends[p] - max(at, begins[p]))
        late = {p: (at, n) for p, (at, n) in lags.items() if n > 0}
        waited_ms = 0.0
        for partition, (at, _) in late.items():
            message = await _first_from(reader, partition, at, ends[partition])
            if message is not None:
                waited_ms = max(waited_ms, bench.now_ms() - message)
    finally:
        await reader.stop()
    total = sum(n for _, n in late.values())
    thing = f"lag of {topic}"
    if waited_ms < LAG_MS:
        return [Finding(level="ok", thing=thing, finding=f"{total:,} offsets")]
    worst = sorted(late, key=lambda p: -late[p][1])[:4]
    listed = ", ".join(f"partition {p}: {late[p][1]:,}" for p in worst)
    return [
        Finding(
            level="warning",
            thing=thing,
            finding=f"{total:,} offsets on {len(late)} partitions, the oldest event has waited "
            f"{length(waited_ms)} ({listed})",
            why="profiles and lists don't know what shoppers did since",
            remedy="see `group` findings and /readyz of the workers; more workers, if all are busy",
        )
    ]


async def _first_from(reader: ManualReader, partition: int, offset: int, end: int) -> int | None:
    """Append time of the first message at or behind an offset; None where only gaps follow."""
    async for records in reader.read_before(partition, end, end - offset):
        if records:
            return int(records[0].timestamp)
    return None


async def snapshot(bench: Bench) -> list[Finding]:
    """How much item learning a crash would lose now."""
    thing = "item snapshot"
    learned = await bench.store.health.snapshot_offsets()
    checkpoints = await _checkpoints(bench)
    folded = {p: c.next_offset for p, c in checkpoints.items() if c.next_offset}
    if not folded:
        return [Finding(level="ok", thing=thing, finding="nothing was folded yet")]
    behind = {p: (learned or {}).get(p, 0) for p in folded}
    behind = {p: at for p, at in behind.items() if at < folded[p]}
    reader = ManualReader(bench.settings.kafka, bench.topics.events.name)
    await reader.start()
    age_ms = 0.0
    try:
        begins = await reader.begin_offsets(behind)
        for partition, at in behind.items():
            at = max(at, begins[partition])
            if at >= folded[partition]:
                continue
            stamp = await _first_from(reader, partition, at, folded[partition])
            if stamp is not None:
                age_ms = max(age_ms, bench.now_ms() - stamp)
    finally:
        await reader.stop()
    limit_ms = max(SNAPSHOT_MS, 10_000 * bench.settings.item_snapshot_interval_s)
    n = sum(folded[p] - at for p, at in behind.items())
    if age_ms <= limit_ms:
        return [Finding(level="ok", thing=thing, finding=f"{n:,} offsets behind the profiles")]
    what = "there is none" if learned is None else "it is old"
    return [
        Finding(
            level="warning",
            thing=thing,
            finding=f"{what}: {n:,} folded offsets are not in it, the oldest from "
            f"{length(age_ms)} ago",
            why="a crash loses what items learned since; readers in other processes rank by it",
            remedy="see the log of the worker that holds partition 0 (item snapshot not written)",
        )
    ]


async def broker_clock(bench: Bench) -> list[Finding]:
    """The broker's clock against the workers' and ours, by what it has stamped."""
    thing = "clock of the broker"
    now_ms = bench.now_ms()
    messages = await newest(bench.settings.kafka, bench.topics.profile_changes.name, SAMPLE)
    if not messages:
        return [Finding(level="ok", thing=thing, finding="nothing to compare it by yet")]
    future_ms = max(message.timestamp for message in messages) - now_ms
    delays = []
    for message in messages:
        try:
            delays.append(message.timestamp - decode_change(message.value).folded_ms)
        except DecodeError:
            continue
    # From the commit to the broker's stamp takes milliseconds: what is left is between the clocks.
    # The least: what a worker says again when it starts was folded long before.
    skew_ms = min(delays, default=0.0)
    if future_ms > SKEW_MS or abs(skew_ms) > SKEW_MS:
        told = (
            f"{length(future_ms)} ahead of this machine"
            if future_ms > SKEW_MS
            else f"{length(abs(skew_ms))} {'ahead of' if skew_ms > 0 else 'behind'} the workers'"
        )
        return [
            Finding(
                level="warning",
                thing=thing,
                finding=told,
                why="freshness is measured wrongly, and events of the present count as future ones "
                "or late",
                remedy="let NTP set the clocks of brokers and workers",
            )
        ]
    return [Finding(level="ok", thing=thing, finding=f"within {length(SKEW_MS)}")]
