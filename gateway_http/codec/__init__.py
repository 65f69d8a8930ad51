"""The published JSON of the contracts' messages."""

from gateway_http.codec.codec import Codec
from gateway_http.codec.errors import FieldError, Unprintable, UnsupportedType
from gateway_http.codec.json_text import JsonValue, MalformedJson, Number, parse

__all__ = [
    "Codec",
    "FieldError",
    "JsonValue",
    "MalformedJson",
    "Number",
    "Unprintable",
    "UnsupportedType",
    "parse",
]
