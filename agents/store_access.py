"""From settings to the store: constants of the fold, fingerprint, and the store of a generation.

Owns how settings become these. What stays true: importing it brings neither Faust nor compiled
kernels, so a command that only looks at the store starts in a second.
"""

from __future__ import annotations

from typing import Any

from agents.settings import Settings
from profiles.shape import OWN_FORMAT, FoldConfig, ModelShape
from profiles.store import ProfileStore, StoreConfig


def fold_config_of(settings: Settings) -> FoldConfig:
    """Sizes of a profile and constants of the fold."""
    return FoldConfig(
        shape=ModelShape(
            n_factors=settings.n_factors,
            history=settings.history,
            own_items=own_items_of(settings),
        ),
        n_recent=settings.n_recent_negatives,
        n_uniform=settings.n_uniform_negatives,
        rate=settings.learning_rate,
        popularity_half_life_s=settings.popularity_half_life_s,
        retention_ms=int(settings.profile_retention_s * 1_000),
        n_seen_slots=settings.seen_window,
        blend_every=settings.blend_every,
    )


def settings_of(config: FoldConfig) -> dict[str, Any]:
    """The settings of a worker that is to fold as `config` says."""
    return {
        "n_factors": config.shape.n_factors,
        "history": config.shape.history,
        "own_items": config.shape.own_items,
        "n_recent_negatives": config.n_recent,
        "n_uniform_negatives": config.n_uniform,
        "learning_rate": config.rate,
        "blend_every": config.blend_every,
        "popularity_half_life_s": config.popularity_half_life_s,
        "profile_retention_s": config.retention_ms / 1_000,
        "seen_window": config.n_seen_slots,
    }


def own_items_of(settings: Settings) -> int:
    """Items of an own table; none where `newest_record_format` allows no format with room."""
    newest = settings.newest_record_format
    return settings.own_items if newest is None or newest >= OWN_FORMAT else 0


def fingerprint_of(settings: Settings) -> str:
    """Of all that may not change under a generation's records, the shop's own kinds included."""
    return fold_config_of(settings).fingerprint(
        *(f"{kind.name}:{kind.weight}:{kind.positive}" for kind in settings.kinds)
    )


def store_of(settings: Settings, generation: str | None = None) -> ProfileStore:
    """The store of a generation (default: the one in the settings)."""
    return ProfileStore(
        StoreConfig(
            url=settings.redis,
            generation=generation or settings.generation,
            partitions=settings.partitions,
            prefix=settings.store_prefix,
            fingerprint=fingerprint_of(settings),
            timeout_s=settings.store_timeout_s,
        )
    )
