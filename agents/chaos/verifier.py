"""Says what was lost, doubled or stale. Reads only Kafka and the store, and asks no worker.

What must hold is what `agents.chaos.oracle` makes of the raw log. What stays true: it changes
nothing, so it may be asked in the middle of a run too, once the workers stand still.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agents.chaos.append_log import written_in
from agents.chaos.bed import Bed
from agents.chaos.oracle import Facts, PartitionOracle
from agents.chaos.scenario import Report
from agents.chaos.watcher import Watcher
from agents.generations import read_settings
from agents.settings import Settings
from agents.store_access import fold_config_of, store_of
from profiles.digest import FactsDigest
from profiles.profile import HistoryEntry, OwnEntry, Profile
from profiles.record import decode_profile, encode_profile, facts_of
from profiles.shape import ModelShape
from profiles.store import ProfileStore
from profiles.store_keys import Keys
from streams.dead_letters import OFFSET, PARTITION, TOPIC
from streams.manual_reader import ManualReader
from streams.tailing import TopicTail

STALL_S = 120.0
"""Without any progress for so long, the end of the log is not waited for any more. Generous: what
a scenario promises about time it checks itself; the longest standstill is a figure."""

COMPARED = (
    *("first_ms", "last_ms", "last_offset", "history", "pending", "pending_ms"),
    *("n_positive", "n_sessions", "session", "session_from", "own"),
)
"""Facts of a profile that are named where they differ."""

N_NAMED = 3
"""Cases named in a failure; all are counted."""


@dataclass
class Expected:
    """The oracle's answer for the whole log. ends: by partition, the log's end when it was read."""

    partitions: list[PartitionOracle]
    ends: dict[int, int]

    @property
    def n_events(self) -> int:
        """Events to be folded, each once."""
        return sum(oracle.n_folded for oracle in self.partitions)

    @property
    def n_users(self) -> int:
        """Users with a profile."""
        return sum(len(oracle.users) for oracle in self.partitions)

    @property
    def dead_letters(self) -> set[tuple[int, int]]:
        """(partition, offset) of everything refused."""
        return {(o.partition, offset) for o in self.partitions for offset in o.refused}


@dataclass
class Found:
    """What differs, counted in events (lost, doubled) and users (stale, newer)."""

    n_events: int = 0
    n_users: int = 0
    lost: int = 0
    doubled: int = 0
    stale: list[str] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)
    digest: FactsDigest = field(default_factory=FactsDigest)
    digest_expected: FactsDigest = field(default_factory=FactsDigest)


async def verify(
    bed: Bed,
    report: Report,
    watcher: Watcher | None = None,
    *,
    falls_allowed: bool = False,
    settings: Settings | None = None,
    wait: bool = True,
) -> Expected:
    """Check every promise about what is kept and what was said; all goes to `report`.

    watcher: of the whole run; no next_offset may have fallen, unless falls_allowed (a store that
    was set back on purpose). settings: of the generation to look at, default the bed's.
    wait: for the checkpoints to reach the log's end first (a worker must run).
    """
    settings = settings or bed.settings()
    async with store_of(settings) as store:
        settings = await read_settings(settings, store)
    if wait:
        await reaches_end(settings, report)
    began = time.monotonic()
    expected = await fold_log(settings)
    async with store_of(settings) as store:
        found = await _compare(settings, store, expected)
    _report_profiles(report, expected, found)
    finished = [load for load in bed.loads if load.finished]
    if finished and len(finished) == len(bed.loads):
        sent = sum(load.acknowledged for load in finished)
        report.check(
            expected.n_events == sent,
            "the log holds every acknowledged event once, or more often with the same id",
            f"{sent} acknowledged, {expected.n_events} in the log",
        )
    await _check_announcements(settings, expected, report)
    await _check_dead_letters(settings, expected, report)
    if watcher is not None:
        _check_falls(report, watcher, falls_allowed)
        if watcher.keeps_log and not falls_allowed:
            await _check_log(bed, settings, report)
    report.figure("verified in", round(time.monotonic() - began, 1), "s")
    return expected


# Waiting for the end ------------------------------------------------------------------------


async def reaches_end(settings: Settings, report: Report, stall_s: float = STALL_S) -> bool:
    """Wait while the checkpoints move towards the log's end; checks that they reach it."""
    reader = ManualReader(settings.kafka, settings.topics().events.name)
    await reader.start()
    try:
        async with store_of(settings) as store:
            partitions = range(settings.partitions)
            positions, moved_s = [-1] * settings.partitions, time.monotonic()
            longest_s = 0.0
            while True:
                ends = await reader.end_offsets(partitions)
                found = await positions_of(store, settings.partitions)
                now_s = time.monotonic()
                longest_s = max(longest_s, now_s - moved_s)
                if all(at >= ends[p] for p, at in enumerate(found)):
                    report.figure("longest standstill before the end", round(longest_s, 1), "s")
                    return True
                if found != positions:
                    positions, moved_s = found, now_s
                elif now_s - moved_s > stall_s:
                    behind = {p: ends[p] - at for p, at in enumerate(found) if at < ends[p]}
                    return report.check(
                        False,
                        "every partition's checkpoint reaches the end of the log",
                        f"no progress for {stall_s:g} s, behind by {behind}",
                    )
                await asyncio.sleep(0.05)
    finally:
        await reader.stop()


