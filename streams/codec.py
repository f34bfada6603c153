"""Bytes <-> events: the one place that decides whether a message is an event.

Owns the reason codes. The types of `streams.events` hold all bounds; this module adds what no
type can say: the key is the user, the bytes are UTF-8, the size is limited. CloudEvents in
binary mode (headers ``ce_*``) are unpacked here, so nobody behind this module sees them.

Reason codes of `DecodeError` and `Reject`:

==================  =================================================================
empty_value         no value, or one of no bytes
too_large           more bytes than ``max_bytes``
invalid_utf8        the value is not UTF-8 throughout, also in fields that are ignored
invalid_json        not one JSON document
too_deep            JSON nested deeper than 64 levels, the event itself being the first
invalid_event       JSON that the published schema refuses
missing_key         no Kafka key: the event lies on a partition of chance
key_mismatch        the key is not ``user_id``: the event would give the user two owners
unknown_type        a ``type`` that this worker does not know; not counted as bad
not_supported_yet   declared (forget, merge, absorb, consent; CloudEvents in structured
                    mode) and not built yet; not counted as bad
==================  =================================================================
"""

from __future__ import annotations

import datetime
import functools
import operator
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, NamedTuple, get_args

import msgspec
from msgspec import Raw
from xxhash import xxh3_64_intdigest

from streams.batch import EventBatch, RawBatch, Reject
from streams.errors import DecodeError
from streams.events import (
    CONTROLS,
    Event,
    Impression,
    Item,
    ProfileChange,
    Recommendation,
    Request,
    event_union,
)

MAX_EVENT_BYTES: Final = 512 * 1024
"""Largest value taken for an event: a real one has a few hundred bytes, and one commit must be
able to set a refused value aside (the broker's own limit is 1 MB a message)."""

MAX_SENT_BYTES: Final = 1024 * 1024
"""Of a request (10,000 candidates) and of what foldstream sends: the broker's own limit."""

MAX_NESTING: Final = 64
"""Levels of objects and arrays. The parser's own limit moves with the caller's stack, so the same
message would be an event today and none after a restart."""

_ARRAY: Final = ord("[")  # numbers: `in` is six times as fast with them as with bytes
_OBJECT: Final = ord("{")
_SHORT: Final = 5 * MAX_NESTING
"""A value without ``[`` and of no more bytes can't be too deep: ``{"":}`` has five a level."""

# Strings whole, as their brackets do not nest; one that is never closed reaches to the end.
_NESTING: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[{]++|[\]}]++', re.DOTALL)

_BLANK: Final = b" \t\n\r"  # what JSON calls white space

Headers = Sequence[tuple[str, bytes]]

_Time = Annotated[datetime.datetime, msgspec.Meta(tz=True)]  # RFC 3339, with an offset
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class DecodedEvent(NamedTuple):
    """An event and its hash in the ring of seen events (0: it has no id)."""

    event: Event
    repeat_hash: int


def repeat_hash(source: str, user_id: str, event_id: str) -> int:
    """64-bit identity of an event, never 0 (0 in the ring means "no id").

    source: CloudEvents' source, empty for a plain event. The three are told apart by the lengths
    in front of the first two, so no choice of ids can imitate another event's.

    >>> repeat_hash("", "u1", "2") != repeat_hash("", "u", "12")
    True
    """
    text = f"{len(source)} {source}{len(user_id)} {user_id}{event_id}"
    return xxh3_64_intdigest(text.encode()) or 1


