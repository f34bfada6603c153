"""A worker's number: the first free one in the data directory, held by a lock while it runs.

The number makes the worker's name in the group stable over restarts, so that a restart takes its
partitions up at once instead of waiting for the session to time out.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agents.errors import UsageError

MOST_WORKERS = 256


@contextmanager
def worker_number(data_dir: Path) -> Iterator[int]:
    """Hold the first free number of this data directory; the kernel frees it when we die.

    Raises UsageError when the directory can't be written or every number is taken.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{data_dir}: {error.strerror}; choose another --data-dir") from error
    for number in range(MOST_WORKERS):
        descriptor = os.open(data_dir / f"worker-{number}.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            yield number
        finally:
            os.close(descriptor)
        return
    raise UsageError(f"{data_dir}: {MOST_WORKERS} workers run here; choose another --data-dir")
