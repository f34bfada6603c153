"""Ratings expected before they are learned: our rating head beside means and river's BiasedMF.

Each review with stars is a trial; figures are of the second half of them. A rival learns ratings
alone, as it was made for; river's rate is chosen on the first half.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import numpy as np
import river
from numpy.typing import NDArray
from river import optim, reco

from agents.describe import description_of
from agents.evaluate.stream import Stream
from agents.translate import Translator
from profiles.fold import fold_batch
from profiles.interactions import Kinds
from profiles.items import ItemTable
from profiles.ratings import LEAST_RATING, MOST_RATING, START_RATING
from profiles.shape import FoldConfig
from profiles.table import ProfileTable
from streams.events import Review

FACTORS = 32

RATES = (0.005, 0.02, 0.05)
"""Of river's steps."""

BATCH = 500
"""Events folded at once: the cut changes nothing."""


class RatingFigures(msgspec.Struct, frozen=True):
    """One model's errors over n ratings, in stars; se: standard errors of both."""

    name: str
    about: str
    n: int
    rmse: float
    mae: float
    se: dict[str, float]


class Rated(msgspec.Struct, frozen=True):
    """The ratings of a stream: (R,) each."""

    event: Any
    user: Any
    item: Any
    stars: Any


def rated(stream: Stream) -> Rated:
    """Which events have stars, and how many."""
    found = [
        (b, event.rating)
        for b, event in enumerate(stream.events)
        if isinstance(event, Review) and event.rating is not None
    ]
    at = np.array([b for b, _ in found], np.int64)
    return Rated(at, stream.user[at], stream.item[at], np.array([stars for _, stars in found]))


def rate(stream: Stream, config: FoldConfig, kinds: Kinds, seed: int = 0) -> list[RatingFigures]:
    """Every model's figures; empty when fewer than two events have stars."""
    ratings = rated(stream)
    half = len(ratings.stars) // 2
    if not half:
        return []
    everyone: list[tuple[str, str, NDArray[Any]]] = [
        (
            "FOLD",
            "foldstream's rating head, nothing tuned",
            head_errors(stream, config, kinds, seed),
        ),
        ("global mean", "of all ratings so far", _errors(ratings, _global_mean())),
        ("item mean", "of the item's ratings so far", _errors(ratings, _item_mean())),
    ]
    tried = {step: _errors(ratings, _biased(step, seed)) for step in RATES}
    best = min(RATES, key=lambda step: float(np.square(tried[step][:half]).sum()))
    about = f"river {river.__version__} BiasedMF, {FACTORS} factors; rate {best} of "
    everyone.append(("river BiasedMF", about + ", ".join(map(str, RATES)), tried[best]))
    return [_figures(name, about, errors[half:]) for name, about, errors in everyone]


def head_errors(
    stream: Stream, config: FoldConfig, kinds: Kinds, seed: int = 0
) -> NDArray[np.float32]:
    """float32 (R,): each rating less what the fold expected before it learned it."""
    items = ItemTable(config.shape, config, capacity=stream.n_items)
    items.intern(stream.item_ids)
    items.describe({item_id: description_of(item) for item_id, item in stream.items.items()})
    profiles = ProfileTable(config.shape, capacity=len(stream.user_ids))
    profiles.load(stream.user_ids, [None] * len(stream.user_ids))
    translator = Translator(kinds, config.shape.n_tokens)
    watermark_ms, errors = 0, []
    for first in range(0, len(stream), BATCH):
        events = stream.events[first : first + BATCH]
        offsets, times = range(first, first + len(events)), [event.ts for event in events]
        batch = translator.translate(seed, events, offsets, times, profiles, items)
        report = fold_batch(profiles, items, batch, config, watermark_ms)
        watermark_ms = report.watermark_ms
        errors.append(report.rating_errors)
    return np.concatenate(errors)


Expect = Callable[[int, int], float]
Learn = Callable[[int, int, float], None]


def _errors(ratings: Rated, model: tuple[Expect, Learn]) -> NDArray[np.float64]:
    expect, learn = model
    errors = np.zeros(len(ratings.stars))
    rows: Iterable[tuple[int, int, float]] = zip(
        ratings.user.tolist(), ratings.item.tolist(), ratings.stars.tolist(), strict=True
    )
    for number, (user, item, stars) in enumerate(rows):
        errors[number] = stars - min(max(expect(user, item), LEAST_RATING), MOST_RATING)
        learn(user, item, stars)
    return errors


def _global_mean() -> tuple[Expect, Learn]:
    seen: list[float] = [0.0, 0.0]

    def learn(_user: int, _item: int, stars: float) -> None:
        seen[0] += stars
        seen[1] += 1

    return lambda _user, _item: seen[0] / seen[1] if seen[1] else START_RATING, learn


def _item_mean() -> tuple[Expect, Learn]:
    """An item without ratings is expected to have the global mean."""
    of_all, learn_all = _global_mean()
    total: dict[int, tuple[float, int]] = {}

    def expect(user: int, item: int) -> float:
        stars, n = total.get(item, (0.0, 0))
        return stars / n if n else of_all(user, item)

    def learn(user: int, item: int, stars: float) -> None:
        before, n = total.get(item, (0.0, 0))
        total[item] = before + stars, n + 1
        learn_all(user, item, stars)

    return expect, learn


def _biased(step: float, seed: int) -> tuple[Expect, Learn]:
    model: Any = reco.BiasedMF(
        n_factors=FACTORS,
        bias_optimizer=optim.SGD(step),
        latent_optimizer=optim.SGD(step),
        l2_bias=0.01,
        l2_latent=0.01,
        latent_initializer=optim.initializers.Normal(sigma=0.1, seed=seed),
    )
    return (
        lambda user, item: float(model.predict_one(user=user, item=item)),
        lambda user, item, stars: model.learn_one(user=user, item=item, y=stars),
    )


def _figures(name: str, about: str, errors: NDArray[Any]) -> RatingFigures:
    squares, n = np.square(errors.astype(np.float64)), len(errors)
    rmse = float(np.sqrt(squares.mean()))
    spread = n**0.5 if n > 1 else np.inf
    of_square = float(squares.std() / spread)
    return RatingFigures(
        name=name,
        about=about,
        n=n,
        rmse=round(rmse, 4),
        mae=round(float(np.abs(errors).mean()), 4),
        se={
            "rmse": round(of_square / (2 * rmse), 4) if rmse else 0.0,
            "mae": round(float(np.abs(errors).std() / spread), 4),
        },
    )
