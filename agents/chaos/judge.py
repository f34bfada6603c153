"""Which messages are events, by the documents alone: docs/wire.md and the published schema.

The verifier's opinion, independent of `streams`: `read` gives the event as a plain dict, with what
CloudEvents' headers add, or says why there is none. `events.schema.json` beside this file was held
against docs/wire.md by hand; a test holds it to what `foldstream schema` publishes, so a bound that
changes there changes nothing here until a person has said that it is meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from agents.chaos.strict_json import Refused, Rules, parse

SCHEMA: Final = Path(__file__).with_name("events.schema.json")

MAX_BYTES: Final = 512 * 1024

SET_ASIDE: Final = frozenset({"forget", "merge", "absorb", "consent"})
"""In the schema, and not built yet: dead letters that are not bad."""

_TIME: Final = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):?([0-9]{2}))"
)


class Judged(NamedTuple):
    """An event. source: CloudEvents', empty for a plain one."""

    event: dict[str, Any]
    source: str


class Judge:
    """Judges messages of `events`. extra_kinds: the shop's own."""

    def __init__(self, extra_kinds: Sequence[str] = ()) -> None:
        schema = json.loads(SCHEMA.read_text("utf-8"))
        # By type first, as the discriminator says: ten times as fast as trying one after the other.
        definitions, mapping = schema["$defs"], schema["discriminator"]["mapping"]
        for kind in extra_kinds:  # "your own kinds have the fields of a click"
            properties = definitions["Click"]["properties"] | {"type": {"enum": [kind]}}
            definitions[kind] = definitions["Click"] | {"properties": properties}
            mapping[kind] = f"#/$defs/{kind}"
        self._rules = {
            name: Rules({"$defs": definitions, "$ref": reference})
            for name, reference in mapping.items()
        }

    def read(
        self, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> Judged:
        """The event of a message. Raises Refused.

        >>> Judge().read(b'{"type":"click","user_id":"u","item_id":"i","ts":5}', b"u").event["ts"]
        5
        """
        if not value:
            raise Refused("no value")
        if len(value) > MAX_BYTES:
            raise Refused(f"{len(value)} bytes")
        document = parse(value)
        attributes = _attributes(headers) if headers else {}
        if attributes.get("content-type", "").lower().startswith("application/cloudevents"):
            raise Refused("CloudEvents in structured mode: not yet")
        source = ""
        if not isinstance(document, dict):
            raise Refused("not an object")
        if "specversion" in attributes:
            document = _with_attributes(document, attributes, key)
            source = attributes.get("source", "")
        kind = document.get("type")
        rules = self._rules.get(kind) if isinstance(kind, str) else None
        if rules is None:
            raise Refused(f"type {str(kind)[:64]!r}")
        rules.check(document)
        if kind in SET_ASIDE:
            raise Refused(f"{kind}: not yet")
        if key is None:
            raise Refused("no key")
        if key != document["user_id"].encode():
            raise Refused("the key is not the user")
        return Judged(document, source)

    def why_not(
        self, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> str | None:
        """Why a message is no event; None: it is one."""
        try:
            self.read(value, key, headers)
        except Refused as refused:
            return str(refused)
        return None


def _attributes(headers: Sequence[tuple[str, bytes]]) -> dict[str, str]:
    found = {}
    for name, content in headers:
        lower = name.lower()
        if lower == "content-type" or lower.startswith("ce_"):
            try:
                found[lower.removeprefix("ce_")] = (content or b"").decode("utf-8")
            except UnicodeDecodeError as error:
                raise Refused(f"header {name}: not UTF-8") from error
    return found


def _with_attributes(
    data: dict[str, Any], attributes: dict[str, str], key: bytes | None
) -> dict[str, Any]:
    """The event: what its data lacks comes from the headers."""
    event = dict(data)
    if "type" not in data and "type" in attributes:
        event["type"] = attributes["type"].split(".")[-1]
    if "event_id" not in data and "id" in attributes:
        event["event_id"] = attributes["id"]
    if "ts" not in data and "time" in attributes:
        event["ts"] = _millis(attributes["time"])
    if "user_id" not in data:
        if attributes.get("subject"):
            event["user_id"] = attributes["subject"]
        elif key:
            try:
                event["user_id"] = key.decode("utf-8")
            except UnicodeDecodeError as error:
                raise Refused("the key is not UTF-8") from error
    return event


def _millis(text: str) -> int:
    """Milliseconds since 1970, whole ones.

    >>> _millis("1970-01-01T01:00:00.0019+01:00")
    1
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise Refused(f"ce_time {text[:40]!r}: not RFC 3339")
    year, month, day, hour, minute, second = map(int, found.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise Refused(f"ce_time {text[:40]!r}: {error}") from error
    ms = int(((found[7] or "") + "000")[:3])
    if found[8]:
        hours, minutes = int(found[9]), int(found[10])
        if hours > 23 or minutes > 59:
            raise Refused(f"ce_time {text[:40]!r}: no such offset")
        ahead = (hours * 60 + minutes) * (1 if found[8] == "+" else -1)
    else:
        ahead = 0
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return since // timedelta(milliseconds=1) + ms - ahead * 60_000
