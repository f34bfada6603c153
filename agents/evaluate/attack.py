"""Fake users in a stream: what a ring that pushes one item costs honest users (docs/model.md).

Both runs rank the same events of honest users, once with the ring's events among them and once
without. The ring sees what everybody sees, knows the most popular items, and is at work in the
second half, where figures are taken.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from agents.errors import UsageError
from agents.evaluate.figures import Figures, figures
from agents.evaluate.fold_ranker import FoldRanker
from agents.evaluate.judge import TOP
from agents.evaluate.protocol import asked, prequential
from agents.evaluate.run import OnProgress
from agents.evaluate.stream import NOTHING, Stream, stream_of
from agents.simulate.ring import Ring, RingConfig
from profiles.interactions import Kinds
from profiles.shape import FoldConfig
from profiles.tokens import TEXT_SHARE
from streams.events import Event, event_union

N_BAITS = 10
"""The most popular items of the first half; the pushed item is the one in the middle."""


class Attacked(msgspec.Struct, frozen=True):
    """What a ring did.

    fakes, fake_events: users and events of the ring, among `events` honest ones. pushed: its item;
    wanted: share of the honest events ranked that are of it. without, with_ring: figures of honest
    users' events. loss: share of the hit rate@20 that they lose. shown_*: share of their top 20
    lists that hold the pushed item. drift: 1 - cosine of its vector with and without the ring at
    the end; drift_beside: the same of the item next in popularity, which nobody pushes.
    """

    data: str
    fakes: int
    fake_events: int
    events: int
    pushed: str
    wanted: float
    without: Figures
    with_ring: Figures
    loss: float
    shown_without: float
    shown_with: float
    drift: float
    drift_beside: float


class _Run(msgspec.Struct, frozen=True):
    """ranks: float64 (N,) of the honest events. shown: share of lists with the pushed item.

    vectors: float32 (2, K), of the pushed item and the one beside it, at the end.
    """

    ranks: NDArray[np.float64]
    shown: float
    vectors: NDArray[np.float32]


def attacked(
    stream: Stream,
    config: FoldConfig,
    n_fakes: int,
    visits: int = 1,
    kinds: Kinds | None = None,
    seed: int = 0,
    on_progress: OnProgress = lambda what, done, n: None,
) -> Attacked:
    """Rank the second half's honest events without and with `n_fakes` fake users.

    visits: of each fake user: two popular items, the pushed one, and three times in ten a cart and
    a purchase of it. Raises UsageError.
    """
    honest = asked(stream)
    if not len(honest):
        raise UsageError(f"{stream.name}: nothing to rank in its second half")
    at = int(honest[0])
    counts = np.bincount(stream.item[:at][stream.positive[:at]], minlength=stream.n_items)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    if len(order) < 2 * N_BAITS:
        raise UsageError(f"{stream.name}: {len(order)} items in its first half are too few")
    row, beside = order[len(order) // 2], order[len(order) // 2 + 1]
    watched = (stream.item_ids[row], stream.item_ids[beside])
    baits = tuple(stream.item_ids[bait] for bait in order[:N_BAITS])
    ring = Ring(RingConfig(watched[0], baits, n_fakes), seed)
    mixed, honest_at = _mixed(stream, ring, n_fakes * visits, at, kinds)

    def ranked(of: Stream, events: NDArray[np.int64], what: str) -> _Run:
        ranker = _Watching(config, kinds, seed, watched[0])
        return _run(ranker, of, events, watched, lambda b: on_progress(what, b, len(of)))

    clean = ranked(stream, honest, "without fake users")
    dirty = ranked(mixed, honest_at[honest], "with fake users")
    before, after = figures(clean.ranks), figures(dirty.ranks)
    return Attacked(
        data=stream.name,
        fakes=n_fakes,
        fake_events=ring.n_events,
        events=len(stream) - at,
        pushed=watched[0],
        wanted=round(float((stream.item[honest] == row).mean()), 5),
        without=before,
        with_ring=after,
        loss=round(1 - after.hr20 / before.hr20, 4) if before.hr20 else 0.0,
        shown_without=round(clean.shown, 4),
        shown_with=round(dirty.shown, 4),
        drift=_drift(clean.vectors[0], dirty.vectors[0]),
        drift_beside=_drift(clean.vectors[1], dirty.vectors[1]),
    )


class _Watching(FoldRanker):
    """FOLD, and how often an item is among the first `TOP` of the lists it is asked for."""

    def __init__(self, config: FoldConfig, kinds: Kinds | None, seed: int, item_id: str) -> None:
        super().__init__(config, kinds, seed)
        self._item_id = item_id
        self.n_lists = self.n_shown = 0

    def scores(self, b: int, out: NDArray[np.float32]) -> None:
        """As recommendations are scored; counts."""
        super().scores(b, out)
        row, current = self._items.row(self._item_id), self._stream.current[b]
        self.n_lists += 1
        if row is not None and row != current:
            better = int((out > out[row]).sum()) - bool(current >= 0 and out[current] > out[row])
            self.n_shown += better < TOP

    def vector(self, item_id: str) -> NDArray[np.float32]:
        """float32 (K,): an item's effective vector as it stands."""
        row = self._items.row(item_id)
        assert row is not None  # all items of the stream have rows
        columns = self._items.columns
        own: NDArray[np.float32] = columns.vectors[row].copy()
        tokens = columns.text[row][columns.text[row] >= 0]
        if len(tokens):
            own += TEXT_SHARE * self._items.tokens.columns.vectors[tokens].mean(axis=0)
        return own


def _mixed(
    stream: Stream, ring: Ring, n_visits: int, at: int, kinds: Kinds | None
) -> tuple[Stream, NDArray[np.int64]]:
    """The stream with the ring's visits spread evenly over its events from `at` on.

    Returns it, and where each honest event went: int64 (B,).
    """
    decode = msgspec.json.Decoder(event_union()).decode
    places = np.linspace(at, len(stream) - 1, n_visits).astype(int).tolist()
    visits = zip(places, ring.visits_in_turn(n_visits), strict=True)
    place, visit = next(visits)
    events: list[Event] = []
    honest_at = np.zeros(len(stream), np.int64)
    for b, event in enumerate(stream.events):
        while place == b:
            events += [msgspec.structs.replace(decode(value), ts=event.ts) for _, value in visit]
            place, visit = next(visits, (NOTHING, []))
        honest_at[b] = len(events)
        events.append(event)
    return stream_of(stream.name, events, stream.items.values(), kinds), honest_at


def _run(
    ranker: _Watching,
    stream: Stream,
    events: NDArray[np.int64],
    watched: tuple[str, str],
    on_event: Callable[[int], None],
) -> _Run:
    trials = prequential(ranker, stream, events, on_event=on_event)
    vectors = np.array([ranker.vector(item_id) for item_id in watched])
    return _Run(trials.ranks[:, 0], ranker.n_shown / max(1, ranker.n_lists), vectors)


def _drift(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """1 - cosine."""
    return round(1 - float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other))), 4)
