"""`bench score`: ranking lists, one request after the other and in batches, while items move.

In this process: the product's `Ranking` and `Scorer` on tables that simulated events filled; a
thread folds more of them meanwhile, and another one keeps the candidates up while these are timed.
The limit in the same round is an exact product of vectors with argpartition, which knows none of
the other terms. Recall is that of a system's lists in the exact ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from agents.bench.figures import Figure, figure, percentile, ratio
from agents.bench.filled import FilledShop
from agents.bench.machine import this_machine
from agents.bench.report import Report, Table
from agents.ranking import Ranking, RankingRules
from agents.scorer import ROUND_USERS
from profiles.candidates import Candidates
from profiles.serving import NO_ROW, Scorer, Users
from profiles.table import ProfileTable
from profiles.tokens import TEXT_SHARE

N = 20
"""Items of a list."""

N_USERS = 20_000
LEAST_EVENTS = 20_000
N_ASKING = 512
"""Users whose lists are asked for in turn."""

BATCHES = {"one": 1, "batch": ROUND_USERS}

Lists = list[list[str]]


@dataclass(frozen=True, slots=True)
class Asking:
    """The shop, and who asks: users, their records, and these in a table of their own."""

    shop: FilledShop
    user_ids: list[str]
    records: list[bytes]
    profiles: ProfileTable

    @classmethod
    def of(cls, shop: FilledShop, seed: int) -> Asking:
        """Some users of the shop."""
        user_ids, records = shop.sample(N_ASKING, seed)
        profiles = ProfileTable(shop.config.shape)
        profiles.load(user_ids, list(records))
        return cls(shop, user_ids, records, profiles)

    def see(self, scorer: Scorer, picked: slice) -> Users:
        """Some of them as the model sees them now."""
        rows = self.profiles.rows(self.user_ids[picked])
        times = np.full(len(rows), self.shop.clock_ms)
        columns, model = self.profiles.columns, self.shop.view.model
        return scorer.users(model, columns, rows, times, np.zeros(len(rows), np.uint32))


Rank = Callable[[slice], Any]
"""Make the lists of some of the users who ask."""


@dataclass(frozen=True, slots=True)
class Made:
    """A system on a shop. rank: what is timed. as_lists: its result as lists of item ids. keeper:
    what must be called again and again while items move, with the time."""

    rank: Rank
    as_lists: Callable[[Any], Lists]
    keeper: Callable[[float], None] | None = None


@dataclass(frozen=True, slots=True)
class System:
    """One way to rank."""

    name: str
    about: str
    make: Callable[[Asking], Made]


def whole_call(asking: Asking) -> Made:
    """Records in, lists with reasons as JSON out: what the scorer calls."""
    shop = asking.shop
    ranking = Ranking(shop.view, None, shop.kinds, RankingRules())

    def rank(picked: slice) -> Any:
        return ranking.rank(asking.user_ids[picked], asking.records[picked], N, shop.clock_ms)

    return Made(rank, _of_ranked)


def _of_ranked(found: Any) -> Lists:
    return [[item.item_id for item in one.items] for one in found]


def scores_only(asking: Asking) -> Made:
    """The scores and the best of them: no records, no reasons, no JSON."""
    shop, scorer = asking.shop, Scorer(asking.shop.config)

    def rank(picked: slice) -> Any:
        with shop.view.reading():
            users = asking.see(scorer, picked)
            current = list(users.history[:, :1])
            return scorer.top_k(shop.view, asking.profiles.columns, users, current, N)[0]

    return Made(rank, lambda rows: _ids(shop, rows))


def candidates(asking: Asking) -> Made:
    """The whole call with candidates that get the full score, whatever the number of items."""
    shop = asking.shop
    found = Candidates(shop.view, exact_items=0)
    found.refresh(time.monotonic())
    ranking = Ranking(shop.view, None, shop.kinds, RankingRules(), found)

    def rank(picked: slice) -> Any:
        return ranking.rank(asking.user_ids[picked], asking.records[picked], N, shop.clock_ms)

    return Made(rank, _of_ranked, found.refresh)


def product_and_partition(asking: Asking) -> Made:
    """x . e of every item and argpartition, in numpy; user and item vectors as they are now."""
    shop = asking.shop
    items = effective_vectors(shop)
    x = asking.see(Scorer(shop.config), slice(None)).x

    def rank(picked: slice) -> Any:
        scores = x[picked] @ items.T
        best = np.argpartition(scores, len(items) - N, axis=1)[:, -N:]
        order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    return Made(rank, lambda rows: _ids(shop, rows))


SYSTEMS = (
    System("foldstream", "foldstream: records in, JSON out", whole_call),
    System("candidates", "foldstream: the same, from candidates", candidates),
    System("scores", "foldstream: scores and top 20", scores_only),
    System("limit_product", "limit: numpy product, argpartition", product_and_partition),
)
EXACT = "scores"
"""The system whose lists the others' recall is of."""


