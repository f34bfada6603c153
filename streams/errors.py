"""Everything that can go wrong with bytes and offsets; one child for each different reaction."""

from __future__ import annotations


class StreamsError(Exception):
    """Base of all errors raised by `streams`."""


class DecodeError(StreamsError):
    """One message is not an event: it becomes a dead letter, and the stream goes on.

    code: machine-readable reason, such as ``invalid_json``; detail: one sentence for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class BrokerAway(StreamsError):
    """The broker gave no answer: pause, retry with backoff, commit nothing."""


class NotAllowed(StreamsError):
    """The broker is there and refuses this client a topic or group: a person must grant it."""


class PartitionRevoked(StreamsError):
    """The partition belongs to another worker now: finish what is in flight, start nothing new."""


class MessageTooLarge(StreamsError):
    """One message is larger than its topic takes; the others go through.

    max_bytes: of a value that would have been taken.
    """

    def __init__(self, detail: str, max_bytes: int) -> None:
        super().__init__(detail)
        self.max_bytes = max_bytes


class OffsetGap(StreamsError):
    """The log no longer holds (or never held) the offset to go on from: a hard stop.

    gap: the offsets [from, to) that are missing, where known.
    """

    def __init__(self, detail: str, gap: tuple[int, int] | None = None) -> None:
        super().__init__(detail)
        self.gap = gap


class LogMismatch(StreamsError):
    """The log is not the one that the checkpoint was made from: a hard stop."""


class EmbeddedError(StreamsError):
    """The embedded broker or store could not be started; the message names the way out."""


class MappingError(StreamsError):
    """A mapping from a file to events is wrong; the message names file, key and fix."""
