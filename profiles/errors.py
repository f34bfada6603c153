"""Everything that can go wrong with profiles; one child for each different reaction."""

from __future__ import annotations


class ProfilesError(Exception):
    """Base of all errors raised by `profiles`."""


class StoreAway(ProfilesError):
    """The store gave no answer: pause, retry with backoff, commit nothing."""


class StoreFull(StoreAway):
    """The store refused a write for want of memory or disk: wait like `StoreAway`, say why."""


class OutcomeUnknown(StoreAway):
    """The connection broke inside EXEC: read the checkpoint before doing anything else."""


class Fenced(ProfilesError):
    """Another worker holds the partition: drop what is pending, ask the coordinator."""


class StoreWentBack(ProfilesError):
    """The store is older than what was committed to it: drop caches, reload, replay."""


class StoreMismatch(ProfilesError):
    """The store was made with other settings (k, history, partitions): a hard stop."""


class RecordTooNew(ProfilesError):
    """A newer worker wrote this record: stop and upgrade."""


class RecordCorrupt(ProfilesError):
    """Bytes that no version of foldstream wrote: a hard stop that names the key."""


class SnapshotBroken(ProfilesError):
    """The item snapshot's chunks do not fit its manifest: a hard stop that names the chunk."""


class DivergedError(ProfilesError):
    """A vector became non-finite: a bug in the fold; the partition stops, others go on."""