async def positions_of(store: ProfileStore, partitions: int) -> list[int]:
    """The committed next_offset of every partition."""
    found = [await store.read_checkpoint(partition) for partition in range(partitions)]
    return [0 if checkpoint is None else checkpoint.next_offset for checkpoint in found]


# The log ------------------------------------------------------------------------------------


async def fold_log(settings: Settings) -> Expected:
    """The oracle's fold of the whole events topic as it is now."""
    own = [
        (kind.name, kind.code, kind.weight, kind.positive)
        for kind in settings.kinds_table().by_name.values()
        if kind.code >= 16
    ]
    oracles = [
        PartitionOracle(
            partition,
            history=settings.history,
            own_items=fold_config_of(settings).shape.own_items,
            seen_window=settings.seen_window,
            own_kinds=own,
        )
        for partition in range(settings.partitions)
    ]
    ends = dict.fromkeys(range(settings.partitions), 0)
    async for records in messages_of(settings, settings.topics().events.name):
        # By offset: a group comes in the order of append times, and a broker's clock may go back.
        for record in sorted(records, key=lambda record: (record.partition, record.offset)):
            oracles[record.partition].take(
                record.offset, record.timestamp, record.key, record.value, record.headers
            )
            ends[record.partition] = record.offset + 1
    return Expected(oracles, ends)


async def messages_of(
    settings: Settings, topic: str, since_ms: int | None = None
) -> AsyncIterator[Sequence[Any]]:
    """Every message that is on a topic now, in groups; within a partition in order.

    since_ms: only those appended at that time (ms since 1970) or later.
    """
    async with TopicTail(
        settings.kafka, topic, from_beginning=True, from_ms=since_ms, follow=False
    ) as tail:
        async for records in tail.records():
            yield records


# The profiles -------------------------------------------------------------------------------


def shape_of(settings: Settings) -> ModelShape:
    """Sizes of a record."""
    return fold_config_of(settings).shape


def profile_of(facts: Facts) -> Profile:
    """The oracle's facts as the product's profile, without a model part."""
    return Profile(
        first_ms=facts.first_ms,
        last_ms=facts.last_ms,
        last_offset=facts.last_offset,
        n_by_kind=dict(facts.counts),
        history=[HistoryEntry(*entry) for entry in facts.history],
        pending=list(facts.pending),
        pending_ms=facts.pending_ms,
        n_positive=facts.n_positive,
        n_sessions=len(facts.sessions),
        session=facts.session,
        session_from=facts.sessions[-1] if facts.sessions else 0,
        own=[
            OwnEntry(short_hash, own.times, own.number, own.minute)
            for short_hash, own in reversed(facts.own.items())
        ],
    )


