"""A mapping compiled to functions over one line: a line in, events and items out.

Everything that can be settled once (which column, which conversion, which test) is settled here,
because the functions run a hundred thousand times a second. A line is a list of strings (CSV) or
a dict (JSON lines). The bounds of fields are those of `streams.events`: msgspec checks them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from streams.errors import MappingError
from streams.events import Event, Item
from streams.mappings.mapping import (
    Condition,
    EventMapping,
    Field,
    ItemMapping,
    NamedMapping,
    Source,
)

Row = Any
"""One line: ``list[str]`` of a CSV file, or a dict of a JSON lines file."""

Getter = Callable[[Row], Any]
Test = Callable[[Row], bool]

MAX_REMEMBERED = 1_000_000
"""Keys kept for `once`, and items kept for `refresh`: about 100 MB; the oldest are forgotten."""


class LineRejected(Exception):
    """This line is no event; ``reason`` is what it is counted under."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class LineMapper:
    """`map_line` turns one line into its events, `map_item` into its catalogue entry.

    columns: the header of a CSV file; unused for JSON lines.
    kinds: event classes by their ``type``. id_prefix: first part of every event id.
    Raises MappingError when the mapping does not fit the columns or the event types.
    """

    def __init__(
        self,
        named: NamedMapping,
        columns: Sequence[str],
        kinds: dict[str, type[Event]],
        id_prefix: str,
    ) -> None:
        self._scope = _Scope(named, columns)
        self._kinds = kinds
        self._id_prefix = id_prefix
        self._rejections = [
            (self._scope.test(rejection), rejection.reason) for rejection in named.mapping.reject
        ]
        self._events = [self._compile_event(event) for event in named.events]
        self._item = named.mapping.item and _ItemMapper(named.mapping.item, self._scope)
        self.n_repeated = 0
        """Events left out because an equal one was counted before (`once`)."""
        self.line_ms = 0
        """Time of the earliest event of the last line, also of one that was left out."""

    def map_line(self, row: Row, line: int) -> list[Event]:
        """The events of one line, in the order of the mapping. Raises LineRejected."""
        for test, reason in self._rejections:
            if test(row):
                raise LineRejected(reason)
        events: list[Event] = []
        first_seen: list[tuple[_Once, tuple[Any, ...]]] = []
        times: list[int] = []
        for tests, once, suffix, fields in self._events:
            if any(not test(row) for test in tests):
                continue
            values = {name: value for name, get in fields if (value := get(row)) is not None}
            kind = self._kinds.get(values.get("type", ""))
            if kind is None:
                raise LineRejected("unknown_type")
            if "event_id" not in values:
                values["event_id"] = f"{self._id_prefix}:{line}{suffix}"
            try:
                event = msgspec.convert(values, kind, strict=False)
            except msgspec.ValidationError as error:
                raise LineRejected(reason_of(error)) from None
            times.append(event.ts)
            if once is not None:
                key = once.key(row)
                if key in once:
                    self.n_repeated += 1
                    continue
                first_seen.append((once, key))
            events.append(event)
        if not times:
            if self._events:
                raise LineRejected("no_event")
            return events
        for once, key in first_seen:  # only now: a line that is rejected leaves no trace
            once.add(key)
        self.line_ms = min(times)
        return events

    def map_item(self, row: Row) -> Item | None:
        """The line's catalogue entry; None when it has none, or none that is new.

        Raises LineRejected when it breaks the bounds of `Item`.
        """
        return self._item(row) if self._item else None

    def _compile_event(
        self, event: EventMapping
    ) -> tuple[list[Test], _Once | None, str, list[tuple[str, Getter]]]:
        scope = self._scope
        known = {name for kind in self._kinds.values() for name in kind.__struct_fields__}
        for name in event.fields:
            if name not in known | {"type"}:
                raise scope.error(f"events.{name}: no such field; there are {sorted(known)}")
        for name in ("type", "ts", "user_id"):
            if name not in event.fields:
                raise scope.error(f"events: the field {name} is missing")
        fields = [(name, scope.getter(field, name)) for name, field in event.fields.items()]
        once = _Once([scope.column(name) for name in event.once]) if event.once else None
        return [scope.test(condition) for condition in event.when], once, event.suffix, fields


