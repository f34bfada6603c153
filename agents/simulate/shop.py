"""`Shop`: an endless, seeded stream of what shoppers do, faults included, and its ground truth.

Everything follows from `ShopConfig`: the same configuration gives the same bytes, at whatever
pace they are sent. A fixed number of sessions is open at any time; a step lets some of them do
one thing each. Steps are arrays over sessions, so that a benchmark is not waiting for its input.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from agents.errors import UsageError
from agents.simulate.catalogue import Catalogue, make_catalogue
from agents.simulate.faults import malformed_message
from agents.simulate.shoppers import Shoppers
from streams.events import Item

SESSION_GAP_S = 20.0
"""Mean event time between two events of one session."""

MAX_STEP = 4_096
"""Events of one step: arrays of this size stay in the processor's cache."""

N_REMEMBERED_PURCHASES = 8_192
CLICK, CART, PURCHASE, RETURN, REVIEW, SEARCH = range(6)
KINDS = ("click", "cart", "purchase", "return", "review", "search")


@dataclass(frozen=True, slots=True)
class ShopConfig:
    """A shop. late, repeat, malformed: messages per event, 0 to 1.

    events_per_s: pace in event time. start_ms: event time of the first event, ms since 1970.
    late_by: a late message leaves up to so many events after its turn. aftermath: chance that an
    event is a return or a review of an earlier purchase. search: chance that a session opens
    with a search. drift_period_s: event time in which tastes go full circle.
    """

    n_users: int = 1_000
    n_items: int = 1_000
    seed: int = 0
    events_per_s: float = 100.0
    start_ms: int = 1_750_000_000_000
    late: float = 0.0
    repeat: float = 0.0
    malformed: float = 0.0
    late_by: int = 5_000
    n_groups: int = 8
    n_factors: int = 16
    zipf: float = 1.0
    search: float = 0.25
    aftermath: float = 0.02
    session_length: float = 6.0
    drift_period_s: float = 14 * 86_400.0

    def __post_init__(self) -> None:
        """Raises UsageError that names the option."""
        for name in ("late", "repeat", "malformed", "search", "aftermath"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"{name} = {getattr(self, name)}: a share lies in 0 to 1")
        for name in ("n_users", "n_items", "n_groups", "n_factors", "late_by"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)}: must be 1 or more")
        for name in ("events_per_s", "drift_period_s", "session_length"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} = {getattr(self, name)}: must be above 0")
        if self.seed < 0:
            raise UsageError(f"seed = {self.seed}: must be 0 or more")


