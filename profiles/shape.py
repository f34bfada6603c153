"""The sizes of a profile and the constants of the fold, as plain values with their reasons.

What changes the facts is in the fingerprint: a store made with another one is
refused (`StoreMismatch`), and the way on is a new generation. What only changes learning (rates,
negatives) may be changed between two runs.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

RECORD_VERSION = 3
"""The newest format of a record that this worker reads and writes; that of a new generation."""

RECORD_FORMATS = tuple(range(1, RECORD_VERSION + 1))
"""All of them (`profiles.record`)."""

OWN_FORMAT = 3
"""The first format that can hold an own table, and the first that has no user vector."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a record; they can't change within a generation.

    n_factors: K. history: events kept, newest first. n_tokens: words kept of a pending query.
    own_items: items that a user's own table holds; 0: profiles have none, and no session facts
    (generations of before). A record of format 1 or 2 has no room for one.
    """

    n_factors: int = 64
    history: int = 10
    n_tokens: int = 8
    own_items: int = 32

    def __post_init__(self) -> None:
        for name, value, most in (
            ("n_factors", self.n_factors, 1024),
            ("history", self.history, 255),
            ("n_tokens", self.n_tokens, 255),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"{name} is {value}; it must be 1 to {most}")
        if not 0 <= self.own_items <= 255:
            raise ValueError(f"own_items is {self.own_items}; it must be 0 to 255")


@dataclass(frozen=True, slots=True)
class FoldConfig:
    """The constants of the fold (docs/model.md).

    n_recent, n_uniform: negatives from the ring of recent positives and from all seen items; half
        of each, for the uniform ones keep rare items apart and the recent ones popular items.
    rate, sum_start: AdaGrad's step and the start of its sums; sum_kept: of an item's sum at each
        touch, so that an old item goes on learning. l2: decay of an item row, a share
        of its step.
    recency: weight of a history entry against the next newer one. sharpness: how much less an
        entry counts that points elsewhere than the newest. context_scale: of the folded context
        against the long-term vector.
    n_ring: recent positives to draw from. popularity_half_life_s: of an item's count, event time.
    fast_half_life_s, slow_half_life_s: of an item's two other counts. n_ring_short: of the ring's
        newest places that are counted apart.
    n_list: neighbours kept of an item.
    retention_ms: a profile whose newest event is older starts afresh; 0: kept for ever.
    n_seen_slots: offsets within which a repeated event id is recognised.
    long_term_from: a user's long-term vector stays zero before this learned event: few events say
        little beyond the context, and its bytes are the largest part of a record. (A user's
        learned events are counted by the history, so with a shorter one it is when that is full.)
    blend_every: positives from one step of the blend's weights to the next, behind the first 2,000;
        0: the weights stay as they start.
    max_norm: a longer user vector is cut to this length for its step. It is never reached on
        honest data (the longest seen is near 10); it keeps a wrong rate from ending in NaN.
    learn: False folds facts only and leaves vectors and items alone (`rebuild --check`).
    """

    shape: ModelShape = field(default_factory=ModelShape)
    n_recent: int = 8
    n_uniform: int = 8
    rate: float = 0.1
    sum_start: float = 0.1
    sum_kept: float = 0.999
    l2: float = 0.001
    recency: float = 0.7
    sharpness: float = 2.0
    context_scale: float = 2.0
    n_ring: int = 5_000
    popularity_half_life_s: float = 86_400.0
    fast_half_life_s: float = 3_600.0
    slow_half_life_s: float = 1_209_600.0
    n_ring_short: int = 500
    n_list: int = 48
    retention_ms: int = 0
    n_seen_slots: int = 262_144
    long_term_from: int = 5
    blend_every: int = 4
    max_norm: float = 1_000.0
    learn: bool = True

    def __post_init__(self) -> None:
        if self.n_recent < 0 or self.n_uniform < 0:
            raise ValueError("n_recent and n_uniform can't be negative")
        if self.long_term_from < 1:
            raise ValueError("long_term_from must be at least 1: from the first event on")
        if self.n_ring < 1 or self.n_seen_slots < 1:
            raise ValueError("n_ring and n_seen_slots must be at least 1")
        if self.n_ring_short < 1 or self.n_list < 1:
            raise ValueError("n_ring_short and n_list must be at least 1")
        if min(self.popularity_half_life_s, self.fast_half_life_s, self.slow_half_life_s) <= 0:
            raise ValueError("half-lives must be above 0")
        if self.blend_every < 0:
            raise ValueError("blend_every can't be negative; 0 leaves the weights as they start")
        if self.retention_ms < 0:
            raise ValueError("retention_ms can't be negative; 0 keeps profiles for ever")

    def fingerprint(self, *more: str) -> str:
        """32 hex digits of all that decides the facts; `more`: the shop's own kinds, say.

        >>> FoldConfig().fingerprint() == FoldConfig(rate=0.2).fingerprint()
        True
        >>> FoldConfig().fingerprint() == FoldConfig(retention_ms=1).fingerprint()
        False
        """
        parts = [
            "record=1",  # of the facts: their canonical form, which only own tables add to
            f"factors={self.shape.n_factors}",
            f"history={self.shape.history}",
            f"tokens={self.shape.n_tokens}",
            f"retention={self.retention_ms}",
            f"seen={self.n_seen_slots}",
            *([f"own={self.shape.own_items}"] if self.shape.own_items else []),
            *more,
        ]
        return blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
