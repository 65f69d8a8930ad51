"""Builds the request message out of body, path, query and headers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from gateway_http.codec import Codec, FieldError, JsonValue, Number, parse
from gateway_http.codec.json_text import NUMBER
from gateway_http.codec.scalars import WELL_KNOWN, ReadInto
from gateway_http.http_rules import WHOLE, HttpRule

IDEMPOTENCY_KEY: Final = b"idempotency-key"
LAST_EVENT_ID: Final = b"last-event-id"

_NUMBERS: Final = frozenset(
    {
        FieldDescriptor.CPPTYPE_INT32,
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_INT64,
        FieldDescriptor.CPPTYPE_UINT64,
    }
)
_BOOLEANS: Final[Mapping[str, bool]] = {"true": True, "false": False}

FromText = Callable[[str], JsonValue]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A field that a query or a path names, by its dotted path."""

    name: str
    field: FieldDescriptor
    parents: tuple[FieldDescriptor, ...]
    from_text: FromText
    read: ReadInto

    def holder(self, message: Any) -> Any:
        """The message inside `message` that has the field."""
        for parent in self.parents:
            message = getattr(message, parent.name)
        return message

    def set(self, message: Any, texts: list[str]) -> None:
        """Sets the field. Raises `FieldError`."""
        if not self.field.is_repeated and len(texts) > 1:
            raise FieldError(self.name, "is given twice")
        try:
            values = [self.from_text(text) for text in texts]
            self.read(self.holder(message), values if self.field.is_repeated else values[0])
        except FieldError as error:
            # The reader names the field itself, not what it lies in.
            description = error.description
            raise FieldError(self.name, description) from None


def parameters_of(codec: Codec, descriptor: Descriptor) -> dict[str, Parameter]:
    """Everything that a query can name in a message: scalars, well-known types, repeated scalars, and these
    inside singular messages."""
    found: dict[str, Parameter] = {}
    _collect(codec, descriptor, (), found)
    return found


def _collect(
    codec: Codec,
    descriptor: Descriptor,
    parents: tuple[FieldDescriptor, ...],
    found: dict[str, Parameter],
) -> None:
    for field in descriptor.fields:
        inner = field.message_type
        if inner is None or inner.full_name in WELL_KNOWN:
            name = ".".join((*(parent.name for parent in parents), field.name))
            found[name] = Parameter(name, field, parents, _from_text(field), codec.field_reader(field))
        elif not field.is_repeated and all(parent.message_type != inner for parent in parents):
            _collect(codec, inner, (*parents, field), found)


def _from_text(field: FieldDescriptor) -> FromText:
    inner = field.message_type
    if field.cpp_type in _NUMBERS or (inner is not None and inner.full_name == "google.type.Decimal"):
        return _number
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _boolean
    return str


def _number(text: str) -> Number:
    if not NUMBER.fullmatch(text):
        raise FieldError("", "must be a number")
    return Number(text)


def _boolean(text: str) -> bool:
    value = _BOOLEANS.get(text)
    if value is None:
        raise FieldError("", "must be true or false")
    return value


