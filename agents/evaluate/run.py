"""`evaluate`: our model and its rivals on one stream, one after the other, by one protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from agents.errors import UsageError
from agents.evaluate.figures import Figures, Verdict, figures, verdict
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.protocol import Ranker, Trials, asked, prequential
from agents.evaluate.ratings import RatingFigures, rate
from agents.evaluate.rivals.catalogue import ENTRIES, Entry, left_out_because
from agents.evaluate.stream import Stream
from agents.evaluate.tuning import tune
from profiles.interactions import Kinds
from profiles.shape import FoldConfig

OURS = "fold"

OnProgress = Callable[[str, int, int], None]
"""Told what runs, how far it is, and of how many events."""


class Evaluation(msgspec.Struct, frozen=True):
    """A whole run. ranked: events ranked, of the second half.

    best_simple: by reading, the rival that counts only and has the best hit rate@20 (in `query`,
    MAP@5). ratios: by reading, FOLD's figures to that rival's; above 1, FOLD wins.
    left_out: models that were not run, with the reason. tenths: of a whole run, each model's
    figures of `all` by tenth of the stream's positive events. ratings: errors of ratings expected
    before they were learned, where events have stars.
    """

    data: str
    events: int
    users: int
    items: int
    ranked: int
    seed: int
    models: list[Verdict]
    best_simple: dict[str, str]
    ratios: dict[str, dict[str, float]]
    left_out: dict[str, str]
    tenths: dict[str, list[Figures]] = {}
    ratings: list[RatingFigures] = []


class Run(msgspec.Struct, frozen=True):
    """What came of it: figures, and for plots every model's trials."""

    evaluation: Evaluation
    trials: dict[str, Trials]


def chosen(names: Sequence[str] | None) -> tuple[bool, list[Entry]]:
    """Whether FOLD is among the names, and which rivals. Raises UsageError."""
    if names is None:
        return True, list(ENTRIES)
    known = {entry.key: entry for entry in ENTRIES}
    for name in names:
        if name != OURS and name not in known:
            raise UsageError(
                f"--models {name}: no such model; there are {OURS}, {', '.join(known)}"
            )
    return OURS in names, [entry for entry in ENTRIES if entry.key in names]


def evaluate(
    stream: Stream,
    config: FoldConfig,
    *,
    kinds: Kinds | None = None,
    models: Sequence[str] | None = None,
    seed: int = 0,
    whole: bool = False,
    every: int = 1,
    on_progress: OnProgress = lambda what, done, n: None,
) -> Run:
    """Rank the second half of the stream by every model.

    models: keys, None for all that fit. whole: rank the first half too, for plot and tenths (other
    figures are of the second half in any case). every: of the events to rank, each n-th alone is.
    Raises UsageError.
    """
    ours, entries = chosen(models)
    catalogue = bool(stream.items)
    events = asked(stream, 0 if whole else None)[::every]
    half = events[np.isin(events, asked(stream))]
    if not len(half):
        raise UsageError(f"{stream.name}: nothing to rank in its second half")
    left_out: dict[str, str] = {}
    verdicts: list[Verdict] = []
    trials: dict[str, Trials] = {}

    def run(ranker: Ranker, began: float) -> None:
        of_run = prequential(
            ranker,
            stream,
            events,
            catalogue=catalogue,
            on_event=lambda b: on_progress(ranker.name, b, len(stream)),
        )
        trials[ranker.name] = of_run
        second = np.isin(of_run.event, half)
        of_half = Trials(of_run.event[second], of_run.ranks[second], of_run.covered)
        seconds = time.perf_counter() - began
        verdicts.append(
            verdict(ranker.name, ranker.about, stream, of_half, seconds, catalogue=catalogue)
        )

    if ours:
        run(FoldRanker(config, kinds, seed), time.perf_counter())
    for entry in entries:
        why = left_out_because(entry, stream)
        if why:
            left_out[entry.rival.name] = why
            continue
        began = time.perf_counter()
        rival = entry.rival(seed)
        # Some points of a grid diverge: their ranks say so (`judge`), no warning need.
        with np.errstate(over="ignore", invalid="ignore"):
            found = tune(
                lambda entry=entry: entry.rival(seed),  # type: ignore[misc]
                stream,
                lambda b, rival=rival: on_progress(f"{rival.name}: grid", b, len(stream)),  # type: ignore[misc]
            )
            rival.configure(found)
            rival.about = describe(rival)
            run(rival, began)
    simple = {entry.rival.name for entry in entries if entry.simple}
    best, ratios = _ratios(verdicts, simple)
    return Run(
        Evaluation(
            data=stream.name,
            events=len(stream),
            users=len(stream.user_ids),
            items=stream.n_items,
            ranked=len(half),
            seed=seed,
            models=verdicts,
            best_simple=best,
            ratios=ratios,
            left_out=left_out,
            tenths={name: _tenths(stream, of_run) for name, of_run in trials.items()}
            if whole
            else {},
            ratings=rate(stream, config, kinds or Kinds(), seed) if ours else [],
        ),
        trials,
    )


def _tenths(stream: Stream, trials: Trials) -> list[Figures]:
    edges = np.linspace(0, int(stream.positive.sum()), 11)[1:-1]
    number = np.cumsum(stream.positive)[trials.event] - 1
    tenth = np.searchsorted(edges, number, side="right")
    return [figures(trials.ranks[tenth == which, 0]) for which in range(10)]


def describe(rival: object) -> str:
    """Whose code a rival is, its grid, and the point that the first half chose."""
    grids = [*rival.learn_grid, *rival.score_grid]  # type: ignore[attr-defined]
    values: dict[str, list[object]] = {}
    for point in grids:
        for name, value in point.items():
            if value not in values.setdefault(name, []):
                values[name].append(value)
    params = rival.params  # type: ignore[attr-defined]
    parts = [
        f"{name} {params[name]}" + (f" of {', '.join(map(str, tried))}" if len(tried) > 1 else "")
        for name, tried in values.items()
    ]
    return "; ".join([rival.library, *parts])  # type: ignore[attr-defined]


def _ratios(
    verdicts: Sequence[Verdict], simple: set[str]
) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
    ours = next((v for v in verdicts if v.name == FoldRanker.name), None)
    rivals = [v for v in verdicts if v.name in simple]
    best: dict[str, str] = {}
    ratios: dict[str, dict[str, float]] = {}
    for reading in rivals[0].readings if rivals else ():
        by = "map5" if reading == "query" else "hr20"
        winner = max(rivals, key=lambda v: float(getattr(v.readings[reading], by)))
        best[reading] = winner.name
        if ours is not None:
            own, theirs = ours.readings[reading], winner.readings[reading]
            ratios[reading] = {
                name: round(getattr(own, field) / getattr(theirs, field), 3)
                for field, name in (("hr20", "hr@20"), ("mrr20", "mrr@20"), ("map5", "map@5"))
                if getattr(theirs, field) > 0
            }
    return best, ratios
