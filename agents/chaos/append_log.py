"""Reads the store's append-only file: every checkpoint that was ever written, in its order.

Owns which bytes of the file are a checkpoint. What stays true: it asks no server, so it sees also
what stood for less time than lies between two looks at the store.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agents.chaos.watcher import Fall
from profiles.store_keys import Keys

_NUMBER = re.compile(r"\.(\d+)\.incr\.aof$")


@dataclass
class Written:
    """What a file holds. n: checkpoints. last: by partition, next_offset. falls: one below the one
    written before it (their time is not known: 0)."""

    n: int = 0
    last: dict[int, int] = field(default_factory=dict)
    falls: list[Fall] = field(default_factory=list)


def written_in(folders: Sequence[Path], keys: Keys) -> Written:
    """Of all nodes of a store; a partition lies on one of them."""
    found = Written()
    for folder in folders:
        for partition, next_offset in _checkpoints(folder, keys):
            before = found.last.get(partition, 0)
            if next_offset < before:
                found.falls.append(Fall(partition, 0.0, before, next_offset))
            found.last[partition] = next_offset
            found.n += 1
    return found


def _checkpoints(folder: Path, keys: Keys) -> Iterator[tuple[int, int]]:
    """(partition, next_offset) of each HSET of a checkpoint, as the store's protocol spells it."""
    partitions = {key: partition for partition, key in enumerate(keys.checkpoint)}
    names = b"|".join(map(re.escape, partitions))
    pattern = re.compile(
        rb"\r\nHSET\r\n\$\d+\r\n(" + names + rb")\r\n\$11\r\nnext_offset\r\n\$\d+\r\n(\d+)\r\n"
    )
    for path in sorted(folder.glob("appendonlydir/*.incr.aof"), key=_number):
        if not path.stat().st_size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for match in pattern.finditer(data):
                yield partitions[match[1]], int(match[2])


def _number(path: Path) -> int:
    found = _NUMBER.search(path.name)
    return int(found[1]) if found else 0