async def _compare(settings: Settings, store: ProfileStore, expected: Expected) -> Found:
    shape, found = shape_of(settings), Found()
    positions = await positions_of(store, settings.partitions)
    for oracle in expected.partitions:
        missing = dict(oracle.users)
        for user, facts in oracle.users.items():
            record = encode_profile(profile_of(facts), shape)
            found.digest_expected.add(user, facts_of(record))
        async for user, record in store.iter_records(oracle.partition):
            live = decode_profile(record, shape, user)
            found.n_users += 1
            found.n_events += live.n_events
            found.digest.add(user, facts_of(record))
            if live.last_offset >= positions[oracle.partition]:
                found.newer.append(f"{user} at {oracle.partition}/{live.last_offset}")
            facts_wanted = missing.pop(user, None)
            if facts_wanted is None:
                found.strangers.append(user)
                found.doubled += live.n_events
                continue
            _count(found, user, facts_wanted, live)
        found.lost += sum(facts.n_events for facts in missing.values())
        found.stale += [f"{user}: no record" for user in missing]
    return found


def _count(found: Found, user: str, wanted: Facts, live: Profile) -> None:
    more = Counter(live.n_by_kind)
    more.subtract(wanted.counts)
    found.doubled += sum(n for n in more.values() if n > 0)
    found.lost -= sum(n for n in more.values() if n < 0)
    expected = profile_of(wanted)
    for name in COMPARED:
        if name == "pending_ms" and not wanted.pending:
            continue  # a query of no words leaves a time that no record holds
        if _plain(getattr(live, name)) != _plain(getattr(expected, name)):
            found.stale.append(f"{user}: {name}")
            return


def _plain(value: Any) -> Any:
    """History entries with weights as float32 holds them."""
    if isinstance(value, list) and value and isinstance(value[0], HistoryEntry):
        return [(e.item_hash, e.time_ms, round(e.weight, 6), e.kind) for e in value]
    return value


def _report_profiles(report: Report, expected: Expected, found: Found) -> None:
    report.figure("events", expected.n_events)
    report.figure("users", expected.n_users)
    report.figure("messages", sum(oracle.n_messages for oracle in expected.partitions))
    report.figure("repeats in the log", sum(oracle.n_repeats for oracle in expected.partitions))
    report.figure("lost", found.lost, "events")
    report.figure("doubled", found.doubled, "events")
    report.figure("stale", len(found.stale), "profiles")
    report.check(found.lost == 0, "no event is lost", f"{found.lost} are")
    report.check(found.doubled == 0, "no event is folded twice", f"{found.doubled} are")
    report.check(not found.stale, "every profile's facts are the oracle's", named(found.stale))
    report.check(
        not found.strangers, "no profile is there that the log knows nothing of",
        named(found.strangers),
    )  # fmt: skip
    report.check(not found.newer, "no profile is newer than its checkpoint", named(found.newer))
    report.check(
        found.digest == found.digest_expected,
        "the digest of the facts is the oracle's",
        f"{found.digest.hex} of {found.digest.n_profiles}, "
        f"{found.digest_expected.hex} of {found.digest_expected.n_profiles}",
    )
    report.check(
        (found.n_events, found.n_users) == (expected.n_events, expected.n_users),
        "the counts of events and users are the oracle's",
        f"{found.n_events} of {found.n_users}, {expected.n_events} of {expected.n_users}",
    )


def named(cases: Sequence[str]) -> str:
    """How many, and the first of them.

    >>> named(["a", "b", "c", "d"]), named([])
    ('4: a, b, c, ...', '')
    """
    more = ", ..." if len(cases) > N_NAMED else ""
    return f"{len(cases)}: {', '.join(cases[:N_NAMED])}{more}" if cases else ""


# What was said ------------------------------------------------------------------------------


