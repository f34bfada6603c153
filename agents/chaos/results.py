"""Finished runs, one JSON line each: written down as they end, and skipped the next time."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import msgspec

from agents.chaos.scenario import Outcome
from agents.errors import UsageError


def append(path: Path, outcome: Outcome) -> None:
    """Add one line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(outcome) + b"\n")


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


def mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished, so that the next one stands by itself."""
    if path.exists() and not (content := path.read_bytes()).endswith(b"\n") and content:
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def finished(outcomes: Iterable[Outcome], commit: str, share: float) -> set[tuple[str, int]]:
    """(scenario, seed) of runs that need not be run again: passed, on this commit, as large."""
    return {
        (outcome.scenario, outcome.seed)
        for outcome in outcomes
        if outcome.passed and outcome.commit == commit and outcome.share >= share
    }


def commit_of_sources() -> str:
    """The commit of this checkout, with ``+`` where files differ from it; else ``unknown``."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True, timeout=20
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "../../agents",
                      "../../streams", "../../profiles")  # fmt: skip
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
