"""Reads and writes messages as the published JSON; compiled once a message type.

Requests are strict: an unknown field, another type than the field's, a key that stands twice and null are
errors that name the field. null is no way to leave a field out: a client that computed no price must not send
a market order by it.
"""

from collections.abc import Callable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from gateway_http.codec.any_value import AnyCodec
from gateway_http.codec.errors import FieldError, UnsupportedType
from gateway_http.codec.json_text import AmbiguousObject, JsonValue, kind_of
from gateway_http.codec.scalars import (
    WELL_KNOWN,
    Read,
    ReadInto,
    Write,
    quoted,
    scalar_reader,
    scalar_writer,
)

_ANY: Final = "google.protobuf.Any"
_WELL_KNOWN_PACKAGE: Final = "google.protobuf."

FieldWriter = Callable[[Any], str]
"""From a message to `"name":value`, or to nothing when the field is not printed."""


class MessageReader:
    """Reads JSON objects into messages of one type."""

    __slots__ = ("fields", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.fields: dict[str, ReadInto] = {}

    def __call__(self, message: Any, value: JsonValue) -> None:
        if type(value) is not dict:
            raise _not_an_object(value)
        fields = self.fields
        for key, member in value.items():
            read = fields.get(key)
            if read is None:
                raise FieldError(_printable(key), "is not a field of the request")
            read(message, member)


class MessageWriter:
    """Writes messages of one type as JSON objects."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: tuple[FieldWriter, ...] = ()

    def __call__(self, message: Any) -> str:
        return "{" + ",".join([text for write in self.fields if (text := write(message))]) + "}"


class Codec:
    """The readers and writers of every message type that was asked for."""

    def __init__(self) -> None:
        self._readers: dict[str, ReadInto] = {}
        self._writers: dict[str, Callable[[Any], str]] = {}
        self._any = AnyCodec(self.reader, self.writer)

    def reader(self, descriptor: Descriptor) -> ReadInto:
        """What reads a message of this type. Raises `UnsupportedType`."""
        name = descriptor.full_name
        known = self._readers.get(name)
        if known is not None:
            return known
        special = self._special(name)
        if special is not None:
            self._readers[name] = special[0]
            return special[0]
        reader = self._readers[name] = MessageReader(name)
        try:
            reader.fields.update({field.name: self.field_reader(field) for field in descriptor.fields})
        except UnsupportedType:
            del self._readers[name]
            raise
        return reader

    def writer(self, descriptor: Descriptor) -> Callable[[Any], str]:
        """What writes a message of this type. Raises `UnsupportedType`."""
        name = descriptor.full_name
        known = self._writers.get(name)
        if known is not None:
            return known
        special = self._special(name)
        if special is not None:
            self._writers[name] = special[1]
            return special[1]
        writer = self._writers[name] = MessageWriter()
        try:
            writer.fields = tuple(self._field_writer(field) for field in descriptor.fields)
        except UnsupportedType:
            del self._writers[name]
            raise
        return writer

    def value_writer(self, field: FieldDescriptor) -> Callable[[Any], str]:
        """Writes the value of one field of a message, without its name: a `response_body`."""
        return self._value_writer(field)

    def _special(self, name: str) -> tuple[ReadInto, Callable[[Message], str]] | None:
        if name in WELL_KNOWN:
            return WELL_KNOWN[name]
        if name == _ANY:
            return self._any.read, self._any.write
        if name.startswith(_WELL_KNOWN_PACKAGE) and name != "google.protobuf.Empty":
            raise UnsupportedType(f"{name} has no form in this dialect")
        return None

    def field_reader(self, field: FieldDescriptor) -> ReadInto:
        """What reads a value into one field of a message that is given."""
        if _is_map(field):
            read = self._map_reader(field)
        elif field.is_repeated:
            read = self._list_reader(field)
        elif field.message_type is not None:
            read = _message_setter(field.name, self.reader(field.message_type))
        else:
            read = _scalar_setter(field.name, scalar_reader(field))
        if field.containing_oneof is not None and not _is_optional(field):
            return _only_member(field.name, field.containing_oneof.name, read)
        return read

    def _map_reader(self, field: FieldDescriptor) -> ReadInto:
        value_field = _map_value(field)
        if value_field.message_type is not None:
            return _message_map_reader(field.name, self.reader(value_field.message_type))
        return _scalar_map_reader(field.name, scalar_reader(value_field))

    def _list_reader(self, field: FieldDescriptor) -> ReadInto:
        if field.message_type is not None:
            return _message_list_reader(field.name, self.reader(field.message_type))
        return _scalar_list_reader(field.name, scalar_reader(field))

    def _field_writer(self, field: FieldDescriptor) -> FieldWriter:
        name, head = field.name, f"{quoted(field.name)}:"
        write = self._value_writer(field)
        if field.enum_type is not None and not field.is_repeated:
            return _enum_field_writer(name, head, write)
        if field.has_presence:
            return lambda message: head + write(message) if message.HasField(name) else ""
        return lambda message: head + write(message)

    def _value_writer(self, field: FieldDescriptor) -> Callable[[Any], str]:
        name = field.name
        if _is_map(field):
            value_field = _map_value(field)
            write_entry = self._item_writer(value_field)

            def write_map(message: Any) -> str:
                entries = sorted(getattr(message, name).items())
                return "{" + ",".join([f"{quoted(key)}:{write_entry(value)}" for key, value in entries]) + "}"

            return write_map
        write_item = self._item_writer(field)
        if field.is_repeated:
            return lambda message: "[" + ",".join(map(write_item, getattr(message, name))) + "]"
        return lambda message: write_item(getattr(message, name))

    def _item_writer(self, field: FieldDescriptor) -> Write:
        return scalar_writer(field) if field.message_type is None else self.writer(field.message_type)


def _is_map(field: FieldDescriptor) -> bool:
    return bool(
        field.is_repeated and field.message_type is not None and field.message_type.GetOptions().map_entry
    )


def _map_value(field: FieldDescriptor) -> FieldDescriptor:
    assert field.message_type is not None
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    if key.type != FieldDescriptor.TYPE_STRING:
        raise UnsupportedType(f"{field.full_name}: the keys of a map must be strings")
    return value


def _is_optional(field: FieldDescriptor) -> bool:
    """`optional` is a oneof of one member to the descriptor."""
    oneof = field.containing_oneof
    return oneof is not None and len(oneof.fields) == 1 and oneof.name == f"_{field.name}"


def _scalar_setter(name: str, read: Read) -> ReadInto:
    def set_field(message: Any, value: JsonValue) -> None:
        try:
            setattr(message, name, read(value))
        except FieldError as error:
            raise error.under(name) from None
        except UnicodeError:
            raise FieldError(name, _NOT_UNICODE) from None

    return set_field


def _message_setter(name: str, read: ReadInto) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        inner = getattr(message, name)
        inner.SetInParent()
        try:
            read(inner, value)
        except FieldError as error:
            raise error.under(name) from None

    return read_field


def _scalar_list_reader(name: str, read: Read) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        items = getattr(message, name)
        for index, item in enumerate(_list(name, value)):
            try:
                items.append(read(item))
            except FieldError as error:
                raise error.under(f"{name}[{index}]") from None
            except UnicodeError:
                raise FieldError(f"{name}[{index}]", _NOT_UNICODE) from None

    return read_field


def _message_list_reader(name: str, read: ReadInto) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        items = getattr(message, name)
        for index, item in enumerate(_list(name, value)):
            try:
                read(items.add(), item)
            except FieldError as error:
                raise error.under(f"{name}[{index}]") from None

    return read_field


def _scalar_map_reader(name: str, read: Read) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        entries = getattr(message, name)
        for key, item in _entries(name, value):
            try:
                entries[key] = read(item)
            except FieldError as error:
                raise error.under(f"{name}.{_printable(key)}") from None
            except UnicodeError:
                raise FieldError(name, _NOT_UNICODE) from None

    return read_field


def _message_map_reader(name: str, read: ReadInto) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        entries = getattr(message, name)
        for key, item in _entries(name, value):
            try:
                read(entries[key], item)
            except FieldError as error:
                raise error.under(f"{name}.{_printable(key)}") from None
            except UnicodeError:
                raise FieldError(name, _NOT_UNICODE) from None

    return read_field


def _only_member(name: str, oneof: str, read: ReadInto) -> ReadInto:
    def read_field(message: Any, value: JsonValue) -> None:
        other = message.WhichOneof(oneof)
        if other is not None:
            raise FieldError(name, f"excludes {other}")
        read(message, value)

    return read_field


def _enum_field_writer(name: str, head: str, write: Callable[[Any], str]) -> FieldWriter:
    return lambda message: head + write(message) if getattr(message, name) else ""


def _list(name: str, value: JsonValue) -> list[JsonValue]:
    if type(value) is not list:
        raise FieldError(name, f"must be an array, not {kind_of(value)}")
    return value


def _entries(name: str, value: JsonValue) -> Any:
    if type(value) is not dict:
        raise _not_an_object(value).under(name)
    return value.items()


def _not_an_object(value: JsonValue) -> FieldError:
    if type(value) is AmbiguousObject:
        return FieldError(_printable(value.key), "is given twice")
    return FieldError("", f"must be an object, not {kind_of(value)}")


def _printable(key: str) -> str:
    """A key of the caller's, fit for an error: it may be long, and hold what UTF-8 cannot."""
    return key[:_LONGEST_KEY].encode("utf-8", "replace").decode("utf-8")


_LONGEST_KEY: Final = 64
_NOT_UNICODE: Final = "must be Unicode text"
