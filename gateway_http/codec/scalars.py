"""Scalar fields and the well-known types that are written as one JSON value."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from json.encoder import encode_basestring
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway_http.codec.errors import FieldError, Unprintable, UnsupportedType
from gateway_http.codec.json_text import JsonValue, Number, kind_of, number_text
from gateway_http.codec.names import short_names

Read: TypeAlias = Callable[[JsonValue], Any]
"""From a JSON value to what the field is set to. Raises `FieldError` with an empty path."""
Write: TypeAlias = Callable[[Any], str]
"""From a field's value to its JSON. Raises `Unprintable`."""
ReadInto: TypeAlias = Callable[[Any, JsonValue], None]
"""From a JSON value into a message. Raises `FieldError`."""

quoted: Final[Callable[[str], str]] = encode_basestring
"""A JSON string."""

_INTEGER: Final = re.compile(r"-?[0-9]+")
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_DURATION: Final = re.compile(r"-?[0-9]{1,12}(\.[0-9]{1,9})?s")
_MASK_PATH: Final = re.compile(r"[^\s,]+")

_INTEGER_RANGES: Final[Mapping[int, tuple[int, int]]] = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
}
_LONGEST_INTEGER: Final = 20
"""Characters of the longest text of a 64-bit integer."""


def scalar_reader(field: FieldDescriptor) -> Read:
    """Reads one value of a scalar field. Raises `UnsupportedType`: binary floats are not in the dialect."""
    if field.cpp_type in _INTEGER_RANGES:
        return _integer_reader(*_INTEGER_RANGES[field.cpp_type])
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return enum_reader(_enum_of(field))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _read_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _read_bytes if field.type == FieldDescriptor.TYPE_BYTES else _read_string
    raise UnsupportedType(f"{field.full_name} is a binary float; use google.type.Decimal")


def scalar_writer(field: FieldDescriptor) -> Write:
    """Writes one value of a scalar field. Raises `UnsupportedType`."""
    if field.cpp_type in _INTEGER_RANGES:
        return str
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return enum_writer(_enum_of(field))
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _write_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _write_bytes if field.type == FieldDescriptor.TYPE_BYTES else quoted
    raise UnsupportedType(f"{field.full_name} is a binary float; use google.type.Decimal")


def enum_reader(enum: EnumDescriptor) -> Read:
    """Reads a short name."""
    numbers = names_of(enum)
    allowed = f"must be one of {', '.join(numbers)}"

    def read(value: JsonValue) -> int:
        number = numbers.get(value) if type(value) is str else None
        if number is None:
            raise FieldError("", allowed)
        return number

    return read


def enum_writer(enum: EnumDescriptor) -> Write:
    """Writes a short name; a number that this build has no name for, as a number."""
    texts = {number: quoted(name) for name, number in names_of(enum).items()}

    def write(number: int) -> str:
        return texts.get(number) or str(number)

    return write


def names_of(enum: EnumDescriptor) -> dict[str, int]:
    """`short_names`, as a fault of the contract."""
    try:
        return short_names(enum)
    except ValueError as error:
        raise UnsupportedType(str(error)) from None


def _enum_of(field: FieldDescriptor) -> EnumDescriptor:
    assert field.enum_type is not None
    return field.enum_type


def _integer_reader(lowest: int, highest: int) -> Read:
    def read(value: JsonValue) -> int:
        if type(value) is not Number or not _INTEGER.fullmatch(value):
            raise FieldError("", f"must be an integer, not {_described(value)}")
        if len(value) > _LONGEST_INTEGER or not lowest <= (number := int(value)) <= highest:
            raise FieldError("", f"must be between {lowest} and {highest}")
        return number

    return read


def _described(value: JsonValue) -> str:
    return "a number with a fraction or an exponent" if type(value) is Number else kind_of(value)


def _read_bool(value: JsonValue) -> bool:
    if value is True or value is False:
        return bool(value)
    raise FieldError("", f"must be true or false, not {kind_of(value)}")


def _write_bool(value: bool) -> str:
    return "true" if value else "false"


def _read_string(value: JsonValue) -> str:
    if type(value) is not str:
        raise FieldError("", f"must be a string, not {kind_of(value)}")
    return value


def _read_bytes(value: JsonValue) -> bytes:
    try:
        return base64.b64decode(_read_string(value), validate=True)
    except (binascii.Error, ValueError) as error:
        if isinstance(error, FieldError):
            raise
        raise FieldError("", "must be base64") from None


def _write_bytes(value: bytes) -> str:
    return quoted(base64.b64encode(value).decode("ascii"))


def read_decimal(message: Any, value: JsonValue) -> None:
    """google.type.Decimal takes a number's text as it stands; its bounds are the servicer's business."""
    if type(value) is not Number:
        raise FieldError("", f"must be a number, not {kind_of(value)}")
    message.value = value


def write_decimal(message: Any) -> str:
    """The exact text of a google.type.Decimal, as a JSON number."""
    text = number_text(message.value)
    if text is None:
        raise Unprintable("a google.type.Decimal is no number")
    return text


def read_timestamp(message: Any, value: JsonValue) -> None:
    if type(value) is not str or not _RFC3339.fullmatch(value):
        raise FieldError("", 'must be an RFC 3339 time such as "2024-01-10T12:00:00Z"')
    try:
        message.FromJsonString(value)
    except ValueError:
        raise FieldError("", "must be a time between the years 1 and 9999") from None


def read_duration(message: Any, value: JsonValue) -> None:
    if type(value) is not str or not _DURATION.fullmatch(value):
        raise FieldError("", 'must be a duration in seconds such as "5s"')
    try:
        message.FromJsonString(value)
    except ValueError:
        raise FieldError("", "must be a duration of at most 315,576,000,000 s") from None


def write_time(message: Any) -> str:
    """Timestamp and Duration know their own text."""
    try:
        return f'"{message.ToJsonString()}"'
    except ValueError:
        raise Unprintable(f"a {message.DESCRIPTOR.full_name} is out of range") from None


def read_field_mask(message: Any, value: JsonValue) -> None:
    """Names stand in a mask as they stand in the JSON, so paths are taken as they are."""
    paths = _read_string(value).split(",") if value != "" else []
    if not all(_MASK_PATH.fullmatch(path) for path in paths):
        raise FieldError("", "must be names separated by commas")
    message.paths.extend(paths)


def write_field_mask(message: Any) -> str:
    return quoted(",".join(message.paths))


WELL_KNOWN: Final[Mapping[str, tuple[ReadInto, Callable[[Message], str]]]] = {
    "google.type.Decimal": (read_decimal, write_decimal),
    "google.protobuf.Timestamp": (read_timestamp, write_time),
    "google.protobuf.Duration": (read_duration, write_time),
    "google.protobuf.FieldMask": (read_field_mask, write_field_mask),
}
"""Message types that are one JSON value."""
