"""The OpenAPI 3.1 document of a gateway, from the descriptors and the comments of the contracts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from gateway_http.comments import COMMENTS
from gateway_http.endpoints import BATCH, MAX_BATCH_BYTES, MAX_BODY_BYTES
from gateway_http.http_rules import WHOLE, HttpRule
from gateway_http.request_binding import IDEMPOTENCY_KEY, LAST_EVENT_ID, Parameter
from gateway_http.schemas import STATUS, Schema, Schemas, is_required
from gateway_http.templates import Template, Variable

VERSION: Final = "3.1.1"
_DISTRIBUTION: Final = "trade2026"
_STATUS_REFERENCE: Final[Schema] = {"$ref": f"#/components/schemas/{STATUS}"}
_EVENTS: Final = (
    "Server-sent events: `id` is the sequence number, `event` the name of the member that is set, `data` the "
    "object below on one line. An `error` event carries a Status and ends the stream."
)
_DIALECT: Final = (
    "Numbers carry their exact text in both directions. Unknown members, other types than the schema's, null "
    "and repeated keys are errors."
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One rpc under one HTTP rule."""

    service: ServiceDescriptor
    method: MethodDescriptor
    rule: HttpRule
    parameters: tuple[Parameter, ...]
    """What the query may name."""
    headers: tuple[bytes, ...]
    """Headers that set a field."""


def document(title: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """The document; `operations` in the order in which they shall stand."""
    schemas = Schemas()
    paths: dict[str, dict[str, Any]] = {}
    ids: dict[str, int] = {}
    for operation in operations:
        name = f"{operation.service.name}_{operation.method.name}"
        ids[name] = ids.get(name, 0) + 1
        item = paths.setdefault(_path(operation.rule.template), {})
        item[operation.rule.method.lower()] = {
            "operationId": name if ids[name] == 1 else f"{name}_{ids[name]}",
            "tags": [operation.service.name],
            **_described(operation),
            **_input(schemas, operation),
            "responses": _responses(schemas, operation),
        }
    paths["/health"] = _probe(
        "Health", "Whether the service can do its work.", {"200": "Healthy or degraded.", "503": "Unhealthy."}
    )
    paths["/live"] = _probe("Liveness", "Whether the process answers at all.", {"200": "It does."})
    services = {operation.service.name: operation.service.full_name for operation in operations}
    return {
        "openapi": VERSION,
        "info": {"title": title, "version": _version(), "description": _DIALECT},
        "tags": [
            {"name": name, "description": COMMENTS.get(full_name, "")} for name, full_name in services.items()
        ],
        "paths": paths,
        "components": {"schemas": dict(sorted(schemas.components.items()))},
    }


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0"


def _path(template: Template) -> str:
    parts = [f"{{{part.name}}}" if isinstance(part, Variable) else part for part in template.segments]
    return "/" + "/".join(parts) + (f":{template.verb}" if template.verb else "")


def _described(operation: Operation) -> dict[str, str]:
    comment = COMMENTS.get(operation.method.full_name, "")
    summary = comment.replace("\n", " ").partition(". ")[0].removesuffix(".")
    return {"summary": summary or operation.method.name, "description": comment}


def _input(schemas: Schemas, operation: Operation) -> dict[str, Any]:
    request, rule = operation.method.input_type, operation.rule
    bound = {variable.name for variable in rule.template.variables}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in sorted(bound)
    ]
    parameters += [_query_parameter(schemas, parameter) for parameter in operation.parameters]
    parameters += [_HEADERS[header] for header in operation.headers]
    found: dict[str, Any] = {"parameters": parameters} if parameters else {}
    if rule.body:
        schema = (
            schemas.message(request, request=True)
            if rule.body == WHOLE
            else schemas.field(request.fields_by_name[rule.body], request=True)
        )
        limit = MAX_BATCH_BYTES if rule.template.verb == BATCH else MAX_BODY_BYTES
        found["requestBody"] = {
            "required": True,
            "description": f"At most {limit} bytes.",
            "content": {"application/json": {"schema": schema}},
        }
    return found


def _query_parameter(schemas: Schemas, parameter: Parameter) -> dict[str, Any]:
    schema = schemas.field(parameter.field, request=True)
    description = schema.pop("description", "")
    return {
        "name": parameter.name,
        "in": "query",
        "required": not parameter.parents and is_required(parameter.field),
        "description": description,
        "schema": schema,
    }


_HEADERS: Final[dict[bytes, dict[str, Any]]] = {
    IDEMPOTENCY_KEY: {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "The same as `client_order_id` in the body; an error when both are given and differ.",
        "schema": {"type": "string"},
    },
    LAST_EVENT_ID: {
        "name": "Last-Event-ID",
        "in": "header",
        "required": False,
        "description": "Continues after this event; takes the place of `after_sequence` and `live_only`.",
        "schema": {"type": "integer", "format": "uint64", "minimum": 0},
    },
}


def _responses(schemas: Schemas, operation: Operation) -> dict[str, Any]:
    response, rule = operation.method.output_type, operation.rule
    schema = (
        schemas.field(response.fields_by_name[rule.response_body])
        if rule.response_body
        else schemas.message(response)
    )
    streams = operation.method.server_streaming
    return {
        "200": {
            "description": _EVENTS if streams else COMMENTS.get(response.full_name, "OK"),
            "content": {"text/event-stream" if streams else "application/json": {"schema": schema}},
        },
        "default": {
            "description": "The request failed; the HTTP status follows from the code as in grpc-gateway.",
            "content": {"application/json": {"schema": _STATUS_REFERENCE}},
        },
    }


def _probe(summary: str, description: str, answers: dict[str, str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"status": {"type": "string"}}, "required": ["status"]}
    return {
        "get": {
            "operationId": summary,
            "tags": ["Probes"],
            "summary": summary,
            "description": description,
            "responses": {
                status: {"description": text, "content": {"application/json": {"schema": schema}}}
                for status, text in answers.items()
            },
        }
    }