def score(
    sizes: Sequence[int],
    seconds: float,
    repeats: int,
    rate_per_s: float,
    systems: Sequence[System],
    servers: dict[str, str],
    on_step: Callable[[str], None],
) -> Report:
    """Rank at each number of items. seconds: of one system, one batch size, one round.

    rate_per_s: events folded meanwhile. servers: versions, for the report.
    """
    machine = this_machine(servers)
    tables: dict[str, Table] = {}
    events: dict[str, int] = {}
    # As in a worker: one thread for BLAS.
    with threadpool_limits(limits=1, user_api="blas"):
        for n_items in sizes:
            shop = _filled(n_items, on_step)
            asking = Asking.of(shop, seed=2)
            tables |= _measured(asking, n_items, seconds, repeats, rate_per_s, systems, on_step)
            events[str(n_items)] = shop.n_folded
    return Report(
        bench="score",
        machine=machine,
        settings={
            "items": list(sizes),
            "list": N,
            "batch": ROUND_USERS,
            "seconds": seconds,
            "repeats": repeats,
            "folded_per_s": rate_per_s,
            "events_folded": events,
            "users": N_USERS,
            "n_factors": asking.shop.config.shape.n_factors,
        },
        tables=tables,
        notes=[
            "a request of a batch waits for the whole batch: its milliseconds are the batch's",
            "recall@20: share of the exact list's items; the limit knows only the embedding",
            "while items move: after the batches of each round, as the keeper left the candidates",
        ],
    )


