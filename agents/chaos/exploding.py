"""What should make numbers explode, given to the fold itself, with the real tables.

Weights that settings refuse, one pair over and over, denormal numbers, a rate a hundred times too
high. What stays true: after each case every stored number is looked at, and every record goes
through the codec once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.errors import ProfilesError
from profiles.fold import fold_batch
from profiles.interactions import Interactions
from profiles.items import ItemTable
from profiles.shape import FoldConfig, ModelShape
from profiles.table import ProfileTable

N_USERS, N_ITEMS = 50, 40
BATCH = 2_000
DENORMAL = np.float32(1e-42)

Weights = Callable[[np.random.Generator, int], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Case:
    """One way to explode.

    weights: drawn for n events. pair: the items that the one user clicks in turn; none: everybody
    clicks anything. denormal: the item vectors start, and are set again and again, to numbers
    below the smallest normal one.
    """

    name: str
    config: FoldConfig
    weights: Weights
    pair: tuple[int, ...] = ()
    denormal: bool = False


def _all(weight: float) -> Weights:
    return lambda draw, n: np.full(n, weight, np.float32)


def _any(draw: np.random.Generator, n: int) -> NDArray[np.float32]:
    edges = np.array([1e30, 3e38, np.inf, -np.inf, -1e30, -1, 0, 1e-45, 1e-30, 0.5, 1], np.float32)
    return draw.choice(edges, n)


CONFIG = FoldConfig(shape=ModelShape(n_factors=16))
CASES = (
    Case("weight 1e30", CONFIG, _all(1e30)),
    Case("weights of all sizes", CONFIG, _any),
    Case("one pair", CONFIG, _all(1.0), pair=(0,)),
    Case("two items in turn", CONFIG, _all(1.0), pair=(0, 1)),
    Case("two items in turn, weight 1e30", CONFIG, _all(1e30), pair=(0, 1)),
    Case("denormal weights", CONFIG, _all(float(DENORMAL))),
    Case("denormal vectors", CONFIG, _all(1.0), denormal=True),
    Case("rate 10", replace(CONFIG, rate=10.0), _all(1.0)),
    Case("rate 10, two items in turn", replace(CONFIG, rate=10.0), _all(1.0), pair=(0, 1)),
    Case("rate 10, no negatives", replace(CONFIG, rate=10.0, n_recent=0, n_uniform=0), _all(1.0)),
    Case("rate 10, norm 1", replace(CONFIG, rate=10.0, max_norm=1.0), _all(1.0)),
    Case("rate 10, weight 1e30", replace(CONFIG, rate=10.0), _all(1e30)),
)


@dataclass(slots=True)
class Exploded:
    """What came of a case. wrong: sentences, empty when all is finite. largest: of item vectors."""

    n_folded: int
    n_clipped: int
    largest: float
    wrong: list[str]


def explode(case: Case, n_events: int, seed: int) -> Exploded:
    """Fold n events of a case, in batches."""
    draw = np.random.default_rng(seed)
    profiles, items = ProfileTable(case.config.shape), ItemTable(case.config.shape, case.config)
    users = [f"u{number}" for number in range(N_USERS)]
    profiles.load(users, [None] * N_USERS)
    items.intern([f"i{number}" for number in range(N_ITEMS)])
    result = Exploded(0, 0, 0.0, [])
    watermark_ms = 0
    for start in range(0, n_events, BATCH):
        n = min(BATCH, n_events - start)
        if case.denormal:
            items.columns.vectors[:N_ITEMS] = draw.integers(-1, 2, (N_ITEMS, 16)) * DENORMAL
        batch = _batch(case, draw, start, n, profiles, items)
        try:
            report = fold_batch(profiles, items, batch, case.config, watermark_ms)
        except ProfilesError as error:
            result.wrong.append(str(error))
            break
        watermark_ms = report.watermark_ms
        result.n_folded += report.n_folded
        result.n_clipped += report.n_clipped
        result.wrong += not_finite(profiles, items)
        if result.wrong:
            break
    result.largest = float(np.abs(items.columns.vectors[: len(items)]).max())
    return result


def _batch(
    case: Case,
    draw: np.random.Generator,
    start: int,
    n: int,
    profiles: ProfileTable,
    items: ItemTable,
) -> Interactions:
    rows = draw.integers(0, N_ITEMS, n).astype(np.int32)
    people = draw.integers(0, N_USERS, n)
    if case.pair:
        rows = np.resize(np.array(case.pair, np.int32), n)
        people[:] = 0
    return Interactions(
        partition=0,
        user_row=profiles.rows([f"u{number}" for number in people.tolist()]),
        item_row=rows,
        item_hash=items.hashes[rows],
        kind=np.zeros(n, np.uint8),
        weight=case.weights(draw, n),
        positive=np.ones(n, np.uint8),
        time_ms=np.arange(start, start + n, dtype=np.int64),
        offset=np.arange(start, start + n, dtype=np.int64),
        token_start=np.zeros(n + 1, np.int32),
        tokens=np.zeros(0, np.uint64),
    )


def not_finite(profiles: ProfileTable, items: ItemTable) -> list[str]:
    """Every column, record and snapshot with a number that is not finite."""
    users = [f"u{number}" for number in range(N_USERS)]
    wrong = [name for name, column in _columns(items.columns) if not np.isfinite(column).all()]
    wrong += [name for name, column in _columns(profiles.columns) if not np.isfinite(column).all()]
    again = ProfileTable(profiles.shape)
    again.load(users, list(profiles.pack(profiles.rows(users))))
    wrong += [
        f"{name} in records" for name, c in _columns(again.columns) if not np.isfinite(c).all()
    ]
    return wrong


def _columns(columns: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, column in columns._asdict().items():
        if np.issubdtype(column.dtype, np.floating):
            yield name, column
