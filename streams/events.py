"""Every event as a frozen struct, one tagged union on ``type``.

Owns the shape and the bounds of what travels on the topics. Decoding, with its error codes, is
`codec`; which bytes are refused is decided by these types alone, so the JSON Schemas made from
them say the same. Unknown fields are ignored. Kinds of interaction are data: `event_union` makes
a struct for each kind that a shop adds (``favourite``), with the fields of `ItemEvent`.

Times are milliseconds since 1970 (UTC); prices are in the shop's own currency.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, cast

import msgspec
from msgspec import Meta, Struct

Id = Annotated[str, Meta(min_length=1, max_length=256)]
Millis = Annotated[int, Meta(ge=0, le=4_102_444_800_000)]  # up to the year 2100
Quantity = Annotated[int, Meta(ge=1, le=1_000_000)]
Price = Annotated[float, Meta(ge=0, le=1_000_000_000)]  # JSON has no NaN or infinity to let in
Rating = Annotated[float, Meta(ge=0, le=5)]
Query = Annotated[str, Meta(min_length=1, max_length=512)]
Position = Annotated[int, Meta(ge=0, le=100_000)]
Placement = Annotated[str, Meta(min_length=1, max_length=64)]
Text = Annotated[str, Meta(max_length=2_048)]
Component = Annotated[float, Meta(ge=-1_000_000, le=1_000_000)]  # squares fit a float32
Offset = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag_field="type"):
    """What every event has. An event without ``event_id`` is never taken for a repeat."""

    user_id: Id
    ts: Millis
    event_id: Id | None = None


class ItemEvent(Event, frozen=True, kw_only=True):
    """A user did something with one item: base of the interactions that name an item."""

    item_id: Id
    quantity: Quantity | None = None
    price: Price | None = None
    rating: Rating | None = None
    query: Query | None = None
    session_id: Id | None = None
    request_id: Id | None = None
    position: Position | None = None


class Click(ItemEvent, frozen=True, kw_only=True, tag="click"):
    """The user opened an item."""


class Cart(ItemEvent, frozen=True, kw_only=True, tag="cart"):
    """The user put an item into the basket."""


class Purchase(ItemEvent, frozen=True, kw_only=True, tag="purchase"):
    """The user bought an item."""


class Return(ItemEvent, frozen=True, kw_only=True, tag="return"):
    """The user gave an item back, or the order was cancelled."""


class Review(ItemEvent, frozen=True, kw_only=True, tag="review"):
    """The user rated an item, 0 to 5 stars; without a rating it counts as 3."""

    text: Text | None = None


class Search(Event, frozen=True, kw_only=True, tag="search"):
    """The user typed a query."""

    query: Query
    session_id: Id | None = None
    request_id: Id | None = None


class Forget(Event, frozen=True, kw_only=True, tag="forget"):
    """Forget this user. Declared; refused by name until profiles can forget."""


class Merge(Event, frozen=True, kw_only=True, tag="merge"):
    """The anonymous ``user_id`` turned out to be ``into``. Declared; refused by name for now."""

    into: Id


class Absorb(Event, frozen=True, kw_only=True, tag="absorb"):
    """The facts of a merged profile, on their way to the known user. Refused by name for now."""

    facts: Annotated[str, Meta(max_length=65_536)]


class Consent(Event, frozen=True, kw_only=True, tag="consent"):
    """What the user allows. Declared; refused by name for now."""

    purposes: Annotated[list[Placement], Meta(max_length=32)]


INTERACTIONS: tuple[type[Event], ...] = (Click, Cart, Purchase, Return, Review, Search)
"""Events that are folded."""

CONTROLS: tuple[type[Event], ...] = (Forget, Merge, Absorb, Consent)
"""Events that are declared, and refused by name until the privacy work."""


def event_union(extra_kinds: Sequence[str] = ()) -> Any:
    """The tagged union that a decoder of `foldstream.events` takes.

    extra_kinds: names of a shop's own kinds; each gets the fields of `ItemEvent`.
    Raises ValueError when a name is taken.

    >>> union = event_union(["favourite"])
    >>> raw = b'{"type":"favourite","user_id":"u","item_id":"i","ts":5}'
    >>> event = msgspec.json.decode(raw, type=union)
    >>> type(event).__struct_config__.tag, event.item_id
    ('favourite', 'i')
    """
    taken = {event.__struct_config__.tag for event in INTERACTIONS + CONTROLS}
    extra: list[type[Event]] = []
    for name in extra_kinds:
        if name in taken:
            raise ValueError(f"kind {name!r} is built in; give the shop's own kind another name")
        taken.add(name)
        struct = msgspec.defstruct(
            name.title().replace("-", "").replace("_", ""),
            [],
            bases=(ItemEvent,),
            frozen=True,
            kw_only=True,
            tag=name,
        )
        extra.append(cast("type[Event]", struct))
    union: Any = None
    for event in (*INTERACTIONS, *CONTROLS, *extra):
        union = event if union is None else union | event
    return union


class Item(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of the catalogue; a null message deletes it."""

    item_id: Id
    title: Text | None = None
    category: Annotated[list[Id], Meta(max_length=16)] = []
    brand: Id | None = None
    price: Price | None = None
    tags: Annotated[list[Id], Meta(max_length=64)] = []
    in_stock: bool = True
    vector: Annotated[list[Component], Meta(max_length=4_096)] | None = None


