"""The rating head once more, slow and obvious, in float64: biases by dicts, for tests.

Shares no arithmetic with `ratings.py`. Items are named by their hash, users too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

N_PLACES = 32_768


@dataclass(slots=True)
class ReferenceBias:
    """sum / (n + 3) of what n ratings left to explain; older ones fade behind the 200th."""

    sum: float = 0.0
    n: float = 0.0

    @property
    def value(self) -> float:
        """b"""
        return self.sum / (self.n + 3)

    def learn(self, rest: float) -> None:
        """One more rating, which left so much to explain without this bias."""
        most = 5 * (self.n + 1 + 3)
        self.sum = min(max(self.sum + rest, -most), most)
        self.n += 1
        if self.n > 200:
            self.sum *= 200 / self.n
            self.n = 200


@dataclass(slots=True)
class ReferenceRatings:
    """mu, s, m and the spread; biases of items, and of the users who hold a place."""

    mean: float = 3.0
    scale: float = 0.0
    dot_mean: float = 0.0
    dot_spread: float = 0.0
    n: int = 0
    items: dict[int, ReferenceBias] = field(default_factory=dict)
    users: dict[int, tuple[int, ReferenceBias]] = field(default_factory=dict)

    def learn(self, item: int, user: int, dot: float, rating: float) -> float:
        """One rating; returns it less the one that was expected."""
        of_item = self.items.setdefault(item, ReferenceBias())
        holder, of_holder = self.users.get(user % N_PLACES, (0, ReferenceBias()))
        known = holder == user
        z = dot - self.dot_mean
        expected = self.mean + of_item.value + (of_holder.value if known else 0) + self.scale * z
        rating = min(max(rating, 0.0), 5.0)
        error = rating - min(max(expected, 0.0), 5.0)
        rate = max(1 / (self.n + 1), 0.0005)
        self.mean = min(max(self.mean + rate * error, 0.0), 5.0)
        self.dot_spread += rate * (z * z - self.dot_spread)
        self.dot_mean += rate * z
        step = max(1 / (self.n + 200), 0.0005) * error * z / (self.dot_spread + 0.05)
        self.scale = min(max(self.scale + step, -5.0), 5.0)
        self.n += 1
        of_item.learn(error + of_item.value)
        if known:
            of_holder.learn(error + of_holder.value)
        elif of_holder.n > 1:
            of_holder.sum *= (of_holder.n - 1) / of_holder.n
            of_holder.n -= 1
        else:
            self.users[user % N_PLACES] = user, ReferenceBias(error, 1.0)
        return error
