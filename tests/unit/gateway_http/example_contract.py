"""A contract with everything that `google.api.http` allows and ours do not use, built without a file."""

from typing import Any

from google.api import annotations_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

_FIELD = descriptor_pb2.FieldDescriptorProto
PACKAGE = "example.v1"


def method(
    name: str,
    http: dict[str, Any] | None,
    request: str = "Request",
    response: str = "Thing",
    idempotency_level: int = 0,
) -> Any:
    """An rpc; `http` are the fields of its `google.api.HttpRule`."""
    rpc: Any = descriptor_pb2.MethodDescriptorProto(
        name=name, input_type=f".{PACKAGE}.{request}", output_type=f".{PACKAGE}.{response}"
    )
    if idempotency_level:
        rpc.options.idempotency_level = idempotency_level
    if http is not None:
        rule = rpc.options.Extensions[annotations_pb2.http]
        for key, value in http.items():
            if key == "custom":
                rule.custom.kind, rule.custom.path = value
            elif key == "additional_bindings":
                for one in value:
                    rule.additional_bindings.add(**one)
            else:
                setattr(rule, key, value)
        rule.SetInParent()
    return rpc


def service(*methods: Any) -> ServiceDescriptor:
    """A service of these methods, in a descriptor pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto",
        package=PACKAGE,
        syntax="proto3",
        dependency=[
            "google/type/decimal.proto",
            "google/protobuf/timestamp.proto",
            "google/api/annotations.proto",
        ],
    )
    thing = file.message_type.add(name="Thing")
    _field(thing, "name", _FIELD.TYPE_STRING)
    _field(thing, "size", _FIELD.TYPE_INT64)
    request = file.message_type.add(name="Request")
    _field(request, "parent", _FIELD.TYPE_STRING)
    _field(request, "thing", _FIELD.TYPE_MESSAGE, f".{PACKAGE}.Thing")
    _field(request, "tags", _FIELD.TYPE_STRING, repeated=True)
    _field(request, "numbers", _FIELD.TYPE_UINT32, repeated=True)
    _field(request, "amount", _FIELD.TYPE_MESSAGE, ".google.type.Decimal")
    _field(request, "since", _FIELD.TYPE_MESSAGE, ".google.protobuf.Timestamp")
    _field(request, "things", _FIELD.TYPE_MESSAGE, f".{PACKAGE}.Thing", repeated=True)
    _field(request, "secret", _FIELD.TYPE_BYTES)
    _field(request, "dry", _FIELD.TYPE_BOOL)
    floating = file.message_type.add(name="Floating")
    _field(floating, "value", _FIELD.TYPE_DOUBLE)
    file.service.add(name="ExampleService", method=methods)
    pool = descriptor_pool.DescriptorPool()
    for dependency in ("google/protobuf/descriptor.proto", "google/api/http.proto", *file.dependency):
        proto = descriptor_pb2.FileDescriptorProto()
        descriptor_pool.Default().FindFileByName(dependency).CopyToProto(proto)
        pool.Add(proto)
    pool.Add(file)
    return pool.FindServiceByName(f"{PACKAGE}.ExampleService")


def only_method(name: str, http: dict[str, Any] | None, **options: Any) -> MethodDescriptor:
    """The one method of a service."""
    return service(method(name, http, **options)).methods[0]


def _field(message: Any, name: str, kind: Any, type_name: str = "", *, repeated: bool = False) -> None:
    message.field.add(
        name=name,
        number=len(message.field) + 1,
        type=kind,
        type_name=type_name or None,
        label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
    )
