"""Each rival's parameters are chosen on the first half, before the figures' events begin."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from agents.evaluate.judge import TOP, judge
from agents.evaluate.protocol import asked
from agents.evaluate.rivals.base import Params, Rival
from agents.evaluate.stream import Stream

MOST_TRIALS = 2_000
"""Events that a grid is judged by, spread over the second quarter: a standard error of .01."""


def tune(
    make: Callable[[], Rival], stream: Stream, on_event: Callable[[int], None] = lambda b: None
) -> Params:
    """The point of the grids with the best HR@20 + MRR@20 on the first half of the stream.

    Where there is a catalogue, that reading counts as much as `all`. Points that learn alike are
    scored side by side in one pass.
    """
    sample = make()
    points = [{**learn, **score} for learn in sample.learn_grid for score in sample.score_grid]
    if len(points) == 1:
        return points[0]
    half = stream.first(max(2, int(stream.positive.sum()) // 2))
    events = asked(half)
    if not len(events):
        return points[0]
    if len(events) > MOST_TRIALS:
        events = events[np.linspace(0, len(events) - 1, MOST_TRIALS).astype(int)]
    wanted = set(events.tolist())
    catalogue = bool(stream.items)
    results: list[tuple[float, Params]] = []
    ranks, top = np.zeros(3), np.zeros(TOP, np.int32)
    out = np.zeros(stream.n_items, np.float32)
    for number, learned in enumerate(sample.learn_grid):
        rival = make()
        rival.configure(learned)
        rival.begin(half)
        sums = np.zeros(len(rival.score_grid))
        for b in range(len(half)):
            if b in wanted:
                for place, scored in enumerate(rival.score_grid):
                    rival.configure(scored)
                    n_seen = int(half.n_seen[b])
                    n = stream.n_items if catalogue else n_seen
                    rival.scores(b, out[:n])
                    judge(out[:n], n_seen, half.item[b], half.current[b], half.had(b), ranks, top)
                    for rank in ranks[[0, 2]] if catalogue else ranks[:1]:
                        if rank <= TOP:
                            sums[place] += 1 + 1 / rank
            rival.learn(b)
            if b % 500 == 0:
                on_event((number * len(half) + b) // len(sample.learn_grid))
        results += [
            (value, {**learned, **scored})
            for value, scored in zip(sums.tolist(), rival.score_grid, strict=True)
        ]
    return max(results, key=lambda result: result[0])[1]