def reason_of(error: msgspec.ValidationError) -> str:
    """``invalid_<field>`` or ``missing_<field>`` from msgspec's message.

    >>> reason_of(msgspec.ValidationError("Expected `float` >= 0.0 - at `$.price`"))
    'invalid_price'
    >>> reason_of(msgspec.ValidationError("Object missing required field `ts`"))
    'missing_ts'
    """
    text = str(error)
    if missing := re.search(r"missing required field `(\w+)`", text):
        return f"missing_{missing[1]}"
    field = re.search(r"`\$\.(\w+)", text)
    return f"invalid_{field[1]}" if field else "invalid_event"


class _Once:
    """Which keys have been seen, the last `MAX_REMEMBERED` of them."""

    def __init__(self, columns: list[Getter]) -> None:
        self._columns = columns
        self._seen: dict[tuple[Any, ...], None] = {}

    def key(self, row: Row) -> tuple[Any, ...]:
        return tuple(get(row) for get in self._columns)

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._seen

    def add(self, key: tuple[Any, ...]) -> None:
        if len(self._seen) >= MAX_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = None


class _ItemMapper:
    """The item part of a mapping, with what was sent last of each item."""

    def __init__(self, item: ItemMapping, scope: _Scope) -> None:
        self._tests = [scope.test(condition) for condition in item.when]
        self._get_id = scope.getter(item.item_id, "item_id")
        self._only_first = item.refresh == "first"
        self._fields = [
            (name, scope.getter(field, name))
            for name in ("title", "category", "brand", "price", "tags", "in_stock")
            if (field := getattr(item, name)) is not None
        ]
        self._sent: dict[str, list[Any]] = {}

    def __call__(self, row: Row) -> Item | None:
        item_id = self._get_id(row)
        sent = self._sent.get(item_id)
        if (sent is not None and self._only_first) or any(not test(row) for test in self._tests):
            return None
        values = [get(row) for _, get in self._fields]
        if values == sent:
            return None
        document = {
            name: value
            for (name, _), value in zip(self._fields, values, strict=True)
            if value is not None
        }
        try:
            item = msgspec.convert({"item_id": item_id, **document}, Item, strict=False)
        except msgspec.ValidationError as error:
            raise LineRejected(reason_of(error)) from None
        if sent is None and len(self._sent) >= MAX_REMEMBERED:
            del self._sent[next(iter(self._sent))]
        self._sent[item.item_id] = values
        return item


