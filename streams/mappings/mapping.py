"""What a mapping file says, as structs; reading one, and finding the right one for a file.

A mapping is a TOML file: which header it belongs to, which lines to reject and why, and how
columns become the fields of events and of catalogue items. The ready ones lie beside this module.
Turning a mapping into a function over lines is `compiled`; reading files is `reader`.

A field is given as a column's name, or as a table (`Source`), or as a list of these, of which the
first that is not empty counts. In JSON lines a column is a key; dots go into nested objects.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from streams.errors import MappingError


class Source(Struct, frozen=True, forbid_unknown_fields=True):
    """Where one field's value comes from: a column or a constant, and what is done to it.

    column, value: exactly one of the two. prefix: put before the value.
    translate: values to other values; one that is not listed becomes `default`, and without a
    default the line is rejected as ``unknown_<field>``.
    split: cut into a list at this text (categories, tags). absolute: without its sign.
    zero_is_empty: 0 counts as not given.
    unit (``s``, ``ms``, ``us``), format (``iso`` or as in `datetime.strptime`) and zone (a name
    such as ``Europe/London``, for times that name none): for ``ts`` only; plain numbers are ms.
    """

    column: str | None = None
    value: str | int | float | bool | None = None
    prefix: str = ""
    translate: dict[str, str] = {}
    default: str | None = None
    split: str | None = None
    absolute: bool = False
    zero_is_empty: bool = False
    unit: Literal["s", "ms", "us"] | None = None
    format: str | None = None
    zone: str = "UTC"


Field = str | Source | list[str | Source]


class Condition(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One test of one column; exactly one kind of test. negate: the opposite."""

    column: str
    empty: bool | None = None
    equals: str | None = None
    one_of: list[str] | None = None
    matches: str | None = None
    above: float | None = None
    below: float | None = None
    negate: bool = False


class Rejection(Condition, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A line for which the condition holds is no event, for this reason."""

    reason: str


class ItemMapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a line becomes a catalogue entry.

    refresh: ``change`` sends an entry whenever it differs from the last one sent of that item;
    ``first`` sends only the first (where prices or titles differ from line to line).
    """

    item_id: Field
    title: Field | None = None
    category: Field | None = None
    brand: Field | None = None
    price: Field | None = None
    tags: Field | None = None
    in_stock: Field | None = None
    refresh: Literal["change", "first"] = "change"
    when: list[Condition] = []


class Mapping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One mapping.

    header: columns (or keys) that a file must have to be read by it.
    events: one table for each event that a line can give: the fields of that event, and ``when``
    (conditions that must all hold), ``suffix`` (of the event id, where a line gives two) and
    ``once`` (columns; lines equal in them give this event once).
    sort_by_time: the later events of a line wait for the first events of the lines after it.
    delimiter: between the columns of a CSV file.
    """

    header: list[str]
    about: str = ""
    format: Literal["csv", "jsonl"] = "csv"
    delimiter: str = ","
    reject: list[Rejection] = []
    events: list[dict[str, Any]] = []
    item: ItemMapping | None = None
    sort_by_time: bool = False


class EventMapping(Struct, frozen=True):
    """One table of ``events`` taken apart."""

    fields: dict[str, Field]
    when: list[Condition]
    suffix: str
    once: list[str]


class NamedMapping(Struct, frozen=True):
    """A mapping with the name that messages and state files use."""

    name: str
    mapping: Mapping
    events: list[EventMapping]


def parse_mapping(text: str, name: str) -> NamedMapping:
    """The mapping in a TOML text. Raises MappingError that names key and fix.

    >>> named = parse_mapping('''
    ... header = ["user", "page", "at"]
    ... [[events]]
    ... type = { value = "click" }
    ... user_id = "user"
    ... item_id = "page"
    ... ts = { column = "at", unit = "s" }
    ... ''', "pages")
    >>> named.events[0].fields["item_id"]
    'page'
    """
    try:
        mapping = msgspec.convert(tomllib.loads(text), Mapping)
        events = [_parse_event(event) for event in mapping.events]
    except tomllib.TOMLDecodeError as error:
        raise MappingError(f"mapping {name}: not TOML ({error}); mend that line") from error
    except msgspec.ValidationError as error:
        raise MappingError(f"mapping {name}: {error}; see docs/mappings.md") from error
    if not events and mapping.item is None:
        raise MappingError(f"mapping {name}: give at least one [[events]] table or an [item] table")
    if len(mapping.delimiter) != 1:
        raise MappingError(f"mapping {name}: delimiter {mapping.delimiter!r} must be one character")
    return NamedMapping(name, mapping, events)


def _parse_event(table: dict[str, Any]) -> EventMapping:
    rest = dict(table)
    when = msgspec.convert(rest.pop("when", []), list[Condition])
    suffix = msgspec.convert(rest.pop("suffix", ""), str)
    once = msgspec.convert(rest.pop("once", []), list[str])
    return EventMapping(msgspec.convert(rest, dict[str, Field]), when, suffix, once)


@cache
def ready_mappings() -> dict[str, NamedMapping]:
    """The mappings that come with foldstream, by name."""
    folder = resources.files(__package__)
    return {
        entry.name.removesuffix(".toml"): parse_mapping(
            entry.read_text("utf-8"), entry.name.removesuffix(".toml")
        )
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


def load_mapping(name_or_file: str) -> NamedMapping:
    """A ready mapping by name, or one from a file whose name ends in ``.toml``.

    Raises MappingError that lists the ready ones.
    """
    ready = ready_mappings()
    if name_or_file in ready:
        return ready[name_or_file]
    if not name_or_file.endswith(".toml"):
        raise MappingError(
            f"--mapping {name_or_file}: no such mapping; ready are {', '.join(ready)}; "
            "your own is a file ending in .toml"
        )
    try:
        text = Path(name_or_file).read_text("utf-8")
    except OSError as error:
        raise MappingError(f"--mapping {name_or_file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise MappingError(f"--mapping {name_or_file}: not UTF-8 ({error})") from error
    return parse_mapping(text, Path(name_or_file).name)


def detect_mapping(columns: Sequence[str], file_format: str, path: str) -> NamedMapping:
    """The ready mapping whose header is among these columns; of several, the longest.

    Raises MappingError that shows the columns and the ways out.
    """
    have = set(columns)
    fitting = [
        named
        for named in ready_mappings().values()
        if named.mapping.format == file_format and have.issuperset(named.mapping.header)
    ]
    if not fitting:
        raise MappingError(
            f"{path}: no ready mapping for the columns {', '.join(columns)}; give "
            f"--mapping NAME ({', '.join(ready_mappings())}) or --mapping FILE.toml"
        )
    return max(fitting, key=lambda named: len(named.mapping.header))
