"""JSON Schemas of what travels on the topics, generated from the structs of `streams.events`.

What a schema refuses, the codec refuses, and the other way round (but for the Kafka key, the
size limit and `NOT_SAID`, which no schema can say): "bad" means refused by these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from streams.events import (
    Impression,
    Item,
    ProfileChange,
    Recommendation,
    Request,
    event_union,
)
from streams.trials import TrialBatch

NOT_SAID: Final = (
    "Beyond what a schema can say: the value is UTF-8 throughout and JSON by RFC 8259 (no NaN, no "
    "Infinity, no lone surrogate), nested at most 64 levels deep; of equal names in an object the "
    "last one counts; an integer is written without point and exponent (5, not 5.0 or 5e0)."
)
"""Stands in each schema as its ``$comment``."""


def schemas(extra_kinds: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """The JSON Schema (draft 2020-12) of each topic's values, by the topic's name after the dot.

    Not of dead letters (any bytes), item deltas (MessagePack) and metrics (`agents.windows`).
    extra_kinds: a shop's own kinds of interaction.

    >>> sorted(schemas())[:3]
    ['events', 'impressions', 'items']
    """
    types: dict[str, Any] = {
        "events": event_union(extra_kinds),
        "items": Item,
        "impressions": Impression,
        "requests": Request,
        "profile-changes": ProfileChange,
        "recommendations": Recommendation,
        "trials": TrialBatch,
    }
    return {suffix: schema_of(struct) for suffix, struct in types.items()}


def schema_of(struct: Any) -> dict[str, Any]:
    """The JSON Schema of a message's struct."""
    words = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": NOT_SAID}
    return words | msgspec.json.schema(struct)
