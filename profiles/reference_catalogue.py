"""Groups, tokens and queries once more, slow and obvious: dicts by hash, in float64, for tests.

Shares no arithmetic with `groups.py`, `tokens.py` and `queries.py`. An item of a group is named by
its `Description`, one of a query by whatever its caller likes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from profiles.facets import Description


@dataclass(slots=True)
class ReferenceGroups:
    """Counts of groups. after: group -> next group -> events; counts, out: group -> events."""

    most_next: int = 64
    counts: dict[int, float] = field(default_factory=dict)
    totals: list[float] = field(default_factory=lambda: [0.0] * 4)
    after: dict[int, dict[int, float]] = field(default_factory=dict)
    out: dict[int, float] = field(default_factory=dict)

    def count(self, history: Sequence[Description], item: Description, weight: float) -> None:
        """A positive of `item` after `history`, newest first."""
        for facet, group in enumerate(item.groups):
            if not group:
                continue
            for a, past in enumerate(history[:3]):
                if past.groups[facet]:
                    self._move(past.groups[facet], group, weight * 0.5**a)
            self.counts[group] = self.counts.get(group, 0.0) + weight
            self.totals[facet] += weight

    def _move(self, group: int, to: int, amount: float) -> None:
        after = self.after.setdefault(group, {})
        if to not in after and len(after) == self.most_next:
            # The newcomer takes the place of the smallest, the first of equals.
            smallest = min(after, key=after.__getitem__)
            self.after[group] = after = {
                (to if key == smallest else key): (amount if key == smallest else value)
                for key, value in after.items()
            }
        else:
            after[to] = after.get(to, 0.0) + amount
        self.out[group] = self.out.get(group, 0.0) + amount
        if self.out[group] > 20_000:
            self.out[group] /= 2
            for key in after:
                after[key] /= 2

    def chance(self, facet: int, group: int) -> float:
        """P(g)."""
        return (self.counts.get(group, 0.0) + 0.1) / (self.totals[facet] + 1)

    def lift(self, facet: int, group: int, history: Sequence[Description]) -> float:
        """G_f of one group."""
        known = [(a, past.groups[facet]) for a, past in enumerate(history[:3])]
        known = [(a, past) for a, past in known if past]
        if not group or not known:
            return 0.0
        moved = sum(0.5**a * self.after.get(past, {}).get(group, 0.0) for a, past in known)
        total = sum(0.5**a * self.out.get(past, 0.0) for a, past in known)
        chance = self.chance(facet, group)
        return math.log((moved + 5 * chance) / (total + 5) / chance)

    def share(self, facet: int, group: int, history: Sequence[Description]) -> float:
        """H_f of one group."""
        held = [past.groups[facet] for past in history if past.groups[facet]]
        if not group or not held:
            return 0.0
        chance = self.chance(facet, group)
        return math.log((held.count(group) + chance) / (len(held) + 1) / chance)


@dataclass(slots=True)
class ReferenceTokens:
    """Vectors and sums of squares by token hash; whoever makes one gives its start vector."""

    rate: float
    sum_start: float
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    sums: dict[int, float] = field(default_factory=dict)

    def effective(self, own: NDArray[np.float32], tokens: Sequence[int]) -> NDArray[np.float64]:
        """e = D + (2/n) sum X."""
        e = own.astype(float)
        for token in tokens:
            e = e + 2 / len(tokens) * self.vectors[token].astype(float)
        return e

    def step(self, tokens: Sequence[int], gradient: NDArray[np.float64]) -> None:
        """Tokens of one item move against a gradient on its effective vector."""
        for token in tokens:
            g = 2 / len(tokens) * gradient
            total = self.sums.get(token, 0.0) + float(g @ g) / len(g)
            self.sums[token] = float(np.float32(total))
            rate = self.rate / math.sqrt(self.sum_start + self.sums[token])
            moved = self.vectors[token].astype(float) - rate * g
            self.vectors[token] = moved.astype(np.float32)


@dataclass(slots=True)
class ReferenceQueries:
    """What was opened after a word or a whole query; a whole query is its words, sorted."""

    n_factors: int
    most_listed: int = 64
    counts: dict[Hashable, dict[Hashable, float]] = field(default_factory=dict)
    totals: dict[Hashable, float] = field(default_factory=dict)
    words: ReferenceTokens = field(default_factory=lambda: ReferenceTokens(0.2, 0.001))

    def count(self, query: Sequence[int], item: Hashable, weight: float) -> None:
        """A positive of `item` while the query was pending."""
        for key in [*query, tuple(sorted(query))] if query else []:
            counts = self.counts.setdefault(key, {})
            if item not in counts and len(counts) == self.most_listed:
                # The newcomer takes the place of the smallest, the first of equals.
                smallest = min(counts, key=counts.__getitem__)
                self.counts[key] = {
                    (item if old == smallest else old): (weight if old == smallest else value)
                    for old, value in counts.items()
                }
            else:
                counts[item] = counts.get(item, 0.0) + weight
            self.totals[key] = self.totals.get(key, 0.0) + weight
            if self.totals[key] > 2_000:
                self.totals[key] /= 2
                self.counts[key] = {old: value / 2 for old, value in self.counts[key].items()}

    def vector(self, query: Sequence[int]) -> NDArray[np.float64]:
        """(2/sqrt n) sum Q."""
        total = np.zeros(self.n_factors)
        for word in query:
            total += self._word(word)
        return total * 2 / math.sqrt(max(1, len(query)))

    def step(self, query: Sequence[int], gradient: NDArray[np.float64]) -> None:
        """The words move against a gradient on the user vector."""
        for word in query:
            self._word(word)
            # `ReferenceTokens.step` shares 2/n; this is a step of one token with 2/sqrt n.
            self.words.step([word], gradient / math.sqrt(len(query)))

    def _word(self, word: int) -> NDArray[np.float32]:
        return self.words.vectors.setdefault(word, np.zeros(self.n_factors, np.float32))