@dataclass(slots=True)
class Chunk:
    """Messages in the order to be sent: keys and values, n_events new events among them."""

    keys: list[bytes]
    values: list[bytes]
    n_events: int

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(slots=True)
class Totals:
    """What was given out. kinds: events by kind, each once. late: events given after their turn.

    repeated: messages equal to an earlier one. malformed: messages that are no events.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    late: int = 0
    repeated: int = 0
    malformed: int = 0


@dataclass(slots=True)
class _Sessions:
    """A open sessions as columns of length A; row numbers, -1 for none."""

    user: NDArray[np.int64]
    number: NDArray[np.int64]
    left: NDArray[np.int64]
    item: NDArray[np.int64]
    next_kind: NDArray[np.int64]
    target: NDArray[np.int64]


@dataclass(slots=True)
class _Step:
    """B things done, as columns."""

    kind: NDArray[np.int64]
    user: NDArray[np.int64]
    item: NDArray[np.int64]
    session: NDArray[np.int64]
    affinity: NDArray[np.float32]


class Shop:
    """One simulated shop; `stream` goes on from where it was left.

    catalogue, shoppers: the truth behind the events. totals: what `stream` gave out so far.
    """

    def __init__(self, config: ShopConfig) -> None:
        self.config = config
        self._rng = np.random.default_rng([config.seed, 1])
        made = np.random.default_rng([config.seed, 0])
        self.catalogue: Catalogue = make_catalogue(
            config.n_items, config.n_factors, config.zipf, made
        )
        self.shoppers = Shoppers(
            config.n_users, config.n_groups, self.catalogue, config.drift_period_s, made
        )
        self.totals = Totals()
        n_open = int(np.clip(config.events_per_s * SESSION_GAP_S, 1, config.n_users))
        self._step_size = min(MAX_STEP, max(1, n_open // 2))
        none = np.full(n_open, -1)
        self._sessions = _Sessions(
            none.copy(), none.copy(), np.zeros(n_open, np.int64), none.copy(), none.copy(), none
        )
        self._n_sessions = 0
        self._gap_ms = 1_000 / config.events_per_s
        self._bought: list[tuple[int, int]] = []
        self._n_events = 0
        self._n_steps = 0
        self._waiting: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
        self._words = [title.split() for title in self.catalogue.titles]
        self._prices = self.catalogue.price.tolist()

    def items(self) -> list[Item]:
        """The catalogue, as it goes to its topic."""
        return self.catalogue.items()

    def time_ms(self) -> int:
        """Event time of the next event."""
        return self._event_ms(self._n_events)

    def truth(self, user_id: str, ts: int | None = None) -> NDArray[np.float32]:
        """How much a shopper likes each item: float32 (I,), cosines, item ``i<row>`` at row.

        ts: event time in ms; default: of the next event. Raises KeyError for a stranger.
        """
        taste = self._taste(user_id, self.time_ms() if ts is None else ts)
        return np.asarray(self.catalogue.vectors @ taste, dtype=np.float32)

    def answer(self, user_id: str, item_ids: list[str], ts: int, list_id: str) -> list[int]:
        """Positions that the shopper clicks in a list shown at a time.

        The click model: a place is looked at with chance (1 + position)^-0.7, and what is looked
        at is clicked with a chance that rises with its affinity, 2 % to 60 %. The same list gets
        the same answer, whatever happened before. Raises KeyError for a stranger.
        """
        rows = [int(item_id[1:]) for item_id in item_ids if self._has_item(item_id)]
        if len(rows) < len(item_ids):
            return []
        affinity = self.catalogue.vectors[rows] @ self._taste(user_id, ts)
        seen = (1.0 + np.arange(len(rows))) ** -0.7
        likes = 0.02 + 0.58 / (1 + np.exp(-10 * (affinity - 0.45)))
        rng = np.random.default_rng(
            [self.config.seed, xxh3_64_intdigest(f"{user_id} {list_id}".encode())]
        )
        return [int(place) for place in np.flatnonzero(rng.random(len(rows)) < seen * likes)]

    def is_looked_at(self, list_id: str, share: float) -> bool:
        """Whether a list is among the share (0 to 1) of lists that a shopper looks at."""
        draw = xxh3_64_intdigest(f"look {self.config.seed} {list_id}".encode()) / 2**64
        return draw < share

    def has_user(self, user_id: str) -> bool:
        """Whether this is one of the shop's shoppers."""
        return (
            user_id[:1] == "u" and user_id[1:].isdigit() and int(user_id[1:]) < len(self.shoppers)
        )

    def stream(self, n_events: int | None = None) -> Iterator[Chunk]:
        """The next n_events events (None: without end) and the faulty messages between them.

        Late and repeated messages that still wait come with the last chunk.
        """
        left = n_events
        while left is None or left > 0:
            size = self._step_size if left is None else min(left, self._step_size)
            chunk = self._next_chunk(size)
            if left is not None:
                left -= size
                if left == 0:
                    self._release(chunk, None)
            yield chunk

    @property
    def n_waiting(self) -> int:
        """Late and repeated messages that were not given out yet."""
        return sum(map(len, self._waiting.values()))

    def rest(self) -> Chunk:
        """They, for whoever ends an endless stream."""
        chunk = Chunk([], [], 0)
        self._release(chunk, None)
        return chunk

    def _taste(self, user_id: str, ts: int) -> NDArray[np.float32]:
        if not self.has_user(user_id):
            raise KeyError(f"no shopper {user_id!r} in a shop of {len(self.shoppers)}")
        seconds = (ts - self.config.start_ms) / 1_000
        row = np.array([int(user_id[1:])])
        return np.asarray(self.shoppers.tastes(row, seconds)[0], dtype=np.float32)

    def _has_item(self, item_id: str) -> bool:
        return (
            item_id[:1] == "i" and item_id[1:].isdigit() and int(item_id[1:]) < len(self.catalogue)
        )

    def _event_ms(self, number: int) -> int:
        return self.config.start_ms + int(number * self._gap_ms)

    def _next_chunk(self, size: int) -> Chunk:
        first = self._n_events
        step = self._step(size)
        keys, values = self._encode(step, first)
        self._n_events += size
        self._n_steps += 1
        chunk = Chunk([], [], size)
        self._release(chunk, self._n_steps)
        self._add_with_faults(chunk, keys, values)
        return chunk

    def _step(self, size: int) -> _Step:
        """Let `size` of the open sessions do one thing each."""
        rng, open_ = self._rng, self._sessions
        slots = rng.permutation(len(open_.user))[:size]
        new = open_.left[slots] == 0
        self._begin_sessions(slots[new])
        user = open_.user[slots]
        tastes = self.shoppers.tastes(user, self._n_events / self.config.events_per_s)
        last = open_.item[slots]
        near = np.where(rng.random(size) < 0.5, last, -1)
        item, affinity = self.shoppers.choose(tastes, near, rng)

        kind = np.where(open_.next_kind[slots] > 0, open_.next_kind[slots], CLICK)
        again = kind != CLICK  # a cart or a purchase is of the item last clicked
        item = np.where(again, last, item)
        searches = new & (rng.random(size) < self.config.search)
        kind[searches] = SEARCH
        found = ~again & ~new & (open_.target[slots] >= 0) & (rng.random(size) < 0.7)
        item = np.where(found, open_.target[slots], item)
        affinity = np.einsum("bk,bk->b", tastes, self.catalogue.vectors[item])

        open_.target[slots] = np.where(searches, item, -1)
        open_.item[slots] = np.where(searches, -1, item)
        wants = rng.random(size) < 0.25 / (1 + np.exp(-8 * (affinity - 0.5)))
        follows = np.where((kind == CLICK) & wants, CART, -1)
        buys = (kind == CART) & (rng.random(size) < 0.5)
        open_.next_kind[slots] = np.where(buys, PURCHASE, follows)
        # One that is about to buy does not leave before it has bought.
        left = open_.left[slots] - 1
        open_.left[slots] = np.where(open_.next_kind[slots] > 0, np.maximum(left, 1), left)

        step = _Step(kind, user, item, open_.number[slots], affinity)
        self._look_back(step)
        return step

    def _begin_sessions(self, slots: NDArray[np.int64]) -> None:
        rng, n = self._rng, len(slots)
        open_ = self._sessions
        # Squaring makes the first shoppers come often and the last ones seldom.
        open_.user[slots] = (len(self.shoppers) * rng.random(n) ** 2).astype(np.int64)
        open_.number[slots] = self._n_sessions + np.arange(n)
        open_.left[slots] = rng.geometric(min(1.0, 1 / self.config.session_length), n)
        open_.item[slots] = open_.next_kind[slots] = open_.target[slots] = -1
        self._n_sessions += n

    def _look_back(self, step: _Step) -> None:
        """Turn some clicks into returns and reviews of earlier purchases; remember the new ones."""
        rng = self._rng
        if self._bought:
            chance = rng.random(len(step.kind)) < self.config.aftermath
            places = np.flatnonzero(chance & (step.kind == CLICK))
            picks = rng.integers(len(self._bought), size=len(places)).tolist()
            bought = np.array([self._bought[pick] for pick in picks], np.int64).reshape(-1, 2)
            user, item = bought[:, 0], bought[:, 1]
            step.kind[places] = np.where(rng.random(len(places)) < 0.3, RETURN, REVIEW)
            step.user[places], step.item[places], step.session[places] = user, item, -1
            tastes = self.shoppers.tastes(user, self._n_events / self.config.events_per_s)
            step.affinity[places] = np.einsum("bk,bk->b", tastes, self.catalogue.vectors[item])
        for place in np.flatnonzero(step.kind == PURCHASE).tolist():
            new = (int(step.user[place]), int(step.item[place]))
            if len(self._bought) < N_REMEMBERED_PURCHASES:
                self._bought.append(new)
            else:
                self._bought[int(rng.integers(N_REMEMBERED_PURCHASES))] = new

    def _encode(self, step: _Step, first: int) -> tuple[list[bytes], list[bytes]]:
        """Keys and JSON values. Written by hand: all texts are ours and need no escapes."""
        rng, config = self._rng, self.config
        size = len(step.kind)
        quantities = np.minimum(rng.geometric(0.7, size), 5).tolist()
        noise = rng.normal(0, 0.5, size)
        stars = np.clip(np.round(3 + 3 * (step.affinity - 0.3) + noise), 1, 5).tolist()
        word_draws = rng.random(size).tolist()
        prefix = f"s{config.seed}-{config.start_ms:x}-"
        gap_ms = self._gap_ms
        keys: list[bytes] = []
        values: list[bytes] = []
        rows = zip(
            step.kind.tolist(), step.user.tolist(), step.item.tolist(), step.session.tolist(),
            strict=True,
        )  # fmt: skip
        for place, (kind, user, item, session) in enumerate(rows):
            number = first + place
            text = (
                f'{{"type":"{KINDS[kind]}","user_id":"u{user}",'
                f'"ts":{config.start_ms + int(number * gap_ms)},"event_id":"{prefix}{number}"'
            )
            if kind == SEARCH:
                words = self._words[item]
                start = int(word_draws[place] * 3)
                text += f',"query":"{" ".join(words[start:])}"'
            else:
                text += f',"item_id":"i{item}"'
                if kind == PURCHASE:
                    text += f',"quantity":{quantities[place]},"price":{self._prices[item]:.2f}'
                elif kind == REVIEW:
                    text += f',"rating":{stars[place]}'
            if session >= 0:
                text += f',"session_id":"{config.seed}-{session}"'
            keys.append(b"u%d" % user)
            values.append(f"{text}}}".encode())
        for code, count in enumerate(np.bincount(step.kind, minlength=len(KINDS)).tolist()):
            self.totals.kinds[KINDS[code]] += count
        return keys, values

    def _add_with_faults(self, chunk: Chunk, keys: list[bytes], values: list[bytes]) -> None:
        config, rng = self.config, self._rng
        if not (config.late or config.repeat or config.malformed):
            chunk.keys += keys
            chunk.values += values
            return
        size = len(keys)
        draws = rng.random((3, size)).tolist()
        latest = max(1, config.late_by // self._step_size)
        for key, value, late, repeat, bad in zip(keys, values, *draws, strict=True):
            if late < config.late:
                due = self._n_steps + 1 + int(rng.integers(latest))
                self._waiting[due].append((key, value))
                self.totals.late += 1
            else:
                due = self._n_steps
                chunk.keys.append(key)
                chunk.values.append(value)
            if repeat < config.repeat:  # never before the original
                self._waiting[due + 1 + int(rng.integers(3))].append((key, value))
                self.totals.repeated += 1
            if bad < config.malformed:
                key, value = malformed_message(key, value, int(rng.integers(1 << 30)))
                chunk.keys.append(key)
                chunk.values.append(value)
                self.totals.malformed += 1

    def _release(self, chunk: Chunk, until: int | None) -> None:
        """Add the waiting messages that are due by step `until`; None: all of them."""
        for due in sorted(self._waiting):
            if until is not None and due > until:
                break
            for key, value in self._waiting.pop(due):
                chunk.keys.append(key)
                chunk.values.append(value)
