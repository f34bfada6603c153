"""Windows of trials: figures of the newest ones, by model and slice, and breaks in them.

Pure: takes trials, gives values; `evaluator` reads the topic and tells others.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.evaluate.figures import Figures, figures
from agents.evaluate.judge import TOP
from streams.trials import MISS, Trial

OURS = "FOLD"
MODELS = {OURS: "rank", "popularity": "popularity", "item-kNN": "iknn"}
"""Name -> field of a trial."""

MOST_BREAKS = 20


class Break(msgspec.Struct, frozen=True):
    """Where a drift detector saw a model's hit rate change. ts: event time in ms.

    before, after: the hit rate@20 that the detector held just before and holds now.
    """

    model: str
    ts: int
    before: float
    after: float


class Window(msgspec.Struct, frozen=True):
    """The newest n trials. since_ms, until_ms: their event times.

    coverage: share of the items ranked that were in a top 20 of ours. slices: name -> model ->
    figures. breaks: the newest, oldest first.
    """

    n: int
    since_ms: int
    until_ms: int
    coverage: float
    models: dict[str, Figures]
    slices: dict[str, dict[str, Figures]]
    breaks: list[Break]


class Windows:
    """Takes trials in, keeps the newest `size`.

    A trial that comes again (a replay) is passed over. The detectors are river's ADWIN, one for
    each model, on hits in the top 20.
    """

    def __init__(self, size: int) -> None:
        self._trials: deque[Trial] = deque(maxlen=size)
        self._newest: dict[int, int] = {}  # by partition
        # Only now: it brings scipy, and every worker would be back two seconds later after a kill.
        from river.drift import ADWIN

        self._detectors = {name: ADWIN(delta=0.0001) for name in MODELS}
        self.breaks: deque[Break] = deque(maxlen=MOST_BREAKS)

    def take(self, partition: int, trials: Iterable[Trial]) -> tuple[int, list[Break]]:
        """How many of them were new, and the breaks that they brought."""
        n = 0
        breaks: list[Break] = []
        for trial in trials:
            if trial.offset <= self._newest.get(partition, -1):
                continue
            self._newest[partition] = trial.offset
            self._trials.append(trial)
            n += 1
            for name, field in MODELS.items():
                detector = self._detectors[name]
                before = float(detector.estimation)
                detector.update(int(MISS < getattr(trial, field) <= TOP))
                if detector.drift_detected:
                    after = float(detector.estimation)
                    breaks.append(Break(name, trial.ts, round(before, 4), round(after, 4)))
        self.breaks.extend(breaks)
        return n, breaks

    def window(self) -> Window | None:
        """The figures now; None before the first trial."""
        trials = list(self._trials)
        if not trials:
            return None
        ranks = {name: _ranks(trials, field) for name, field in MODELS.items()}
        history = np.array([trial.n_history for trial in trials])
        seen = np.array([trial.n_item for trial in trials])
        slices = {
            "users with 0 events": history == 0,
            "users with 1-4": (history >= 1) & (history <= 4),
            "users with 5+": history >= 5,
            "items seen 0 times": seen == 0,
            "items seen 1-5": (seen >= 1) & (seen <= 5),
            "items seen more": seen > 5,
        }
        shown = {item_id for trial in trials for item_id in trial.top}
        return Window(
            n=len(trials),
            since_ms=min(trial.ts for trial in trials),
            until_ms=max(trial.ts for trial in trials),
            coverage=round(len(shown) / max(1, *(trial.n_seen for trial in trials)), 4),
            models={name: figures(of_model) for name, of_model in ranks.items()},
            slices={
                name: {model: figures(of_model[chosen]) for model, of_model in ranks.items()}
                for name, chosen in slices.items()
                if chosen.any()
            },
            breaks=list(self.breaks),
        )


def _ranks(trials: list[Trial], field: str) -> NDArray[np.float64]:
    ranks = np.array([getattr(trial, field) for trial in trials], np.float64)
    ranks[ranks == MISS] = np.inf
    return ranks