def _filled(n_items: int, on_step: Callable[[str], None]) -> FilledShop:
    shop = FilledShop(n_items, N_USERS, 1, lambda step: on_step(f"{n_items:,} items: {step}"))
    n_events = max(LEAST_EVENTS, n_items // 10)
    while shop.n_folded < n_events:
        shop.fold(1_000)
        on_step(f"{n_items:,} items: folding, {shop.n_folded:,} of {n_events:,} events")
    shop.publish()
    return shop


def _measured(
    asking: Asking,
    n_items: int,
    seconds: float,
    repeats: int,
    rate_per_s: float,
    systems: Sequence[System],
    on_step: Callable[[str], None],
) -> dict[str, Table]:
    made = {system.name: system.make(asking) for system in systems}
    recall = _recalls(made, asking)
    moving: dict[str, list[float]] = {}
    runs: dict[str, list[Timed]] = {}
    for number in range(1, repeats + 1):
        for batch, size in BATCHES.items():
            for name, one in made.items():
                on_step(f"{n_items:,} items, round {number} of {repeats}: {name}, {batch}")
                if one.keeper is not None:
                    one.keeper(time.monotonic())  # what others' rounds have moved
                with asking.shop.folding(rate_per_s, one.keeper):
                    run = timed(one.rank, size, len(asking.user_ids), seconds)
                runs.setdefault(f"{name}, {batch}", []).append(run)
                if one.keeper is not None and EXACT in made and size == ROUND_USERS:
                    # As the keeper left it, behind the items by as much as it is in a worker.
                    found = _recalls({EXACT: made[EXACT], name: one}, asking)[name]
                    moving.setdefault(name, []).append(found)
    return {
        f"{n_items} items, requests": Table(
            f"{n_items:,} items: requests",
            "",
            {
                name: {
                    "requests/s": figure([run.per_s for run in of]),
                    "processor ms a list": figure([1_000 * run.cpu_s / run.n_lists for run in of]),
                }
                for name, of in runs.items()
            },
        ),
        f"{n_items} items, latency": Table(
            f"{n_items:,} items: latency",
            "ms",
            {name: quantiles([run.took_s for run in of]) for name, of in runs.items()},
        ),
        f"{n_items} items, ratio": Table(
            f"{n_items:,} items: ratio within a round, and recall@20",
            "",
            _ratios({name: [run.per_s for run in of] for name, of in runs.items()})
            | {f"recall@20, {name}": _row([r]) for name, r in recall.items()}
            | {f"recall@20 while items move, {name}": _row(r) for name, r in moving.items()},
        ),
    }


@dataclass(frozen=True, slots=True)
class Timed:
    """One system in one round. took_s: of each call. cpu_s: of this thread, whoever else ran."""

    took_s: list[float]
    n_lists: int
    cpu_s: float

    @property
    def per_s(self) -> float:
        """Lists a second."""
        return self.n_lists / sum(self.took_s)


def timed(rank: Rank, size: int, n_asking: int, seconds: float) -> Timed:
    """Call it for so long and at least twice, users in turn; one call before is not timed."""
    rank(slice(0, min(size, n_asking)))
    took_s: list[float] = []
    first = n_lists = 0
    began, cpu_s = time.perf_counter(), time.thread_time()
    while len(took_s) < 2 or time.perf_counter() - began < seconds:
        first = first if first + size <= n_asking else 0
        picked = slice(first, min(first + size, n_asking))
        called = time.perf_counter()
        rank(picked)
        took_s.append(time.perf_counter() - called)
        n_lists += picked.stop - picked.start
        first += size
    return Timed(took_s, n_lists, time.thread_time() - cpu_s)


def recall(exact: Lists, other: Lists) -> float:
    """Mean share of the exact lists' items that the other lists have.

    >>> recall([["a", "b"], ["c", "d"]], [["b", "x"], ["d", "c"]])
    0.75
    """
    shares = [len(set(a) & set(b)) / len(a) for a, b in zip(exact, other, strict=True) if a]
    return float(np.mean(shares)) if shares else 1.0


def effective_vectors(shop: FilledShop) -> NDArray[np.float32]:
    """float32 (I, K): rows of the items and what their texts add, as one array."""
    model, n = shop.view.model, len(shop.view)
    text = model.items.text[:n]
    shares = np.float32(TEXT_SHARE) / np.maximum((text >= 0).sum(axis=1), 1)
    tokens = np.vstack([model.tokens.vectors, np.zeros((1, shop.config.shape.n_factors))])
    out = model.items.vectors[:n].copy()
    for first in range(0, n, 10_000):
        part = slice(first, first + 10_000)
        said = tokens[text[part]].sum(axis=1)  # -1, no token, is the row of zeros at the end
        out[part] += (shares[part, None] * said).astype(np.float32)
    return out


def _recalls(made: dict[str, Made], asking: Asking) -> dict[str, float]:
    """Nothing is folded meanwhile: all see the same table."""
    if EXACT not in made:
        return {}
    picked = slice(0, min(ROUND_USERS, len(asking.user_ids)))
    lists = {name: one.as_lists(one.rank(picked)) for name, one in made.items()}
    return {name: recall(lists[EXACT], found) for name, found in lists.items() if name != EXACT}


def _ratios(rates: dict[str, list[float]]) -> dict[str, dict[str, Figure]]:
    found: dict[str, dict[str, Figure]] = {}
    for batch in BATCHES:
        limit = rates.get(f"limit_product, {batch}")
        for name in rates:
            if limit and name.endswith(f", {batch}") and not name.startswith("limit"):
                found[f"{name} / limit_product"] = {"": ratio(rates[name], limit)}
    return found


def _row(values: list[float]) -> dict[str, Figure]:
    return {"": figure(values)}


def quantiles(rounds: list[list[float]]) -> dict[str, Figure]:
    """Milliseconds over the rounds; rounds: seconds of each call."""
    return {
        name: figure([1_000 * (percentile(took_s, q) or 0.0) for took_s in rounds])
        for name, q in {"p50": 0.5, "p90": 0.9, "p99": 0.99}.items()
    }


def _ids(shop: FilledShop, rows: NDArray[Any]) -> Lists:
    ids = shop.view.ids
    return [[ids[row] for row in found if row != NO_ROW] for found in rows.tolist()]
