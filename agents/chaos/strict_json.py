"""What is JSON, and what does a schema refuse: an independent opinion in plain Python.

Shares no code with `streams.codec`, so that the verifier does not repeat its mistakes. `parse` is
RFC 8259 over the standard library's parser, which takes more than that; `Rules` knows as much of
JSON Schema as the published schemas use, and refuses to start on a word that it does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from agents.errors import AgentsError

MAX_NESTING: Final = 64

HUGE: Final = 10**400
"""Stands for an integer of more than 400 digits: Python parses none above 4,300, and every bound
lies far below."""

_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_ESCAPE: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|.)", re.DOTALL)


class Refused(AgentsError):
    """Not an event; the message says why."""


def parse(value: bytes) -> Any:
    """The document; of equal names in an object the last. Raises Refused.

    An integer (``5``) comes as int, a number with point or exponent (``5.0``) as float.

    >>> parse(b'{"a": 1, "a": 5.0}')
    {'a': 5.0}
    """
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(f"not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        document = _decoder.decode(text)
    except RecursionError as error:
        raise Refused("nested deeper than any parser likes") from error
    except ValueError as error:
        raise Refused(f"not JSON: {error}") from error
    # The rest is about the text, not the document: a name that comes twice hides the first value.
    if text.count("[") + text.count("{") > MAX_NESTING and nesting(text) > MAX_NESTING:
        raise Refused(f"nested deeper than {MAX_NESTING} levels")
    if "\\u" in text and has_lone_surrogate(text):
        raise Refused("a lone surrogate")
    return document


def nesting(text: str) -> int:
    """Levels of objects and arrays of a text that is JSON.

    >>> nesting('[{"[[[": []}]')
    3
    """
    depth = deepest = 0
    for sign in _STRING.sub("", text):
        if sign in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in "]}":
            depth -= 1
    return deepest


def has_lone_surrogate(text: str) -> bool:
    r"""Whether a ``\\uD800`` to ``\\uDFFF`` of a text that is JSON lacks its other half."""
    high_ends = -1  # where a high half ended that waits for its low one
    for escape in _ESCAPE.finditer(text):
        unit = int(escape[1], 16) if escape[1] else 0
        if high_ends >= 0:
            if not 0xDC00 <= unit < 0xE000 or escape.start() != high_ends:
                return True
            high_ends = -1
        elif 0xDC00 <= unit < 0xE000:
            return True
        elif 0xD800 <= unit < 0xDC00:
            high_ends = escape.end()
    return high_ends >= 0


def _integer(text: str) -> int:
    return int(text) if len(text) <= 400 else (-HUGE if text[0] == "-" else HUGE)


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


_decoder = json.JSONDecoder(parse_int=_integer, parse_constant=_no_number, strict=True)


# Schema ---------------------------------------------------------------------------------------

Check = Callable[[Any, str], None]
"""Raises Refused for a value, which is found at that place of the document."""

_NO_RULES: Final = frozenset(
    {"$schema", "$comment", "$defs", "title", "description", "default", "discriminator"}
)
_TYPES: Final[dict[str, Callable[[Any], bool]]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    # Narrower than JSON Schema, where 5.0 is an integer too: docs/wire.md.
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) in (int, float),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}
_BOUNDS: Final[dict[str, tuple[Callable[[Any], bool], Callable[[Any, Any], bool]]]] = {
    "minimum": (_TYPES["number"], lambda value, bound: value >= bound),
    "maximum": (_TYPES["number"], lambda value, bound: value <= bound),
    "minLength": (_TYPES["string"], lambda value, bound: len(value) >= bound),
    "maxLength": (_TYPES["string"], lambda value, bound: len(value) <= bound),
    "minItems": (_TYPES["array"], lambda value, bound: len(value) >= bound),
    "maxItems": (_TYPES["array"], lambda value, bound: len(value) <= bound),
    "minProperties": (_TYPES["object"], lambda value, bound: len(value) >= bound),
    "maxProperties": (_TYPES["object"], lambda value, bound: len(value) <= bound),
}
"""Word -> to which values it applies, and what must hold for them."""


class Rules:
    """One published schema.

    >>> rules = Rules({"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}})
    >>> rules.check({"n": 5})
    >>> rules.check({"n": 0})
    Traceback (most recent call last):
    ...
    agents.chaos.strict_json.Refused: $.n: 0 against minimum 1
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        """Raises ValueError for a word of JSON Schema that is not known here."""
        self._definitions: Mapping[str, Any] = schema.get("$defs", {})
        self._check = self._compile(schema)

    def check(self, document: Any) -> None:
        """Raises Refused."""
        self._check(document, "$")

    def _compile(self, schema: Mapping[str, Any]) -> Check:
        tests = [self._test(word, rule) for word, rule in schema.items() if word not in _NO_RULES]

        def check(value: Any, at: str) -> None:
            for test in tests:
                test(value, at)

        return check

    def _test(self, word: str, rule: Any) -> Check:
        if word in _BOUNDS:
            return self._bound(word, rule)
        if word == "type":
            return self._type(rule)
        if word == "enum":
            return self._enum(rule)
        if word == "$ref":
            return self._compile(self._definitions[rule.removeprefix("#/$defs/")])
        if word == "anyOf":
            return self._any_of([self._compile(choice) for choice in rule])
        if word == "required":
            return self._required(rule)
        if word == "properties":
            return self._properties({name: self._compile(of) for name, of in rule.items()})
        if word in ("items", "additionalProperties", "propertyNames"):
            return self._each(word, self._compile(rule))
        if word == "prefixItems":
            return self._prefix([self._compile(of) for of in rule])
        raise ValueError(f"{word!r} of JSON Schema is not known to the verifier: teach it")

    def _bound(self, word: str, bound: Any) -> Check:
        applies, holds = _BOUNDS[word]

        def test(value: Any, at: str) -> None:
            if applies(value) and not holds(value, bound):
                raise Refused(f"{at}: {str(value)[:40]} against {word} {bound}")

        return test

    def _type(self, name: str) -> Check:
        is_one = _TYPES[name]

        def test(value: Any, at: str) -> None:
            if not is_one(value):
                raise Refused(f"{at}: not of type {name}")

        return test

    def _enum(self, choices: list[Any]) -> Check:
        def test(value: Any, at: str) -> None:
            if not any(type(value) is type(choice) and value == choice for choice in choices):
                raise Refused(f"{at}: not one of {choices}")

        return test

    def _any_of(self, choices: list[Check]) -> Check:
        def test(value: Any, at: str) -> None:
            reasons = []
            for choice in choices:
                try:
                    choice(value, at)
                    return
                except Refused as refused:
                    reasons.append(str(refused))
            raise Refused(f"{at}: no choice fits ({'; '.join(reasons)})")

        return test

    def _required(self, names: list[str]) -> Check:
        def test(value: Any, at: str) -> None:
            for name in names:
                if isinstance(value, dict) and name not in value:
                    raise Refused(f"{at}: lacks {name}")

        return test

    def _properties(self, checks: dict[str, Check]) -> Check:
        def test(value: Any, at: str) -> None:
            if isinstance(value, dict):
                for name, check in checks.items():
                    if name in value:
                        check(value[name], f"{at}.{name}")

        return test

    def _each(self, word: str, check: Check) -> Check:
        # The published schemas have additionalProperties only where there are no properties.
        def test(value: Any, at: str) -> None:
            if word == "items" and isinstance(value, list):
                for number, one in enumerate(value):
                    check(one, f"{at}[{number}]")
            elif word != "items" and isinstance(value, dict):
                for one in value.values() if word == "additionalProperties" else value:
                    check(one, f"{at}.{word}")

        return test

    def _prefix(self, checks: list[Check]) -> Check:
        def test(value: Any, at: str) -> None:
            if isinstance(value, list):
                for number, (one, check) in enumerate(zip(value, checks, strict=False)):
                    check(one, f"{at}[{number}]")

        return test
