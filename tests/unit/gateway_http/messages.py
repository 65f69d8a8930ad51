"""Hypothesis strategies of whole messages, made from their descriptors."""

from typing import Any

from google.protobuf import any_pb2, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from hypothesis import strategies as st

from trade2026.oms.v1 import order_pb2, reconciliation_service_pb2
from trade2026.risk.v1 import risk_pb2

CONTRACT_MESSAGES: tuple[Descriptor, ...] = tuple(
    message
    for module in (risk_pb2, order_pb2, reconciliation_service_pb2)
    for message in module.DESCRIPTOR.message_types_by_name.values()
)
"""Every message type of the contracts."""

_DETAILS = (
    error_details_pb2.ErrorInfo.DESCRIPTOR,
    error_details_pb2.BadRequest.DESCRIPTOR,
    error_details_pb2.RetryInfo.DESCRIPTOR,
)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def new(descriptor: Descriptor) -> Any:
    return message_factory.GetMessageClass(descriptor)()


def decimal_texts() -> st.SearchStrategy[str]:
    digits = st.integers(0, 10**40).map(str)
    fractions = st.just("") | st.text("0123456789", min_size=1, max_size=25).map(lambda text: f".{text}")
    exponents = st.sampled_from(["", "", "", "e2", "E-7", "e+30"])
    return st.builds(
        lambda sign, *parts: sign + "".join(parts), st.sampled_from(["", "-"]), digits, fractions, exponents
    )


@st.composite
def messages(draw: st.DrawFn, descriptor: Descriptor) -> Any:
    """A message of the type with any of its fields set, to any value that JSON can say."""
    message = new(descriptor)
    if descriptor.full_name == "google.type.Decimal":
        message.value = draw(decimal_texts())
    elif descriptor.full_name == "google.protobuf.Timestamp":
        message.seconds = draw(st.integers(-62135596800, 253402300799))
        message.nanos = draw(st.integers(0, 999_999_999))
    elif descriptor.full_name == "google.protobuf.Duration":
        seconds = draw(st.integers(-315_576_000_000, 315_576_000_000))
        nanos = draw(st.integers(0, 999_999_999)) if abs(seconds) < 315_576_000_000 else 0
        message.seconds, message.nanos = seconds, -nanos if seconds < 0 else nanos
    elif descriptor.full_name == "google.protobuf.FieldMask":
        message.paths.extend(draw(st.lists(st.from_regex(r"[a-z_.]{1,20}", fullmatch=True), max_size=3)))
    elif descriptor.full_name == "google.protobuf.Any":
        inner = draw(messages(draw(st.sampled_from(_DETAILS))))
        message.CopyFrom(packed(inner))
    else:
        _fill(draw, message, descriptor)
    return message


def packed(message: Message) -> any_pb2.Any:
    """`message` in an Any, its maps in a fixed order."""
    return any_pb2.Any(
        type_url=f"type.googleapis.com/{message.DESCRIPTOR.full_name}",
        value=message.SerializeToString(deterministic=True),
    )


def _fill(draw: st.DrawFn, message: Any, descriptor: Descriptor) -> None:
    for field in descriptor.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value = field.message_type.fields_by_name["value"]
            for key in draw(st.lists(st.text(max_size=8), max_size=3)):
                if value.message_type is None:
                    getattr(message, field.name)[key] = draw(_scalars(value))
                else:
                    getattr(message, field.name)[key].CopyFrom(draw(messages(value.message_type)))
        elif field.is_repeated:
            kind = messages(field.message_type) if field.message_type is not None else _scalars(field)
            getattr(message, field.name).extend(draw(st.lists(kind, max_size=2)))
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(draw(messages(field.message_type)))
        else:
            setattr(message, field.name, draw(_scalars(field)))


def _scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values if value.number])
    if field.cpp_type in _RANGES:
        return st.integers(*_RANGES[field.cpp_type])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    return st.text(max_size=12)
