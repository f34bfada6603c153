"""A disk that is soon full: a small tmpfs in place of a folder.

Owns the mount. What stays true: it is gone when the block ends, and when this process dies.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streams.embedded.guard import Guarded

UNMOUNT = "trap 'kill $!; umount --lazy \"$0\"; exit 0' TERM; sleep 1000000 & wait"
"""A shell that unmounts its argument when it is told to end, as a guardian tells it at the latest
when we are gone."""


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """The folder's content on a tmpfs of its own. Raises PermissionError without the right."""
    aside = folder.with_name(f"{folder.name}-aside")
    folder.rename(aside)
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PermissionError(
            f"a small disk can't be made ({done.stderr.strip()}): run as root, or in "
            "`unshare --map-root-user --mount`"
        )
    log = folder.with_name(f"{folder.name}-disk.log")
    mount = Guarded("small disk", ["sh", "-c", UNMOUNT, folder], log, grace_s=5.0)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield
    finally:
        mount.stop()
