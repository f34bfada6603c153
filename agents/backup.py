"""Back-up of the store, and the way back: a snapshot of any age is a consistent start.

A snapshot holds each partition's profiles together with their checkpoint, so a restored store is
behind the log, and workers fold what follows. Owns the folder of a back-up and its description.
What stays true: a restore never deletes what was there; it moves it aside.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from pathlib import Path

import msgspec

from agents.errors import AgentsError, UsageError
from agents.settings import Settings
from agents.store_access import store_of
from profiles.store import ProfileStore
from streams.embedded.stack import lock_is_held

DESCRIPTION = "backup.json"

STORE = "redis"
"""Folder of the embedded store, in the stack's."""

ASIDE = "-before-restore-"
"""In the name of a store's folder that was moved aside; the time follows."""


class BackupFile(msgspec.Struct, frozen=True, kw_only=True):
    """One node's snapshot. node: host:port. source: where the server wrote it. file: its name in
    the back-up; empty when it lies on another machine and has to be fetched."""

    node: str
    source: str
    file: str
    n_bytes: int
    sha256: str


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """What a back-up holds. positions: by partition, what it holds at least: next_offset.

    cluster_id, topic: the log that it goes on with.
    """

    made_ms: int
    prefix: str
    generation: str
    n_partitions: int
    record_format: int
    cluster_id: str
    topic: str
    positions: dict[int, int]
    software: str
    files: list[BackupFile]

    @property
    def complete(self) -> bool:
        """Whether every node's snapshot is in the folder."""
        return all(file.file for file in self.files)


async def back_up(settings: Settings, folder: Path) -> Backup:
    """Take a snapshot of the store and copy it, where this machine can read it.

    The workers go on meanwhile. Raises UsageError (the folder holds a back-up; an unused store),
    StoreMismatch (the server does not allow it), StoreAway.
    """
    if (folder / DESCRIPTION).exists():
        raise UsageError(f"{folder} holds a back-up: choose another folder")
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with store_of(settings) as first:
        meta = await first.read_meta()
    if meta is None:
        raise UsageError("no worker has used this store yet: there is nothing to keep")
    async with store_of(settings, meta.generation) as store:
        positions, cluster_id, topic = await _positions(store, meta.n_partitions)
        facts = (await store.server_facts())[0]
        snapshots = await store.snapshots.take()
    files = [
        await asyncio.to_thread(_copy, Path(found.path), found.node, folder, number)
        for number, found in enumerate(snapshots)
    ]
    backup = Backup(
        made_ms=time.time_ns() // 1_000_000,
        prefix=meta.prefix,
        generation=meta.generation,
        n_partitions=meta.n_partitions,
        record_format=meta.record_format,
        cluster_id=cluster_id,
        topic=topic,
        positions=positions,
        software=f"{facts.software} {facts.version}",
        files=files,
    )
    (folder / DESCRIPTION).write_bytes(msgspec.json.format(msgspec.json.encode(backup)))
    return backup


async def _positions(store: ProfileStore, partitions: int) -> tuple[dict[int, int], str, str]:
    positions, cluster_id, topic = {}, "", ""
    for partition in range(partitions):
        checkpoint = await store.read_checkpoint(partition)
        positions[partition] = checkpoint.next_offset if checkpoint else 0
        if checkpoint is not None and checkpoint.log is not None:
            cluster_id, topic = checkpoint.log.cluster_id, checkpoint.log.topic
    return positions, cluster_id, topic


def _copy(source: Path, node: str, folder: Path, number: int) -> BackupFile:
    """Copy one node's snapshot, if it lies on this machine and is the server's (same host)."""
    local = node.rpartition(":")[0] in ("127.0.0.1", "localhost", "::1") or node.startswith("/")
    if not local or not source.is_file():
        return BackupFile(node=node, source=str(source), file="", n_bytes=0, sha256="")
    target = folder / f"store-{number}.rdb"
    shutil.copyfile(source, target)
    return BackupFile(
        node=node,
        source=str(source),
        file=target.name,
        n_bytes=target.stat().st_size,
        sha256=_sha256(target),
    )


def read_backup(folder: Path) -> Backup:
    """Read and check a back-up. Raises UsageError that names the file and what is the matter."""
    try:
        backup = msgspec.json.decode((folder / DESCRIPTION).read_bytes(), type=Backup)
    except FileNotFoundError as error:
        raise UsageError(f"{folder} holds no {DESCRIPTION}: not a back-up") from error
    except msgspec.MsgspecError as error:
        raise UsageError(f"{folder / DESCRIPTION}: {error}") from error
    for file in backup.files:
        if not file.file:
            raise UsageError(
                f"{folder} lacks the snapshot of node {file.node}: copy {file.source} from there"
            )
        path = folder / file.file
        if not path.is_file() or _sha256(path) != file.sha256:
            raise UsageError(f"{path} is missing or altered: this back-up can't be restored")
    return backup


def restore(folder: Path, data_dir: Path) -> tuple[Backup, Path | None]:
    """Put a back-up in place of the embedded stack's store, which must not run.

    Returns the back-up, and where the store's old data were moved. Raises UsageError.
    """
    backup = read_backup(folder)
    if len(backup.files) != 1:
        raise UsageError(
            f"{folder} is of a cluster of {len(backup.files)} nodes, the embedded store is one "
            "server: " + by_hand(backup, folder)
        )
    if lock_is_held(data_dir):
        raise UsageError(f"the stack in {data_dir} runs: foldstream down first")
    return backup, put_in_place(folder / backup.files[0].file, data_dir / STORE)


def put_in_place(snapshot: Path, store: Path) -> Path | None:
    """Make a snapshot the data of the server in folder `store`, which must not run.

    Returns where its old data were moved; None where there were none.
    """
    aside: Path | None = None
    if store.is_dir():
        aside = store.with_name(f"{store.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}")
        if aside.exists():
            raise AgentsError(f"{aside} exists already: wait a second")
        store.rename(aside)
    store.mkdir(parents=True)
    if aside is not None and (aside / "port").exists():
        shutil.copyfile(aside / "port", store / "port")  # configurations name it
    # A server with appendonly on reads only its append-only file; one that begins with a snapshot
    # is one (Redis 6.2 writes it so itself, 7 and Valkey take it over at the start).
    part = store / "appendonly.aof.part"
    shutil.copyfile(snapshot, part)
    part.rename(store / "appendonly.aof")
    return aside


def moved_aside(data_dir: Path) -> list[Path]:
    """Stores that restores have moved aside in the embedded stack's folder, the oldest first."""
    return sorted(data_dir.glob(f"{STORE}{ASIDE}*"))


def by_hand(backup: Backup, folder: Path) -> str:
    """What to do where the store is not ours to start and stop."""
    copies = "; ".join(
        f"copy {folder / file.file} to {file.node} as appendonly.aof in the server's empty data "
        "folder (dump.rdb where appendonly is off)"
        for file in backup.files
    )
    return (
        "1. stop every worker; 2. stop the store and move its data folder aside (dump.rdb, "
        f"appendonly.aof, appendonlydir); 3. {copies}; 4. start the store; 5. foldstream doctor; "
        "6. start the workers: they go on at the back-up's checkpoints and fold what follows"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
