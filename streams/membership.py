"""Who reads what: the members of consumer groups and the partitions they hold, for onlookers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import for_code

from streams.errors import BrokerAway, NotAllowed
from streams.topics import admin_client, is_refusal


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
    found: dict[str, GroupState] = {}
    async with admin_client(bootstrap) as admin:
        for response in await admin.describe_consumer_groups(list(names)):
            for group in response.groups:
                code, name, state, _kind, _protocol, members = group[:6]
                if code:
                    error = for_code(code)
                    if is_refusal(code):
                        raise NotAllowed(f"group {name}: {error.__name__}; grant it READ")
                    raise BrokerAway(f"group {name}: {error.__name__}")
                found[name] = GroupState(name, state, [_member(member) for member in members])
    return [found.get(name, GroupState(name, "Dead")) for name in names]


def _member(member: Sequence[Any]) -> GroupMember:
    _member_id, client_id, host, _metadata, assigned = member[:5]
    partitions: dict[str, list[int]] = {}
    if assigned:
        for topic, numbers in ConsumerProtocolMemberAssignment.decode(assigned).assignment:
            partitions[topic] = list(numbers)
    return GroupMember(client_id, host.lstrip("/"), partitions)