class RequestBinding:
    """Builds the requests of one rpc under one HTTP rule."""

    __slots__ = ("_body", "_new", "_path", "_query", "_reads_headers", "headers", "parameters", "takes_body")

    def __init__(self, codec: Codec, method: MethodDescriptor, rule: HttpRule) -> None:
        """Raises `ValueError` when the rule names a field that the request does not have."""
        descriptor = method.input_type
        self._new: Callable[[], Message] = message_factory.GetMessageClass(descriptor)
        parameters = parameters_of(codec, descriptor)
        self._path = {
            variable.name: _path_parameter(method, parameters, variable.name)
            for variable in rule.template.variables
        }
        self.takes_body = bool(rule.body)
        self._body = _body_reader(codec, method, rule.body)
        self._query = {} if rule.body == WHOLE else _unbound(parameters, self._path, rule.body)
        header = _header_of(method, rule)
        self._reads_headers = None if header is None else _HEADER_READERS[header]
        self.headers: tuple[bytes, ...] = () if header is None else (header,)
        """Headers that set a field."""
        self.parameters: tuple[Parameter, ...] = tuple(self._query.values())
        """What the query may name."""

    def build(
        self, variables: Mapping[str, str], query: bytes, body: bytes, headers: Mapping[bytes, bytes]
    ) -> Message:
        """The request. Raises `FieldError` and `MalformedJson`.

        An empty body is an empty object.
        """
        message = self._new()
        if body and self._body is not None:
            self._body(message, parse(body))
        for name, text in variables.items():
            self._set_from_path(message, self._path[name], text)
        if query:
            self._set_from_query(message, query)
        if self._reads_headers is not None:
            self._reads_headers(message, headers)
        return message

    def _set_from_path(self, message: Message, parameter: Parameter, text: str) -> None:
        holder, name = parameter.holder(message), parameter.field.name
        before = getattr(holder, name)
        parameter.set(message, [text])
        if before and before != getattr(holder, name):
            raise FieldError(parameter.name, "differs between the body and the path")

    def _set_from_query(self, message: Message, query: bytes) -> None:
        try:
            pairs = parse_qsl(
                query.decode("ascii"), keep_blank_values=True, strict_parsing=True, errors="strict"
            )
        except ValueError:
            raise FieldError("", "the query is not a list of name=value in percent-encoded UTF-8") from None
        texts: dict[str, list[str]] = {}
        for name, text in pairs:
            texts.setdefault(name, []).append(text)
        for name, values in texts.items():
            parameter = self._query.get(name)
            if parameter is None:
                raise FieldError(name[:64], "is not a parameter of this call")
            parameter.set(message, values)


def _path_parameter(method: MethodDescriptor, parameters: Mapping[str, Parameter], name: str) -> Parameter:
    parameter = parameters.get(name)
    if parameter is None or parameter.field.is_repeated or parameter.field.message_type is not None:
        raise ValueError(f"{method.full_name}: the path names {name}, which is no scalar field")
    return parameter


def _body_reader(codec: Codec, method: MethodDescriptor, body: str) -> ReadInto | None:
    if not body:
        return None
    if body == WHOLE:
        return codec.reader(method.input_type)
    field = method.input_type.fields_by_name.get(body)
    if field is None:
        raise ValueError(f"{method.full_name}: the body is {body}, which is no field")
    return codec.field_reader(field)


def _unbound(
    parameters: Mapping[str, Parameter], path: Mapping[str, Parameter], body: str
) -> dict[str, Parameter]:
    return {
        name: parameter
        for name, parameter in parameters.items()
        if name not in path and (not body or name.partition(".")[0] != body)
    }


def _header_of(method: MethodDescriptor, rule: HttpRule) -> bytes | None:
    fields = method.input_type.fields_by_name
    if method.server_streaming and "after_sequence" in fields:
        return LAST_EVENT_ID
    if rule.method == "POST" and rule.body and "client_order_id" in fields:
        return IDEMPOTENCY_KEY
    return None


def _take_idempotency_key(message: Any, headers: Mapping[bytes, bytes]) -> None:
    """`Idempotency-Key` is the client order id; the body may repeat it, not contradict it."""
    key = headers.get(IDEMPOTENCY_KEY)
    if not key:
        return
    text = key.decode("latin-1")
    if message.client_order_id not in ("", text):
        raise FieldError("client_order_id", "differs between the body and the header Idempotency-Key")
    message.client_order_id = text


def _resume(message: Any, headers: Mapping[bytes, bytes]) -> None:
    """`Last-Event-ID` wins over the query: a browser repeats the first address when it reconnects."""
    last = headers.get(LAST_EVENT_ID)
    if not last:
        return
    text = last.decode("latin-1")
    if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise FieldError("after_sequence", "must be a sequence number in the header Last-Event-ID")
    message.after_sequence = int(text)
    if hasattr(message, "live_only"):
        message.live_only = False


_HEADER_READERS: Final[Mapping[bytes, Callable[[Any, Mapping[bytes, bytes]], None]]] = {
    IDEMPOTENCY_KEY: _take_idempotency_key,
    LAST_EVENT_ID: _resume,
}
