"""Who is a member of a consumer group: for switches that every member must be able to follow."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import GroupCoordinatorNotAvailableError, for_code

from streams.errors import BrokerAway
from streams.topics import admin_client

UUID_CHARS = 36
"""The coordinator calls a member by its static name (or client id), a hyphen and a UUID."""

TRIES = 20
PAUSE_S = 0.5
"""The first question about any group makes a broker create its topic of offsets."""


async def group_members(bootstrap: str, groups: Sequence[str]) -> list[str]:
    """Static names of all members of groups, in no order; nobody for a group that isn't there.

    A member without a static name goes by its client id. Raises BrokerAway.
    """
    names: list[str] = []
    async with admin_client(bootstrap) as admin:
        for group in groups:
            code, _, _state, _kind, _protocol, members, *_ = await _describe(admin, group)
            if code:
                raise BrokerAway(f"group {group} at {bootstrap}: {for_code(code).__name__}")
            names += [member[0][: -UUID_CHARS - 1] for member in members]
    return names


async def _describe(admin: Any, group: str) -> Any:
    """One group: aiokafka 0.14 reads the answer about several wrongly (it passes over a field at
    the end of each)."""
    for _ in range(TRIES):
        with contextlib.suppress(GroupCoordinatorNotAvailableError):
            await admin.find_coordinator(group)
            break
        await asyncio.sleep(PAUSE_S)
    (answer,) = await admin.describe_consumer_groups([group])
    return answer.groups[0]
