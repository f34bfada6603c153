"""Which generation is live, and which record format is written: what people decide.

Owns the conditions under which a switch is safe and the wait until every worker has followed. The
switch itself is one step in the store (`profiles.store_generations`). What stays true: nothing is
switched while a worker runs that could not follow.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from agents.errors import CheckFailed, UsageError
from agents.generations import in_force, newest_format
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store import ProfileStore
from profiles.store_generations import Generation, Standing, WorkerSign
from streams.groups import group_members
from streams.manual_reader import ManualReader

FOLLOW_S = 90.0
"""How long to wait for workers: they look every two seconds, end their work and start anew."""

LOOK_S = 0.25

PASS_S = 30.0
"""How long to wait for workers to fold in the live generation what another has folded already."""

MOST_BEHIND = 20_000
"""Events left for the workers to fold after a promotion: about a second of theirs."""


class GenerationState(msgspec.Struct, frozen=True, kw_only=True):
    """One generation for people. behind: offsets of the log that it has not folded; lost: offsets
    among those that the log does not hold any more. accepted: gaps accepted in its checkpoints."""

    name: str
    live: bool
    state: str
    record_format: int
    settings: dict[str, Any]
    created_ms: int
    behind: int
    lost: int
    accepted: int
    workers: list[str]


class Followed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a switch. waiting: workers that have not followed within `FOLLOW_S`."""

    before: str
    now: str
    workers: list[str]
    waiting: list[str]
    took_s: float
    behind: int


async def list_generations(settings: Settings) -> list[GenerationState]:
    """Every generation that is described, the live one first. Raises StoreAway, BrokerAway."""
    async with store_of(settings) as store:
        standing = await store.registry.read()
        signs = await store.registry.workers()
        reader = ManualReader(settings.kafka, settings.topics().events.name)
        await reader.start()
        try:
            states = [
                await _state(settings, standing, found, signs, reader)
                for found in standing.generations.values()
            ]
        finally:
            await reader.stop()
    return sorted(states, key=lambda state: (not state.live, state.created_ms))


async def _state(
    settings: Settings,
    standing: Standing,
    found: Generation,
    signs: list[WorkerSign],
    reader: ManualReader,
) -> GenerationState:
    partitions = range(settings.partitions)
    begins, ends = await reader.begin_offsets(partitions), await reader.end_offsets(partitions)
    behind = lost = accepted = 0
    async with store_of(settings, found.name) as store:
        for partition in partitions:
            checkpoint = await store.read_checkpoint(partition)
            position = checkpoint.next_offset if checkpoint else 0
            behind += max(0, ends[partition] - position)
            lost += max(0, begins[partition] - position)
            accepted += sum(upto - first for first, upto in checkpoint.gaps) if checkpoint else 0
    return GenerationState(
        name=found.name,
        live=standing.meta is not None and standing.meta.generation == found.name,
        state=found.state,
        record_format=found.record_format,
        settings=found.settings,
        created_ms=found.created_ms,
        behind=behind,
        lost=lost,
        accepted=accepted,
        workers=[sign.name for sign in signs if sign.generation == found.name],
    )


async def strangers(settings: Settings, signs: list[WorkerSign]) -> list[str]:
    """Members of the workers' groups that give no sign of life in the store: an older version, or
    a worker with another store. Raises BrokerAway."""
    roles = ("updater", "scorer")
    known = {f"{sign.name}-{role}" for sign in signs for role in roles}
    members = await group_members(settings.kafka, [f"{settings.group}-{role}" for role in roles])
    return sorted(member for member in members if member not in known)


async def promote(
    settings: Settings,
    name: str,
    *,
    most_behind: int = MOST_BEHIND,
    unannounced: bool = False,
    pass_s: float = PASS_S,
    follow_s: float = FOLLOW_S,
    on_wait: Callable[[int, int], None] = lambda done, total: None,
) -> Followed:
    """Make a generation the live one, and wait until every worker goes on in it.

    What was folded beside the live generation was announced to nobody, so the live one must have
    come past it first: else changes of profiles are never told. unannounced: switch all the same.
    on_wait: told (workers that have followed, workers). Raises UsageError where it is not safe,
    each with the way out; StoreMismatch, StoreAway, BrokerAway.
    """
    async with store_of(settings) as store:
        standing = await store.registry.read()
        signs = await store.registry.workers()
        chosen = _known(standing, name)
        if chosen.state == "building":
            raise UsageError(
                f"generation {name!r} is not folded up to the log yet: foldstream rebuild --into "
                f"{name} goes on with it"
            )
        assert standing.meta is not None
        state = next(s for s in await list_generations(settings) if s.name == name)
        if state.lost:
            raise UsageError(
                f"generation {name!r} stands before the log's beginning: {state.lost} events are "
                f"gone. foldstream rebuild --into {name} --accept-gap goes on without them"
            )
        if state.behind > most_behind:
            raise UsageError(
                f"generation {name!r} is {state.behind} events behind the log (limit {most_behind})"
                ": profiles would be stale until they are folded. foldstream rebuild --into "
                f"{name} folds them first; --most-behind raises the limit"
            )
        await _check_readers(settings, signs, chosen.record_format)
        before = standing.meta.generation
        if not unannounced:
            on_wait(0, len(signs))
            await _wait_to_pass(in_force(settings, standing, named=False), name, pass_s)
        began = time.monotonic()
        await store.registry.promote(name)
        waiting = await _wait_for(
            store, [sign.name for sign in signs], lambda s: s.generation == name, follow_s, on_wait
        )
    return Followed(
        before=before,
        now=name,
        workers=[sign.name for sign in signs],
        waiting=waiting,
        took_s=time.monotonic() - began,
        behind=state.behind,
    )


