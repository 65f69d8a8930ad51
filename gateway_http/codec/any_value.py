"""google.protobuf.Any: an object with the type beside the fields, `{"@type": "type.googleapis.com/…", …}`."""

import base64
import binascii
from collections.abc import Callable
from typing import Any, Final

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from gateway_http.codec.errors import FieldError, Unprintable, UnsupportedType
from gateway_http.codec.json_text import JsonValue, kind_of
from gateway_http.codec.scalars import WELL_KNOWN, ReadInto, quoted

TYPE_KEY: Final = "@type"
VALUE_KEY: Final = "value"


class AnyCodec:
    """Finds the type by its URL among the compiled-in contracts.

    A type that is not compiled in, or that the dialect cannot write, is passed on as base64 in `value`; so is
    what does not parse: an error's details must not hide the error.
    """

    def __init__(
        self,
        reader: Callable[[Descriptor], ReadInto],
        writer: Callable[[Descriptor], Callable[[Any], str]],
    ) -> None:
        self._reader = reader
        self._writer = writer

    def write(self, message: Any) -> str:
        head = f"{{{quoted(TYPE_KEY)}:{quoted(message.type_url)}"
        descriptor = _find(message.type_url)
        if descriptor is not None:
            try:
                inner = _new(descriptor)
                inner.ParseFromString(message.value)
                text = self._writer(descriptor)(inner)
            except (DecodeError, UnsupportedType, Unprintable):
                pass
            else:
                if descriptor.full_name in WELL_KNOWN:
                    return f'{head},"{VALUE_KEY}":{text}}}'
                return f"{head}}}" if text == "{}" else f"{head},{text[1:]}"
        return f'{head},"{VALUE_KEY}":{quoted(base64.b64encode(message.value).decode("ascii"))}}}'

    def read(self, message: Any, value: JsonValue) -> None:
        if type(value) is not dict:
            raise FieldError("", f"must be an object, not {kind_of(value)}")
        members = dict(value)
        type_url = members.pop(TYPE_KEY, None)
        if type(type_url) is not str:
            raise FieldError(TYPE_KEY, "must be a string")
        try:
            message.type_url = type_url
        except UnicodeError:
            raise FieldError(TYPE_KEY, "must be Unicode text") from None
        descriptor = _find(type_url)
        reader = None
        if descriptor is not None:
            try:
                reader = self._reader(descriptor)
            except UnsupportedType:
                reader = None
        if descriptor is None or reader is None:
            message.value = _bytes(members)
            return
        inner = _new(descriptor)
        if descriptor.full_name in WELL_KNOWN:
            if members.keys() != {VALUE_KEY}:
                raise FieldError(VALUE_KEY, "must be the only other member")
            try:
                reader(inner, members[VALUE_KEY])
            except FieldError as error:
                raise error.under(VALUE_KEY) from None
        else:
            reader(inner, members)
        message.value = inner.SerializeToString(deterministic=True)


def _find(type_url: str) -> Descriptor | None:
    try:
        return descriptor_pool.Default().FindMessageTypeByName(type_url.rpartition("/")[2])
    except KeyError:
        return None


def _new(descriptor: Descriptor) -> Message:
    return message_factory.GetMessageClass(descriptor)()


def _bytes(members: dict[str, JsonValue]) -> bytes:
    text = members.get(VALUE_KEY)
    if members.keys() != {VALUE_KEY} or type(text) is not str:
        raise FieldError("", "has a type that is not known here, so it must hold base64 in value")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FieldError(VALUE_KEY, "must be base64") from None
