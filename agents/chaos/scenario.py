"""What a scenario is, what it is given, and what comes out of one run of it.

Owns no fault and no server. What stays true: everything that a run chooses follows from its seed,
so a failing seed replays the same schedule; and a check that fails is noted, not raised, so that
one run tells all that is wrong.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    from agents.chaos.bed import Bed

StoreKind = Literal["standalone", "cluster", "replicated"]


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. share: 1.0 is the full size, less is a smaller run. minutes: for endless ones."""

    seed: int
    minutes: float
    share: float = 1.0

    def scaled(self, full: int, least: int = 1) -> int:
        """A count of the full size, at this share.

        >>> Plan(0, 1.0, 0.05).scaled(1_000_000), Plan(0, 1.0, 0.05).scaled(20, least=3)
        (50000, 3)
        """
        return max(least, round(full * self.share))


class Figure(msgspec.Struct, frozen=True):
    """One number of a run, with its unit."""

    value: float | str
    unit: str = ""


class Report:
    """What a run says: figures, checks, notes. on_line: told of each as it comes."""

    def __init__(self, on_line: Callable[[str], None] = lambda line: None) -> None:
        self.figures: dict[str, Figure] = {}
        self.failures: list[str] = []
        self.notes: list[str] = []
        self.n_checks = 0
        self._on_line = on_line

    def figure(self, name: str, value: float | str, unit: str = "") -> None:
        """A number worth keeping; the last one of a name stays."""
        self.figures[name] = Figure(value, unit)
        self._on_line(f"{name}: {value}{' ' + unit if unit else ''}")

    def check(self, ok: bool, sentence_that_must_hold: str, detail: str = "") -> bool:
        """Note a failure and go on; returns `ok`."""
        self.n_checks += 1
        if not ok:
            failure = sentence_that_must_hold + (f": {detail}" if detail else "")
            self.failures.append(failure)
            self._on_line(f"NOT SO: {failure}")
        return ok

    def note(self, text: str) -> None:
        """A sentence for whoever reads the outcome."""
        self.notes.append(text)
        self._on_line(text)

    def step(self, text: str) -> None:
        """What is being done now: for the display, not kept."""
        self._on_line(text)


Run = Callable[["Bed", random.Random, Report, Plan], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of fault.

    name: as given on the command line. title: of its row in the table. promise: what must hold.
    default_minutes: about how long one run takes at share 1.0 (for an endless one: how long it
    goes on). default_runs: seeds for a complete row. partitions, store, settings: of its bed.
    timed: its pass criterion has a time, so nothing else may run beside it (`room`).
    """

    name: str
    title: str
    promise: str
    default_minutes: float
    run: Run
    default_runs: int = 1
    partitions: int = 4
    store: StoreKind = "standalone"
    settings: Mapping[str, Any] = field(default_factory=dict)
    timed: bool = True


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One finished run, as a line of the results file.

    commit: of the sources, with ``+`` where files differ from it. started: ISO 8601, UTC. beside:
    it measures times, and others were allowed to run beside it all the same (``--beside``).
    """

    scenario: str
    seed: int
    share: float
    minutes: float
    passed: bool
    n_checks: int
    figures: dict[str, Figure]
    failures: list[str]
    notes: list[str]
    took_s: float
    commit: str
    versions: dict[str, str]
    machine: str
    started: str
    beside: bool = False
