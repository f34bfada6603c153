"""Finished runs, one JSON line each: written down as they end, and skipped the next time.

Several processes may add to one file. What stays true: a line that is followed by another is whole.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agents.chaos.scenario import Outcome, Plan
from agents.errors import UsageError

UNKNOWN = "unknown"

SOURCES = (
    *(f"../../{name}" for name in ("agents", "streams", "profiles", "pyproject.toml")),
    ":(exclude)../bench",
    ":(exclude)../cli/bench*.py",
)
"""What a run's outcome may depend on, as seen from here: all but what measures speed."""


def append(path: Path, outcome: Outcome) -> None:
    """Add one line; first end a last one that has no end, or cut off what a kill left of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = msgspec.json.encode(outcome) + b"\n"
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if _is_outcome(content[whole:]):
            file.write(b"\n")
        else:
            file.truncate(whole)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _is_outcome(line: bytes) -> bool:
    try:
        msgspec.json.decode(line, type=Outcome)
    except msgspec.MsgspecError:
        return False
    return True


def read(paths: Iterable[Path]) -> list[Outcome]:
    """All outcomes of some files, in their order; a file that is not there has none.

    A last line that was cut off by a kill is left out. Raises UsageError for any other bad line.
    """
    found = []
    for path in paths:
        if not path.exists():
            continue
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                found.append(msgspec.json.decode(line, type=Outcome))
            except msgspec.MsgspecError as error:
                if number == len(lines):
                    continue
                raise UsageError(f"{path}, line {number}: not an outcome ({error})") from error
    return found


def is_finished(
    outcomes: Iterable[Outcome], name: str, plan: Plan, commit: str, *, beside: bool = False
) -> bool:
    """Whether a run need not be run again: it passed, on this commit, as large and as long.

    beside: a timed run that had others beside it will do, too.
    What stands on no commit (files were changed, or there is no checkout) never counts: the next
    time they may be others.
    """
    return not stands_on_no_commit(commit) and any(
        outcome.passed
        and (outcome.scenario, outcome.seed, outcome.commit) == (name, plan.seed, commit)
        and outcome.share >= plan.share
        and outcome.minutes >= plan.minutes
        and (beside or not outcome.beside)
        for outcome in outcomes
    )


def stands_on_no_commit(commit: str) -> bool:
    """Whether the sources of a run can't be told by its commit."""
    return commit == UNKNOWN or commit.endswith("+")


def commit_of_sources() -> str:
    """The last commit that changed what runs here, with ``+`` where files differ; else ``unknown``.

    Not simply the newest: the table goes into `docs`, and that must not make its own runs stale.
    """
    try:
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
        commit = _git("log", "-1", "--format=%h", "--abbrev=12", "HEAD", "--", *SOURCES)
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return commit + ("+" if changed else "") if commit else UNKNOWN


def changes_since(commit: str) -> list[str]:
    """Subjects of the commits since that one which changed what runs, the oldest first."""
    try:
        told = _git("log", "--reverse", "--format=%h %s", f"{commit}..HEAD", "--", *SOURCES)
    except (OSError, subprocess.SubprocessError) as error:
        return [f"not known: {error}"]
    return told.splitlines()


def _git(*words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout.strip()
