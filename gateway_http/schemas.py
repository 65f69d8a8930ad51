"""JSON Schemas of the messages in the published dialect, with the comments of the contracts."""

import re
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway_http.codec.names import prefix_of, short_names
from gateway_http.comments import COMMENTS

Schema = dict[str, Any]

_REFERENCES: Final = "#/components/schemas/"
_REQUIRED: Final = re.compile(r"(?:^|\. )Required[.;]")
"""How the comment of a field says that a request must have it."""

_INTEGERS: Final[dict[int, Schema]] = {
    FieldDescriptor.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    FieldDescriptor.CPPTYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    FieldDescriptor.CPPTYPE_INT64: {"type": "integer", "format": "int64"},
    FieldDescriptor.CPPTYPE_UINT64: {"type": "integer", "format": "uint64", "minimum": 0},
}
_SPECIAL: Final[dict[str, Schema]] = {
    "google.type.Decimal": {"type": "number"},
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": "^-?[0-9]+(\\.[0-9]{1,9})?s$"},
    "google.protobuf.FieldMask": {"type": "string", "description": "Names separated by commas."},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}
STATUS: Final = "Status"
_STATUS_SCHEMA: Final[Schema] = {
    "type": "object",
    "description": "Why a request failed.",
    "properties": {
        "code": {
            "type": "integer",
            "format": "int32",
            "description": "google.rpc.Code, not an HTTP status.",
        },
        "message": {"type": "string", "description": "A sentence for people."},
        "details": {
            "type": "array",
            "items": _SPECIAL["google.protobuf.Any"],
            "description": "`google.rpc.ErrorInfo` always, `BadRequest` naming the fields and `RetryInfo` "
            "where they apply; `@type` tells which.",
        },
    },
    "required": ["code", "message", "details"],
}


class Schemas:
    """Collects the schemas that are referred to."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {STATUS: _STATUS_SCHEMA}
        self._names: dict[str, str] = {"google.rpc.Status": STATUS}

    def message(self, descriptor: Descriptor, *, request: bool = False) -> Schema:
        """A reference to the schema of a message, or the schema of a well-known type.

        `request`: members are required when their comment says so; else when they are always printed.
        """
        special = _SPECIAL.get(descriptor.full_name)
        if special is not None:
            return dict(special)
        known = self._names.get(descriptor.full_name)
        if known is None:
            known = self._name(descriptor)
            self.components[known] = {}
            self.components[known] = self._object(descriptor, request)
        return {"$ref": _REFERENCES + known}

    def field(self, field: FieldDescriptor, *, request: bool = False) -> Schema:
        """The schema of a field's value, with its comment."""
        schema = self._value(field, request)
        comment = COMMENTS.get(field.full_name)
        return {**schema, "description": comment} if comment else schema

    def _value(self, field: FieldDescriptor, request: bool) -> Schema:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            return {"type": "object", "additionalProperties": self._item(value, request)}
        item = self._item(field, request)
        return {"type": "array", "items": item} if field.is_repeated else item

    def _item(self, field: FieldDescriptor, request: bool) -> Schema:
        if field.message_type is not None:
            return self.message(field.message_type, request=request)
        if field.enum_type is not None:
            return self._enum(field.enum_type)
        if field.cpp_type in _INTEGERS:
            return dict(_INTEGERS[field.cpp_type])
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            return {"type": "boolean"}
        if field.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        return {"type": "string"}

    def _object(self, descriptor: Descriptor, request: bool) -> Schema:
        schema: Schema = {"type": "object"}
        if descriptor.full_name in COMMENTS:
            schema["description"] = COMMENTS[descriptor.full_name]
        schema["properties"] = {field.name: self.field(field, request=request) for field in descriptor.fields}
        required = [field.name for field in descriptor.fields if _is_required(field, request)]
        if required:
            schema["required"] = required
        if request:
            schema["additionalProperties"] = False
        return schema

    def _enum(self, enum: EnumDescriptor) -> Schema:
        known = self._names.get(enum.full_name)
        if known is None:
            known = self._name(enum)
            names = short_names(enum)
            prefix = prefix_of(enum.name)
            lines = [COMMENTS.get(enum.full_name, "")]
            lines += [
                f"- `{name}`: {COMMENTS.get(f'{enum.full_name}.{prefix}{name.upper()}', '')}"
                for name in names
            ]
            self.components[known] = {
                "type": "string",
                "enum": list(names),
                "description": "\n".join(line for line in lines if line),
            }
        return {"$ref": _REFERENCES + known}

    def _name(self, descriptor: Descriptor | EnumDescriptor) -> str:
        """The short name, or the full one when another package has taken it."""
        name = descriptor.name if descriptor.name not in self.components else descriptor.full_name
        self._names[descriptor.full_name] = name
        return name


def is_required(field: FieldDescriptor) -> bool:
    """Whether the comment says that a request must have the field."""
    return bool(_REQUIRED.search(COMMENTS.get(field.full_name, "")))


def _is_required(field: FieldDescriptor, request: bool) -> bool:
    if request:
        return is_required(field)
    return field.is_repeated or not (field.has_presence or field.enum_type is not None)
