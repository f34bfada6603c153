"""Messages that are no events, one of each way they go wrong in real life."""

from __future__ import annotations

from collections.abc import Callable

Fault = Callable[[bytes, bytes], tuple[bytes, bytes]]

FAULTS: tuple[tuple[str, Fault], ...] = (
    ("cut off", lambda key, value: (key, value[: len(value) // 2])),
    ("not JSON", lambda key, value: (key, b"user clicked something")),
    ("no value", lambda key, value: (key, b"")),
    ("no time", lambda key, value: (key, value.replace(b'"ts":', b'"time":'))),
    ("time before 1970", lambda key, value: (key, value.replace(b'"ts":', b'"ts":-1'))),
    ("time as text", lambda key, value: (key, value.replace(b'"ts":', b'"ts":"noon","was":'))),
    ("no user", lambda key, value: (key, value.replace(b'"user_id"', b'"user"'))),
    ("other key", lambda key, value: (b"x" + key, value)),
    ("not UTF-8", lambda key, value: (key, value[:-1] + b',"note":"caf\xe9"}')),
    ("an array", lambda key, value: (key, b"[" + value + b"]")),
)
"""Name and maker of each fault, from a good key and value; every one must be refused."""


def malformed_message(key: bytes, value: bytes, number: int) -> tuple[bytes, bytes]:
    """A good message made bad, in the way that `number` chooses.

    >>> malformed_message(b"u1", b'{"type":"click"}', 2)
    (b'u1', b'')
    """
    return FAULTS[number % len(FAULTS)][1](key, value)
