"""What aiokafka 0.14 does wrong with broken connections, mended in one place, once a process.

Owns nothing. What stays true: a mend only turns an error that aiokafka has no answer for into one
that it has; a test shows that it is still needed. aiokafka is pinned below 0.15.
"""

from __future__ import annotations

from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_MENDED = "_foldstream_mended"


def mend() -> None:
    """Mend aiokafka's connection; harmless twice. Called before a client starts, not at import."""
    if not hasattr(AIOKafkaConnection, _MENDED):
        setattr(AIOKafkaConnection, _MENDED, True)
        AIOKafkaConnection.send = _sending(AIOKafkaConnection.send)


def _sending(send: Any) -> Any:
    """uvloop refuses a write on a connection that was reset a moment ago with a RuntimeError;
    aiokafka awaits an OSError, and its fetching or sending task ends for good."""

    def mended(self: Any, request: Any, expect_response: bool = True) -> Any:
        writer = self._writer
        try:
            return send(self, request, expect_response)
        except RuntimeError as error:
            if writer is None or not writer.transport.is_closing():
                raise
            self.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)
            raise KafkaConnectionError(
                f"Connection at {self._host}:{self._port} broken: {error}"
            ) from error

    return mended
