"""The `google.api.http` annotations of a service."""

from dataclasses import dataclass
from typing import Any, Final

from google.api import annotations_pb2
from google.protobuf.descriptor import MethodDescriptor

from gateway_http.templates import Template, parse

WHOLE: Final = "*"
"""`body: "*"`: the body is the whole request."""

_PATTERNS: Final = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One way to call an rpc by HTTP."""

    method: str
    template: Template
    body: str
    """Field that the body is read into, `*` for the whole request, empty for none."""
    response_body: str
    """Field that the answer consists of; empty: the whole response."""


def rules_of(method: MethodDescriptor) -> list[HttpRule]:
    """The rule of an rpc and its additional bindings; none when it is not annotated.

    Raises `BadTemplate`, and `ValueError` for a rule without a pattern.
    """
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return []
    rule = options.Extensions[annotations_pb2.http]
    return [_rule(method, one) for one in (rule, *rule.additional_bindings)]


def _rule(method: MethodDescriptor, rule: Any) -> HttpRule:
    pattern = rule.WhichOneof("pattern")
    if pattern in _PATTERNS:
        verb, path = pattern.upper(), getattr(rule, pattern)
    elif pattern == "custom":
        verb, path = rule.custom.kind, rule.custom.path
    else:
        raise ValueError(f"{method.full_name}: its google.api.http rule has no pattern")
    return HttpRule(verb, parse(path), rule.body, rule.response_body)
