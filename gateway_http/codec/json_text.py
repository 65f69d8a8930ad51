"""Strict JSON: what the text says, without a float in between. Standard library only.

The parser is the one of the standard library, whose hooks see the text of a number and every pair of an
object: a faster one that hides a repeated key would be no use here.
"""

import json
import re
from typing import Any, Final, TypeAlias

JsonValue: TypeAlias = Any
"""`dict`, `list`, `str`, `Number`, `bool`, `NoNumber` or None."""

NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
"""A number as JSON writes it."""

_LOOSE_NUMBER: Final = re.compile(r"([+-]?)0*([0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?")

_BLANK: Final = " \t\n\r"


class Number(str):
    """A JSON number, as the text that it was written with."""

    __slots__ = ()


class NoNumber:
    """`NaN`, `Infinity` or `-Infinity`, which JSON does not have and no field takes.

    A value of its own, so that the error names the field that it was given for.
    """

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name: Final = name


class AmbiguousObject(dict[str, JsonValue]):
    """An object in which a key stands twice."""

    __slots__ = ("key",)

    key: str


class MalformedJson(ValueError):
    """The text is no JSON; the message says where and why, without repeating the text."""


def parse(body: bytes) -> JsonValue:
    """The value of a JSON text in UTF-8. Raises `MalformedJson`; objects may be an `AmbiguousObject`."""
    try:
        text = body.decode("utf-8").strip(_BLANK)
    except UnicodeDecodeError:
        raise MalformedJson("the body is not UTF-8") from None
    try:
        value, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJson(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise MalformedJson("the value is nested too deep") from None
    if end != len(text):
        raise MalformedJson("more follows after the value")
    return value


def number_text(text: str) -> str | None:
    """The JSON number that a decimal text stands for, digit for digit; None when it is no decimal number.

    google.type.Decimal also allows `+2.5`, `.5`, `5.` and leading zeros, which JSON does not; empty is 0.
    """
    if NUMBER.fullmatch(text):
        return text
    if not text:
        return "0"
    found = _LOOSE_NUMBER.fullmatch(text)
    if found is None:
        return None
    sign, whole, fraction, exponent = found.groups(default="")
    if not any(character.isdigit() for character in text.lower().partition("e")[0]):
        return None
    point = "" if fraction == "." else fraction
    return f"{'-' if sign == '-' else ''}{whole or '0'}{point}{exponent}"


def kind_of(value: JsonValue) -> str:
    """What a value is, for a sentence: "must be a number, not a string"."""
    if value is None:
        return "null"
    if value is True or value is False:
        return "a boolean"
    return value.name if type(value) is NoNumber else _KINDS[type(value)]


_KINDS: Final[dict[Any, str]] = {
    Number: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    AmbiguousObject: "an object",
}


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    members = dict(pairs)
    if len(members) == len(pairs):
        return members
    ambiguous = AmbiguousObject(members)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            ambiguous.key = key
            break
        seen.add(key)
    return ambiguous


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=Number, parse_int=Number, parse_constant=NoNumber
)