class EventCodec:
    """Decodes the events topic.

    extra_kinds: a shop's own kinds of interaction. max_bytes: longer values are refused.
    types: the classes of what `decode` gives.
    One codec serves any number of partitions; it keeps no state between messages.
    """

    def __init__(self, extra_kinds: Sequence[str] = (), max_bytes: int = MAX_EVENT_BYTES) -> None:
        declared = get_args(event_union(extra_kinds))
        folded = [struct for struct in declared if struct not in CONTROLS]
        # Controls are left out of the hot decoder: they fail there and are named on the slow path.
        self._decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(
            functools.reduce(operator.or_, folded)
        )
        self._controls: msgspec.json.Decoder[Event] = msgspec.json.Decoder(
            functools.reduce(operator.or_, CONTROLS)
        )
        self._control_types = {struct.__struct_config__.tag for struct in CONTROLS}
        self.types: tuple[type[Event], ...] = tuple(folded)
        self._folded_types = {struct.__struct_config__.tag for struct in folded}
        self.max_bytes = max_bytes

    def decode(self, value: bytes | None, key: bytes | None, headers: Headers) -> DecodedEvent:
        """One message as an event. Raises DecodeError with a reason code, and nothing else."""
        try:
            return self._decode(value, key, headers)
        except RecursionError as error:  # little of the caller's stack was left
            raise _too_deep() from error

    def _decode(self, value: bytes | None, key: bytes | None, headers: Headers) -> DecodedEvent:
        if not value:
            raise DecodeError("empty_value", "an event has a JSON object as its value")
        if len(value) > self.max_bytes:
            raise DecodeError("too_large", f"{len(value)} bytes, at most {self.max_bytes}")
        source = ""
        try:
            if headers:
                value, source = self._unpack_cloud_event(value, key, headers)
            if not value.isascii():
                value.decode()
            _check_nesting(value)
            event = self._decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            event = self._second_look(value, error)
        if key is None:
            raise DecodeError("missing_key", "the key of an event is its user_id")
        if key != event.user_id.encode():
            raise DecodeError(
                "key_mismatch", f"key {key[:64]!r} is not user_id {event.user_id[:64]!r}"
            )
        event_id = event.event_id
        return DecodedEvent(
            event, 0 if event_id is None else repeat_hash(source, event.user_id, event_id)
        )

    def decode_batch(self, raw: RawBatch) -> EventBatch:
        """All messages of a batch, in order; what is no event becomes a `Reject`. Never raises.

        The loop repeats `decode` for a plain event: a call and a tuple each cost a third more.
        """
        batch = EventBatch(raw.partition, raw.start, raw.end)
        events, offsets, appended = batch.events, batch.offsets, batch.appended_ms
        hashes, rejects = batch.repeat_hashes, batch.rejects
        decode, max_bytes = self._decoder.decode, self.max_bytes
        for record in raw.records:
            value = record.value
            try:
                if record.headers or not value or len(value) > max_bytes:
                    event, digest = self.decode(value, record.key, record.headers)
                else:
                    if not value.isascii():
                        value.decode()
                    # Looks instead of counts, which would cost a quarter of the decoding: what is
                    # flat, or short and without an array, is not deep.
                    if _ARRAY in value or (len(value) > _SHORT and _OBJECT in value[1:]):
                        _check_nesting(value)
                    event = decode(value)
                    user_id = event.user_id
                    if record.key != user_id.encode():
                        self.decode(value, record.key, ())  # raises, with the reason
                    event_id = event.event_id
                    if event_id is None:
                        digest = 0
                    else:  # `repeat_hash` with an empty source
                        text = f"0 {len(user_id)} {user_id}{event_id}"
                        digest = xxh3_64_intdigest(text.encode()) or 1
            except DecodeError as error:
                rejects.append(Reject.of(raw.partition, record, error.code, error.detail))
                continue
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
                try:
                    event, digest = self.decode(value, record.key, record.headers)
                except DecodeError as error:
                    rejects.append(Reject.of(raw.partition, record, error.code, error.detail))
                    continue
            events.append(event)
            offsets.append(record.offset)
            appended.append(record.timestamp)
            hashes.append(digest)
        return batch

    def _second_look(self, value: bytes, error: Exception) -> Event:
        """The event after all, or DecodeError with the reason: the slow path of a bad message.

        msgspec stops at the first fault: bytes that break off behind a wrong field come as a
        wrong field, and so does one whose name comes again with a good value (the last wins).
        """
        fault = _syntax_fault(value, error)
        if fault is not None:
            raise DecodeError(*fault) from error
        return self._from_fields(_last_fields(value), str(error))

    def _from_fields(self, fields: dict[str, Raw] | None, detail: str) -> Event:
        """An event from sound JSON; detail: what was wrong with it at the first look."""
        if fields is None:
            raise DecodeError("invalid_event", detail)
        value = _encoder.encode(fields)
        kind = msgspec.json.decode(fields["type"]) if _is_text(fields.get("type")) else None
        if kind in self._control_types:
            try:
                self._controls.decode(value)
            except msgspec.ValidationError as error:
                raise DecodeError("invalid_event", str(error)) from error
            raise DecodeError("not_supported_yet", f"events of type {kind!r} come later")
        if kind is not None and kind not in self._folded_types:
            raise DecodeError("unknown_type", f"type {kind[:64]!r} is not known to this worker")
        try:
            return self._decoder.decode(value)
        except msgspec.ValidationError as error:
            raise DecodeError("invalid_event", str(error)) from error

    def _unpack_cloud_event(
        self, value: bytes, key: bytes | None, headers: Headers
    ) -> tuple[bytes, str]:
        """(JSON of a plain event, source) of a message with headers.

        A message without ``ce_specversion`` is a plain event. Otherwise the value is the data,
        and what the data lacks comes from the headers: ``type`` from the last dotted segment of
        ``ce_type``, ``event_id`` from ``ce_id``, ``ts`` from ``ce_time``, ``user_id`` from
        ``ce_subject`` or else from the key.
        """
        attributes: dict[str, str] = {}
        for name, content in headers:
            lower = name.lower()
            if lower.startswith("ce_") or lower == "content-type":
                attributes[lower.removeprefix("ce_")] = (content or b"").decode()
        if attributes.get("content-type", "").lower().startswith("application/cloudevents"):
            raise DecodeError(
                "not_supported_yet", "CloudEvents are taken in binary mode (headers ce_*) only"
            )
        if "specversion" not in attributes:
            return value, ""
        value.decode()
        _check_nesting(value)
        _syntax.decode(value)
        # Raw: whatever the data holds, a number no machine can hold too, goes on as it is.
        fields: dict[str, Any] | None = _last_fields(value)
        if fields is None:
            raise DecodeError("invalid_event", "the data of a CloudEvent must be a JSON object")
        if "type" in attributes:
            fields.setdefault("type", attributes["type"].rsplit(".", 1)[-1])
        if "id" in attributes:
            fields.setdefault("event_id", attributes["id"])
        if "time" in attributes and "ts" not in fields:
            fields["ts"] = _millis(attributes["time"])
        if "user_id" not in fields:
            user_id = attributes.get("subject") or (key.decode() if key else None)
            if user_id is not None:
                fields["user_id"] = user_id
        return _encoder.encode(fields), attributes.get("source", "")