class Impression(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user was shown: the base of CTR. Never folded."""

    user_id: Id
    ts: Millis
    event_id: Id | None = None
    recommendation_id: Annotated[str, Meta(min_length=1, max_length=512)]
    item_ids: Annotated[list[Id], Meta(max_length=1_000)]
    placement: Placement = "home"


class RecommendRequest(Struct, frozen=True, kw_only=True, tag_field="type", tag="recommend"):
    """Ask for the best ``n`` items of a user.

    after_offset: answer from a profile that has folded this offset of the user's partition, if
    that happens within ``wait_ms``; the answer's ``profile_offset`` says what it got.
    """

    request_id: Id
    user_id: Id
    n: Annotated[int, Meta(ge=1, le=1_000)] = 20
    placement: Placement = "home"
    context: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=256)]],
        Meta(max_length=64),
    ] = {}
    after_offset: Offset | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000


class RerankRequest(Struct, frozen=True, kw_only=True, tag_field="type", tag="rerank"):
    """Order given candidates for a user. query: counts as the user's last search."""

    request_id: Id
    user_id: Id
    candidates: Annotated[list[Id], Meta(min_length=1, max_length=10_000)]
    query: Query | None = None
    n: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    placement: Placement = "search"
    after_offset: Offset | None = None
    wait_ms: Annotated[int, Meta(ge=0, le=60_000)] = 1_000


Request = RecommendRequest | RerankRequest


class Reason(Struct, frozen=True, kw_only=True, gc=False):
    """A past event that speaks for an item: its share of x . e_j, in (0, 1]."""

    item_id: str
    kind: str
    ts: int
    share: float


class RankedItem(Struct, frozen=True, kw_only=True, gc=False):
    """One recommended item; ``score`` compares only within one list."""

    item_id: str
    rank: int
    score: float
    reasons: list[Reason] = []


class Stamps(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """When the newest event behind a list passed each station; freshness = emitted - appended."""

    event_ms: int | None = None
    appended_ms: int | None = None
    folded_ms: int | None = None
    scored_ms: int
    emitted_ms: int


class Recommendation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A ranked list for one user. Keep one of each ``recommendation_id``: a crash may repeat it.

    recommendation_id: partition/offset/placement of the newest folded event, or the request id.
    profile_offset: the newest event of this user that the profile has folded; None: no profile.
    model: generation and configuration fingerprint behind the vectors.
    items: best first. (Who sends a list may give it as `msgspec.Raw`, JSON already.)
    """

    recommendation_id: str
    user_id: str
    placement: str
    kind: Literal["push", "recommend", "rerank"]
    items: list[RankedItem]
    profile_offset: int | None = None
    request_id: str | None = None
    error: str | None = None
    model: str
    stamps: Stamps


class ChangedUser(Struct, frozen=True, gc=False, array_like=True):
    """One user whose profile a commit changed, with the newest event folded."""

    user_id: str
    offset: int
    event_ms: int
    appended_ms: int


class ProfileChange(Struct, frozen=True, kw_only=True):
    """What one commit changed: sent once the commit has succeeded, and again after a crash."""

    partition: int
    next_offset: int
    folded_ms: int
    users: list[ChangedUser]
