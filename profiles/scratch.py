"""What one call of the fold works with besides the state: constants and memory used again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.blend import N_RECENT, N_TOUCHED, N_UNIFORM, BlendScratch, blend_scratch
from profiles.groups import GroupScratch, group_scratch
from profiles.shape import FoldConfig
from profiles.terms import Speeds, Touched, touched_for


class Constants(NamedTuple):
    """`FoldConfig` as the kernel takes it."""

    n_recent: int
    n_uniform: int
    rate: float
    sum_start: float
    sum_kept: float
    l2: float
    recency: float
    sharpness: float
    context_scale: float
    speeds: Speeds
    n_ring_short: int
    retention_ms: int
    long_term_from: int
    max_norm: float
    blend_every: int
    learn: bool
    keep_vector: bool  # write the user vector into the profile: for records that hold it


class Scratch(NamedTuple):
    """Working memory (K factors, H history, J candidates). Between two events nothing is touched
    and no group moved; the rest is written before it is read."""

    x: NDArray[np.float32]  # (K,) the user vector
    gradient: NDArray[np.float32]  # (K,)
    spare: NDArray[np.float32]  # (K,)
    history_row: NDArray[np.int64]  # (H,) -1: the item is not in the table
    history_e: NDArray[np.float32]  # (H, K) vectors of those items
    coefficient: NDArray[np.float32]  # (H,)
    query_row: NDArray[np.int64]  # (T + 1,) the pending words', then the whole query's
    candidate: NDArray[np.int64]  # (J,) the positive first
    e: NDArray[np.float32]  # (J, K) their vectors
    to_text: NDArray[np.float32]  # (J,) how many times a gradient counts for their tokens
    share: NDArray[np.float32]  # (J,) z, then q, then g
    groups: GroupScratch
    touched: Touched
    blend: BlendScratch


def constants_of(config: FoldConfig, *, keep_vector: bool = False) -> Constants:
    """Of the types that the kernel is compiled for."""
    return Constants(
        n_recent=config.n_recent,
        n_uniform=config.n_uniform,
        rate=float(config.rate),
        sum_start=float(config.sum_start),
        sum_kept=float(config.sum_kept),
        l2=float(config.l2),
        recency=float(config.recency),
        sharpness=float(config.sharpness),
        context_scale=float(config.context_scale),
        speeds=speeds_of(config),
        n_ring_short=min(config.n_ring_short, config.n_ring),
        retention_ms=config.retention_ms,
        long_term_from=int(config.long_term_from),
        max_norm=float(config.max_norm),
        blend_every=config.blend_every,
        learn=bool(config.learn),
        keep_vector=keep_vector,
    )


def speeds_of(config: FoldConfig) -> Speeds:
    """The half-lives of items' counts."""
    return Speeds(
        fast_ms=config.fast_half_life_s * 1000.0,
        day_ms=config.popularity_half_life_s * 1000.0,
        slow_ms=config.slow_half_life_s * 1000.0,
    )


def scratch_for(config: FoldConfig, n_items: int, n_groups: int) -> Scratch:
    """For tables that have room for so many items and groups."""
    K, H = config.shape.n_factors, config.shape.history
    J = 1 + config.n_recent + config.n_uniform
    return Scratch(
        x=np.zeros(K, np.float32),
        gradient=np.zeros(K, np.float32),
        spare=np.zeros(K, np.float32),
        history_row=np.zeros(H, np.int64),
        history_e=np.zeros((H, K), np.float32),
        coefficient=np.zeros(H, np.float32),
        query_row=np.zeros(config.shape.n_tokens + 1, np.int64),
        candidate=np.zeros(J, np.int64),
        e=np.zeros((J, K), np.float32),
        to_text=np.zeros(J, np.float32),
        share=np.zeros(J, np.float32),
        groups=group_scratch(n_groups),
        touched=touched_for(n_items),
        blend=blend_scratch(1 + N_UNIFORM + N_RECENT + N_TOUCHED),
    )