_encoder = msgspec.json.Encoder()
_syntax: msgspec.json.Decoder[Raw] = msgspec.json.Decoder(Raw)
_fields: msgspec.json.Decoder[dict[str, Raw]] = msgspec.json.Decoder(dict[str, Raw])


def _syntax_fault(value: bytes, error: Exception) -> tuple[str, str] | None:
    """Reason code and detail of bytes that are no JSON; None for sound JSON.

    error: of the first look. It is not raised again: in a frame of its own traceback it would keep
    the whole batch alive until the garbage collector comes, and there is a bad message in many.
    """
    if isinstance(error, UnicodeDecodeError):
        return "invalid_utf8", f"byte {error.start}: {error.reason}"
    try:
        _syntax.decode(value)
    except UnicodeDecodeError as fault:
        return "invalid_utf8", f"byte {fault.start}: {fault.reason}"
    except msgspec.DecodeError as fault:
        return "invalid_json", str(fault)
    return None


def _last_fields(value: bytes | Raw) -> dict[str, Raw] | None:
    """The fields of a JSON object, of equal names the last, also inside; None for another value.

    value: JSON that `_syntax` has found sound.
    """
    if bytes(value).lstrip(_BLANK)[:1] != b"{":
        return None
    fields = _fields.decode(value)
    for name, field in fields.items():
        inner = _last_fields(field)
        if inner is not None:
            fields[name] = Raw(_encoder.encode(inner))
    return fields


def _is_text(field: Raw | None) -> bool:
    return field is not None and bytes(field).lstrip(_BLANK)[:1] == b'"'


def _check_nesting(value: bytes) -> None:
    """Raise DecodeError when JSON is nested deeper than `MAX_NESTING`.

    As for a parser that stops at the first fault: what is wrong before the first level too many
    makes it ``invalid_json``, what is wrong behind it is never seen.
    """
    if value.count(b"[") + value.count(b"{") <= MAX_NESTING:
        return
    depth = 0
    for token in _NESTING.finditer(value):
        first, n = value[token.start()], token.end() - token.start()
        if first in b"[{":
            depth += n
            if depth > MAX_NESTING:
                start = token.end() - (depth - MAX_NESTING)
                break
        elif first in b"]}":
            depth -= n
    else:
        return
    try:
        msgspec.json.decode(value[:start])
    except msgspec.DecodeError as fault:
        if "malformed" in str(fault):  # a sound beginning is "truncated"
            raise DecodeError("invalid_json", str(fault)) from fault
    raise _too_deep()