class _Scope:
    """Makes getters and tests for one mapping over one header."""

    def __init__(self, named: NamedMapping, columns: Sequence[str]) -> None:
        self._named = named
        self._is_csv = named.mapping.format == "csv"
        self._columns = {name: number for number, name in enumerate(columns)}

    def error(self, problem: str) -> MappingError:
        return MappingError(f"mapping {self._named.name}: {problem}")

    def column(self, name: str) -> Getter:
        """The text (or JSON value) of a column; None when empty or missing."""
        if not self._is_csv:
            return _json_getter(name.split("."))
        number = self._columns.get(name)
        if number is None:
            raise self.error(
                f"the file has no column {name!r}; it has {', '.join(self._columns) or 'none'}"
            )

        def get(row: Row) -> Any:
            return row[number] or None

        return get

    def getter(self, field: Field, name: str) -> Getter:
        if isinstance(field, str):
            return self.column(field)
        if isinstance(field, Source):
            return self._source(field, name)
        if not field:
            raise self.error(f"{name}: an empty list names no column")
        choices = [self.getter(choice, name) for choice in field]

        def first(row: Row) -> Any:
            for get in choices:
                value = get(row)
                if value is not None:
                    return value
            return None

        return first

    def _source(self, source: Source, name: str) -> Getter:
        if (source.column is None) == (source.value is None):
            raise self.error(f"{name}: give exactly one of column and value")
        if source.column is None:
            constant = source.value
            return lambda row: constant
        get = self.column(source.column)
        for step in self._steps(source, name):
            get = _then(get, step)
        return get

    def _steps(self, source: Source, name: str) -> list[Callable[[Any], Any]]:
        """What is done to the column's value, in order; no step sees None."""
        steps: list[Callable[[Any], Any]] = []
        if source.translate:
            steps.append(_translation(source.translate, source.default, name))
        if source.absolute:
            steps.append(lambda value: value.lstrip("+-") if isinstance(value, str) else abs(value))
        if source.zero_is_empty:
            steps.append(lambda value: None if _number(value, name) == 0 else value)
        if name == "ts":
            if source.unit and source.format:
                raise self.error("ts: give a unit or a format, not both")
            if source.format:
                steps.append(self._time(source.format, source.zone))
            elif source.unit in ("s", "us"):
                factor = 1_000 if source.unit == "s" else 0.001
                steps.append(lambda value: round(_number(value, name) * factor))
        elif source.unit or source.format:
            raise self.error(f"{name}: unit and format are for ts only")
        if source.prefix:
            steps.append(lambda value: f"{source.prefix}{value}")
        if source.split is not None:
            cut = source.split
            if not cut:
                raise self.error(f"{name}: split needs a text to cut at")
            steps.append(lambda value: [part for part in str(value).split(cut) if part])
        return steps

    def _time(self, time_format: str, zone_name: str) -> Callable[[Any], int]:
        try:
            zone = ZoneInfo(zone_name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise self.error(f"ts: no time zone {zone_name!r}; write one such as UTC") from error
        last: tuple[Any, int] = (None, 0)  # neighbouring lines often share their second

        def parse(value: Any) -> int:
            nonlocal last
            if value == last[0]:
                return last[1]
            try:
                moment = (
                    datetime.fromisoformat(value)
                    if time_format == "iso"
                    else datetime.strptime(value, time_format)  # noqa: DTZ007 - zone comes below
                )
            except (ValueError, TypeError):
                raise LineRejected("invalid_ts") from None
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone)
            last = (value, round(moment.timestamp() * 1_000))
            return last[1]

        return parse

    def test(self, condition: Condition) -> Test:
        get = self.column(condition.column)
        given = [
            test
            for test in (
                condition.empty,
                condition.equals,
                condition.one_of,
                condition.matches,
                condition.above,
                condition.below,
            )
            if test is not None
        ]
        if len(given) != 1:
            raise self.error(
                f"condition on {condition.column!r}: give exactly one of "
                "empty, equals, one_of, matches, above, below"
            )
        holds = self._condition(condition, get)
        return (lambda row: not holds(row)) if condition.negate else holds

    def _condition(self, condition: Condition, get: Getter) -> Test:
        column = condition.column
        if condition.empty is not None:
            wanted = condition.empty
            return lambda row: (get(row) is None) == wanted
        if condition.equals is not None:
            expected = condition.equals
            return lambda row: _text(get(row)) == expected
        if condition.one_of is not None:
            members = frozenset(condition.one_of)
            return lambda row: _text(get(row)) in members
        if condition.matches is not None:
            try:
                search = re.compile(condition.matches).search
            except re.error as error:
                raise self.error(
                    f"condition on {column!r}: {condition.matches!r} is no pattern ({error})"
                ) from error
            return lambda row: search(_text(get(row))) is not None
        if condition.above is not None:
            floor = condition.above
            return lambda row: _number(get(row), column) > floor
        ceiling = condition.below or 0.0
        return lambda row: _number(get(row), column) < ceiling


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _number(value: Any, name: str) -> float:
    """A finite number, or LineRejected ``invalid_<name>``."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise LineRejected(f"invalid_{name}") from None
    if number - number != 0:  # infinite, or not a number
        raise LineRejected(f"invalid_{name}")
    return number


def _json_getter(path: list[str]) -> Getter:
    def get(row: Row) -> Any:
        value = row
        for key in path:
            if not isinstance(value, dict):
                return None
            value = value.get(key)
        return None if value == "" else value

    return get


def _then(get: Getter, step: Callable[[Any], Any]) -> Getter:
    def both(row: Row) -> Any:
        value = get(row)
        return None if value is None else step(value)

    return both


def _translation(
    table: dict[str, str], default: str | None, name: str
) -> Callable[[Any], str | None]:
    def translate(value: Any) -> str | None:
        found = table.get(_text(value), default)
        if found is None:
            raise LineRejected(f"unknown_{name}")
        return found

    return translate