async def _check_announcements(settings: Settings, expected: Expected, report: Report) -> None:
    """Every commit that changed a profile was announced, with exactly the users it changed.

    The commit that an event was folded in is the announced one with the smallest next_offset
    behind it: were its announcement lost, the next one would not name its users (those whom it does
    name hear no less). Holds also where a store went back and batches were cut anew.
    """
    said: list[dict[int, dict[str, int]]] = [{} for _ in expected.partitions]
    n_messages, distinct = 0, set()
    async for records in messages_of(settings, settings.topics().profile_changes.name):
        for record in records:
            change = msgspec.json.decode(record.value)
            n_messages += 1
            distinct.add(hash(record.value))
            users = said[change["partition"]].setdefault(change["next_offset"], {})
            for user, offset, *_ in change["users"]:
                users[user] = max(offset, users.get(user, -1))
    unsaid, wrong, silent = [], [], []
    for oracle, commits in zip(expected.partitions, said, strict=True):
        cuts = sorted(commits)
        at, last = 0, dict[str, int]()
        for offset, user in oracle.folded:
            while at < len(cuts) and cuts[at] <= offset:
                wrong += _wrong(oracle.partition, cuts[at], commits[cuts[at]], last)
                at += 1
            last[user] = offset
            if at == len(cuts) or commits[cuts[at]].get(user, -1) < offset:
                unsaid.append(f"{user} at {oracle.partition}/{offset}")
        for cut in cuts[at:]:
            wrong += _wrong(oracle.partition, cut, commits[cut], last)
        newest = dict[str, int]()
        for users in commits.values():
            for user, offset in users.items():
                newest[user] = max(offset, newest.get(user, -1))
        silent += [
            f"{user} at {oracle.partition}/{facts.last_offset}"
            for user, facts in oracle.users.items()
            if newest.get(user) != facts.last_offset
        ]
    report.figure("announcements", n_messages)
    report.figure("announcements repeated", n_messages - len(distinct))
    report.check(not silent, "every user's last change was announced", named(silent))
    report.check(not unsaid, "the announcement of every commit is there", named(unsaid))
    report.check(not wrong, "announcements say what the log says", named(wrong))


def _wrong(partition: int, cut: int, users: dict[str, int], last: dict[str, int]) -> list[str]:
    """Announced offsets that are not the user's last one before the end of the commit."""
    return [
        f"{user} at {partition}/{offset}, {last.get(user)} in the log"
        for user, offset in users.items()
        if last.get(user) != offset
    ]


async def _check_dead_letters(settings: Settings, expected: Expected, report: Report) -> None:
    """Distinct by position, they are what the oracle refuses."""
    places, n_messages = set(), 0
    topic = settings.topics().events.name.encode()
    async for records in messages_of(settings, settings.topics().dead_letters.name):
        for record in records:
            headers = dict(record.headers)
            if headers.get(TOPIC) == topic:
                n_messages += 1
                places.add((int(headers[PARTITION]), int(headers[OFFSET])))
    wanted = expected.dead_letters
    report.figure("dead letters", len(places))
    report.figure("dead letters repeated", n_messages - len(places))
    report.check(
        places == wanted,
        "the dead letters, distinct by position, are what the oracle refuses",
        f"missing {named([f'{p}/{o}' for p, o in sorted(wanted - places)])}; "
        f"unfounded {named([f'{p}/{o}' for p, o in sorted(places - wanted)])}",
    )


async def _check_log(bed: Bed, settings: Settings, report: Report) -> None:
    """The store's append-only file holds every checkpoint up to those that stand; none falls."""
    keys = Keys(settings.store_prefix, settings.generation, settings.partitions)
    folders = [node.folder for node in bed.nodes]
    async with store_of(settings) as store:
        positions = await positions_of(store, settings.partitions)
    written = await asyncio.to_thread(written_in, folders, keys)
    report.figure("checkpoints in the append-only file", written.n)
    report.check(
        written.n > 0 and [written.last.get(p, 0) for p in range(len(positions))] == positions,
        "the append-only file holds the checkpoints up to those that stand",
        f"{written.n}, up to {written.last}; {positions} stand",
    )
    report.check(
        not written.falls,
        "in the append-only file no next_offset is below the one before it",
        named([f"partition {f.partition} from {f.before} to {f.after}" for f in written.falls]),
    )


def _check_falls(report: Report, watcher: Watcher, falls_allowed: bool) -> None:
    falls = watcher.falls
    report.figure("next_offset fell", len(falls), "times")
    if falls_allowed:
        return
    report.check(
        not falls,
        "no next_offset ever falls",
        named([f"partition {f.partition} from {f.before} to {f.after}" for f in falls]),
    )