def _too_deep() -> DecodeError:
    return DecodeError("too_deep", f"JSON nested deeper than {MAX_NESTING} levels")


def _millis(rfc3339: str) -> int:
    """Milliseconds since 1970 of a CloudEvents time. Raises DecodeError."""
    try:
        moment: datetime.datetime = msgspec.convert(rfc3339, _Time)
    except msgspec.ValidationError as error:
        raise DecodeError("invalid_event", f"ce_time: {error}") from error
    # Exact integer arithmetic: `timestamp()` is a float and would lose a millisecond here or there.
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000 + since.microseconds // 1_000


# The structs that other topics carry --------------------------------------------------------

_item: msgspec.json.Decoder[Item] = msgspec.json.Decoder(Item)
_impression: msgspec.json.Decoder[Impression] = msgspec.json.Decoder(Impression)
_request: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)
_recommendation: msgspec.json.Decoder[Recommendation] = msgspec.json.Decoder(Recommendation)
_change: msgspec.json.Decoder[ProfileChange] = msgspec.json.Decoder(ProfileChange)


def encode(struct: msgspec.Struct) -> bytes:
    """Any struct of `streams.events` as JSON."""
    return _encoder.encode(struct)


def _decode_as(decoder: Any, value: bytes | None, max_bytes: int = MAX_EVENT_BYTES) -> Any:
    if not value:
        raise DecodeError("empty_value", "the message has no value")
    if len(value) > max_bytes:
        raise DecodeError("too_large", f"{len(value)} bytes, at most {max_bytes}")
    try:
        value.decode()
        _check_nesting(value)
        try:
            return decoder.decode(value)
        except msgspec.ValidationError as error:
            _syntax.decode(value)  # bytes that break off behind a wrong field
            fields = _last_fields(value)
            if fields is None:
                raise DecodeError("invalid_event", str(error)) from error
            return decoder.decode(_encoder.encode(fields))
    except UnicodeDecodeError as error:
        raise DecodeError("invalid_utf8", f"byte {error.start}: {error.reason}") from error
    except RecursionError as error:
        raise _too_deep() from error
    except msgspec.ValidationError as error:
        raise DecodeError("invalid_event", str(error)) from error
    except msgspec.DecodeError as error:
        raise DecodeError("invalid_json", str(error)) from error


def decode_item(value: bytes | None) -> Item:
    """A catalogue entry; the caller handles a null value (a delete). Raises DecodeError."""
    return _decode_as(_item, value)  # type: ignore[no-any-return]


def decode_impression(value: bytes | None) -> Impression:
    """What a user was shown. Raises DecodeError."""
    return _decode_as(_impression, value)  # type: ignore[no-any-return]


def decode_request(value: bytes | None) -> Request:
    """A request to recommend or rerank. Raises DecodeError."""
    return _decode_as(_request, value, MAX_SENT_BYTES)  # type: ignore[no-any-return]


def decode_recommendation(value: bytes | None) -> Recommendation:
    """A ranked list. Raises DecodeError."""
    return _decode_as(_recommendation, value, MAX_SENT_BYTES)  # type: ignore[no-any-return]


def decode_change(value: bytes | None) -> ProfileChange:
    """What a commit changed. Raises DecodeError."""
    return _decode_as(_change, value, MAX_SENT_BYTES)  # type: ignore[no-any-return]


CHANGE_BYTES: Final = 512 * 1024
"""Largest announcement: half of the broker's default limit for one message."""


def encode_change(change: ProfileChange, max_bytes: int = CHANGE_BYTES) -> list[bytes]:
    """An announcement as one message, or as several when it has more than ``max_bytes``.

    Each part names the same partition and next_offset and a share of the users, in order. A part
    with a single user may be longer; none is lost.
    """
    whole = _encoder.encode(change)
    n_users = len(change.users)
    if len(whole) <= max_bytes or n_users <= 1:
        return [whole]
    half = n_users // 2
    return [
        message
        for users in (change.users[:half], change.users[half:])
        for message in encode_change(msgspec.structs.replace(change, users=users), max_bytes)
    ]
