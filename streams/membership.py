"""Who reads what: the members of consumer groups and the partitions they hold, for onlookers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    for_code,
)

from streams.errors import BrokerAway, NotAllowed
from streams.topics import admin_client, is_refusal

SETTLING = (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
)
SETTLING_CODES = frozenset(error.errno for error in SETTLING)
"""The first question ever makes a new broker create the topic that it keeps groups in."""

TRIES = 20
TRY_S = 0.25


@dataclass(frozen=True, slots=True)
class GroupMember:
    """client_id: as the member calls itself. partitions: by topic."""

    client_id: str
    host: str
    partitions: dict[str, list[int]]


@dataclass(frozen=True, slots=True)
class GroupState:
    """state: Kafka's word (Stable, Empty, Dead, PreparingRebalance, CompletingRebalance)."""

    name: str
    state: str
    members: list[GroupMember] = field(default_factory=list)

    def holders(self, topic: str) -> dict[int, GroupMember]:
        """Who holds which partition of a topic."""
        return {p: member for member in self.members for p in member.partitions.get(topic, ())}


async def group_states(bootstrap: str, names: Sequence[str]) -> list[GroupState]:
    """The groups in the order of the names; one that nobody has joined is Dead or Empty.

    Raises BrokerAway, NotAllowed.
    """
    async with admin_client(bootstrap) as admin:
        # One at a time: aiokafka 0.14 misreads all but the first group of an answer.
        return [await _state(admin, name) for name in names]


async def _state(admin: Any, name: str) -> GroupState:
    for _ in range(TRIES):
        try:
            (response,) = await admin.describe_consumer_groups([name])
            code, _name, state, _kind, _protocol, members = response.groups[0][:6]
        except SETTLING as error:
            code = error.errno
        if code not in SETTLING_CODES:
            break
        await asyncio.sleep(TRY_S)
    if code:
        error_class = for_code(code)
        if is_refusal(code):
            raise NotAllowed(f"group {name}: {error_class.__name__}; grant it DESCRIBE")
        raise BrokerAway(f"group {name}: {error_class.__name__}")
    return GroupState(name, state, [_member(member) for member in members])


def _member(member: Sequence[Any]) -> GroupMember:
    _member_id, client_id, host, _metadata, assigned = member[:5]
    partitions: dict[str, list[int]] = {}
    if assigned:
        for topic, numbers in ConsumerProtocolMemberAssignment.decode(assigned).assignment:
            partitions[topic] = list(numbers)
    return GroupMember(client_id, host.lstrip("/"), partitions)