async def upgrade(
    settings: Settings,
    record_format: int | None = None,
    *,
    follow_s: float = FOLLOW_S,
    on_wait: Callable[[int, int], None] = lambda done, total: None,
) -> Followed:
    """Let records be written in a newer format, now that every worker can read it.

    record_format: default the newest that this version knows. Raises UsageError with the way out.
    """
    wanted = record_format or newest_format(settings)
    if wanted > newest_format(settings):
        raise UsageError(
            f"format {wanted} is newer than this version (knows 1-{newest_format(settings)})"
        )
    async with store_of(settings) as store:
        standing = await store.registry.read()
        if standing.meta is None:
            raise UsageError("no worker has used this store yet")
        signs = await store.registry.workers()
        before = standing.meta.record_format
        if wanted < before:
            raise UsageError(
                f"records are written in format {before}, and some may be stored in it: a format "
                f"can't be taken back. A new generation in format {wanted}: foldstream rebuild "
                "--into NAME with the version that writes it"
            )
        await _check_readers(settings, signs, wanted)
        began = time.monotonic()
        waiting: list[str] = []
        if wanted != before:
            await store.registry.set_format(wanted)
            names = [sign.name for sign in signs]
            waiting = await _wait_for(store, names, lambda s: s.writes == wanted, follow_s, on_wait)
    return Followed(
        before=str(before),
        now=str(wanted),
        workers=[sign.name for sign in signs],
        waiting=waiting,
        took_s=time.monotonic() - began,
        behind=0,
    )


async def check_drop(settings: Settings, name: str) -> None:
    """May this generation be removed? Raises UsageError."""
    async with store_of(settings) as store:
        standing = await store.registry.read()
        if standing.meta is not None and standing.meta.generation == name:
            others = ", ".join(sorted(standing.generations.keys() - {name})) or "none"
            raise UsageError(
                f"generation {name!r} is live: foldstream promote another first (others: {others})"
            )
        inside = [s.name for s in await store.registry.workers() if s.generation == name]
        if inside:
            raise UsageError(
                f"workers {', '.join(inside)} still fold into {name!r}: they follow a promotion "
                "within seconds; try again"
            )


async def drop(
    settings: Settings, name: str, keys_per_s: int, on_removed: Callable[[int], None]
) -> int:
    """Remove a generation that is not live; returns how many keys. Raises UsageError, StoreAway."""
    await check_drop(settings, name)
    async with store_of(settings) as store:
        return await store.drop_generation(name, keys_per_s, on_removed)


def _known(standing: Standing, name: str) -> Generation:
    if standing.meta is None:
        raise UsageError("no worker has used this store yet")
    chosen = standing.generations.get(name)
    if chosen is None or chosen.state == "dropping":
        there = ", ".join(
            n for n, g in sorted(standing.generations.items()) if g.state != "dropping"
        )
        raise UsageError(
            f"no generation {name!r}: there is {there}. foldstream rebuild --into {name} makes it"
        )
    if standing.meta.generation == name:
        raise UsageError(f"generation {name!r} is live already")
    return chosen


async def _wait_to_pass(live: Settings, name: str, pass_s: float) -> None:
    """Wait until the live generation, of these settings, is at least as far as another.

    Raises UsageError when it isn't within `pass_s`.
    """
    deadline = time.monotonic() + pass_s
    async with store_of(live) as ours, store_of(live, name) as other:
        while True:
            ahead = 0
            for partition in range(live.partitions):
                goal, here = (
                    await other.read_checkpoint(partition),
                    await ours.read_checkpoint(partition),
                )
                position = here.next_offset if here else 0
                ahead += max(0, (goal.next_offset if goal else 0) - position)
            if not ahead:
                return
            if time.monotonic() >= deadline:
                raise UsageError(
                    f"generation {name!r} has folded {ahead} events that the live one, "
                    f"{live.generation!r}, has not: these changes would be announced to nobody. "
                    "Let a worker fold them first (foldstream worker); --unannounced switches now"
                )
            await asyncio.sleep(LOOK_S)


async def _check_readers(settings: Settings, signs: list[WorkerSign], record_format: int) -> None:
    """Can every worker read this format, and follow at all? Raises CheckFailed."""
    old = [
        f"{sign.name} (reads 1-{sign.reads_to})" for sign in signs if sign.reads_to < record_format
    ]
    unknown = await strangers(settings, signs)
    told = []
    if old:
        told.append(f"workers {', '.join(old)} can't read record format {record_format}")
    if unknown:
        told.append(
            f"{', '.join(unknown)}: in the workers' group without a sign of life in this store"
        )
    if told:
        raise CheckFailed(
            f"{'; '.join(told)}: upgrade or stop them first (a worker that was killed is forgotten "
            "within half a minute)"
        )


async def _wait_for(
    store: ProfileStore,
    names: list[str],
    followed: Callable[[WorkerSign], bool],
    follow_s: float,
    on_wait: Callable[[int, int], None],
) -> list[str]:
    """Wait until all workers have followed or gone; returns those that have not."""
    deadline = time.monotonic() + follow_s
    waiting = list(names)
    seen_anew: set[str] = set()
    while waiting and time.monotonic() < deadline:
        signs = {sign.name: sign for sign in await store.registry.workers()}
        seen_anew |= {name for name in names if name in signs and followed(signs[name])}
        # One that has signed off is on its way, or was stopped: the deadline decides.
        waiting = [name for name in names if name not in seen_anew]
        on_wait(len(names) - len(waiting), len(names))
        if waiting:
            await asyncio.sleep(LOOK_S)
    return waiting
