"""Which announcements may be on `profile-changes` twice after workers were killed, and which not.

Whoever takes a partition over sends what its last commit had to say: nobody knows whether the one
before had sent it. So a kill may repeat one commit's announcement of each partition that the worker
held, namely the last one; anything else that is there twice has no such excuse.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from agents.chaos.verifier import messages_of
from agents.settings import Settings
from agents.store_access import store_of

Cut = tuple[int, int]
"""A commit: its partition and next_offset."""


@dataclass(frozen=True, slots=True)
class Stand:
    """Where each partition stood at a moment: the last commit, and acquisitions so far."""

    next_offsets: tuple[int, ...]
    epochs: tuple[int, ...]


async def stand_of(settings: Settings) -> Stand:
    """As the store has it now."""
    async with store_of(settings) as store:
        found = [await store.read_checkpoint(partition) for partition in range(settings.partitions)]
    return Stand(
        tuple(checkpoint.next_offset if checkpoint else 0 for checkpoint in found),
        tuple(checkpoint.epoch if checkpoint else 0 for checkpoint in found),
    )


async def repeats_of(settings: Settings) -> Counter[Cut]:
    """How often each commit was announced beyond the first time."""
    copies = Counter[tuple[Cut, bytes]]()  # a large commit has several messages
    async for records in messages_of(settings, settings.topics().profile_changes.name):
        for record in records:
            change = msgspec.json.decode(record.value)
            copies[(change["partition"], change["next_offset"]), record.value] += 1
    found = Counter[Cut]()
    for (cut, _), n in copies.items():
        found[cut] = max(found[cut], n - 1)
    return +found


def without_excuse(
    repeats: Mapping[Cut, int], deaths: Sequence[Stand], end: Stand
) -> dict[int, int]:
    """By partition, repeats beyond one for each death at which the commit was the last one.

    deaths: in their order, each of a worker that held every partition. end: of the last worker,
    which lives. Lives that acquired a partition more often than once, because the group dealt anew,
    may have repeated once more each time.

    >>> deaths = [Stand((40,), (1,)), Stand((80,), (2,))]
    >>> without_excuse({(0, 40): 1, (0, 80): 1}, deaths, Stand((90,), (3,)))
    {}
    >>> without_excuse({(0, 40): 2, (0, 60): 1}, deaths, Stand((90,), (3,)))
    {0: 2}
    """
    last = Counter(cut for death in deaths for cut in enumerate(death.next_offsets))
    found = Counter[int]()
    for cut, n in repeats.items():
        found[cut[0]] += max(0, n - last[cut])
    before = (0,) * len(end.epochs)
    for stand in (*deaths, end):
        for partition, (epoch, earlier) in enumerate(zip(stand.epochs, before, strict=True)):
            found[partition] -= max(0, epoch - earlier - 1)
        before = stand.epochs
    return dict(+found)
